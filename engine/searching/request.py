"""Carrying out one search: begin or continue its working folder, find the best values, and publish what they give."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from dovetail.engine import events
from dovetail.engine.actions.merge import merge
from dovetail.engine.actions.spared import checkpoint_paths
from dovetail.engine.errors import EvaluationError, InterruptedMergeError, MemoryLimitError, RecipeError
from dovetail.engine.output.staging import discard, publish, staging_path, tidy_up
from dovetail.engine.output.target import check_disk_space, check_empty, check_target
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.recipe.schema import Recipe
from dovetail.engine.recipe.stages import load_stages
from dovetail.engine.run.journal import JOURNAL_NAME
from dovetail.engine.run.lock import LOCK_NAME, locked
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.searching.candidates import FOLDER, Maker, candidate_bytes
from dovetail.engine.searching.command import CommandEvaluator
from dovetail.engine.searching.history import (
    HISTORY_NAME,
    MODEL_NAME,
    RECIPE_NAME,
    SearchResult,
    find_search,
    history_bytes,
    make_history,
    request_hash,
    result_of,
)
from dovetail.engine.searching.journal import SearchJournal
from dovetail.engine.searching.loop import Search
from dovetail.engine.searching.moving import moved_text
from dovetail.engine.searching.objective import Objective
from dovetail.engine.searching.optimizers import make_optimizer
from dovetail.engine.searching.options import SearchOptions
from dovetail.engine.searching.reading import Template
from dovetail.engine.searching.record import Judged, best_of
from dovetail.engine.searching.space import Values
from dovetail.engine.searching.starting import equal_start, nan_start, plain_start
from dovetail.engine.searching.telling import Teller
from dovetail.engine.searching.workshop import Evaluator, Workshop
from dovetail.engine.text import counted, format_size
from dovetail.io.files.durable import remove_folder, write_durably
from dovetail.io.files.interrupts import held
from dovetail.io.files.machine import available_bytes
from dovetail.io.files.smallfile import is_named

_STORE: Final = "vectors"
"""Name of the folder, in the working folder, that has what models keep while a search goes on."""


@dataclass(slots=True)
class Request:
    """One call of `dovetail.engine.searching.search.search`, whose parameters these are."""

    template: Template
    """The recipe with marks."""
    evaluate: str | Callable[[Any], Any]
    """The evaluator."""
    output: Path
    """The folder to make."""
    how: SearchOptions
    """How the search is made."""
    options: PlanOptions
    """What decides a candidate's bytes."""
    run: RunOptions
    """How candidates are merged."""
    listen: events.Listener
    """Receives events."""

    def carry_out(self) -> SearchResult:
        """Search; see `dovetail.engine.searching.search.search` for what it raises."""
        began = time.monotonic()
        self._check_options()
        plain, staging = plain_start(self.template), staging_path(self.output)
        recipes = [stage.recipe for stage in load_stages(self.template.filled(plain), strict=self.options.strict)]
        calm = replace(self.run, overwrite=False, restart=False, memory=None)
        maker = Maker(self.template, self.options, calm, self.listen, staging / FOLDER)
        maker.open(recipes)
        plans = maker.plan_start(plain)
        identity = self._identity(plans)
        request = request_hash({**identity, "budget": self.how.budget})
        check_target(self.output, self._spared(plans), overwrite=True)
        if not self.run.overwrite and (history := find_search(self.output, request)) is not None:
            tidy_up(self.output)
            return self._told(history, began, already=True)
        if self.run.restart or not (staging / JOURNAL_NAME).exists():
            maker.check_bounds(plain)
        most = self._room(plans)
        try:
            with held(), locked(staging, self.listen):  # within, requests to stop are answered between candidates
                if not self.run.overwrite:
                    check_empty(self.output)
                if self.run.restart:
                    _clear(staging)
                with contextlib.closing(SearchJournal(staging / JOURNAL_NAME, identity)) as journal:
                    history = self._search(maker, journal, recipes, plans, most, request)
                publish(staging, self.output, overwrite=self.run.overwrite)
        except EvaluationError:
            discard(staging)  # nothing of worth is lost, and a corrected evaluator begins anew
            raise
        return self._told(history, began, already=False)

    def _check_options(self) -> None:
        is_command = isinstance(self.evaluate, str)
        if is_command and self.how.given != "folder":
            raise RecipeError(f"given is {self.how.given} for a command", "folder", "evaluate by a function")
        if not is_command and self.how.timeout_s is not None:
            raise RecipeError("timeout_s is given for a function", "a command, which can be ended", "leave it out")
        if is_command and not str(self.evaluate).strip():
            raise RecipeError("the evaluator's command is empty", "a command for the shell", "give one")
        if self.how.given != "folder" and self.template.stages > 1:
            what = f"given is {self.how.given}, and the recipe has {self.template.stages} documents"
            raise RecipeError(what, "folder, or a recipe of one document", "correct given")

    def _identity(self, plans: Sequence[Plan]) -> dict[str, Any]:
        """Describe all that must be the same for a search to be continued, or to be known as finished."""
        whole = [plan for plan in plans if not any(checkpoint.planned for checkpoint in plan.checkpoints)]
        return {
            "recipe": self.template.origin.text,
            "evaluate": self.evaluate if isinstance(self.evaluate, str) else None,
            "given": self.how.given,
            "optimizer": self.how.optimizer,
            "objective": self.how.objective,
            "start": self.how.start,
            "seed": self.how.seed,
            "budget": self.how.budget if self.how.optimizer == "grid" else None,  # which decides its points
            "plan": [plan.hash for plan in whole],
        }

    def _spared(self, plans: Sequence[Plan]) -> Iterator[Path]:
        if self.template.origin.path is not None:
            yield self.template.origin.path
        yield from checkpoint_paths(each for plan in plans for each in plan.checkpoints if not each.planned)

    def _room(self, plans: Sequence[Plan]) -> int:
        """Give how many candidates can be there at once: each evaluator is taken to hold its candidate in memory."""
        in_memory, each = self.how.given != "folder", candidate_bytes(plans)
        free = available_bytes()
        if in_memory and each > free:
            raise MemoryLimitError(
                f"a candidate takes {format_size(each)}, and {format_size(free)} of memory are free",
                "candidates that fit into memory",
                "let the evaluator read the candidate's folder",
            )
        most = max(1, min(self.how.evaluations, free // max(1, each)))
        if most < self.how.evaluations:
            text = f"Memory allows {counted(most, 'evaluation')} at once, of candidates of {format_size(each)}."
            self.listen(events.Notice("warning", text))
        return most

    def _search(
        self,
        maker: Maker,
        journal: SearchJournal,
        recipes: Sequence[Recipe],
        plans: Sequence[Plan],
        most: int,
        request: str,
    ) -> dict[str, Any]:
        """Evaluate what is left, and complete the working folder; give the history."""
        if journal.found:
            count = counted(len(journal.found), "candidate")
            self.listen(events.Notice("info", f"Continuing an unfinished search: {count} evaluated already."))
        self._prepare(maker, journal, plans, most)
        maker.store_vectors(plain_start(self.template), maker.folder.parent / _STORE)
        start = journal.found[0][0] if 0 in journal.found else self._start(maker, recipes)
        space = self.template.space
        optimizer = make_optimizer(self.how.optimizer, space, space.position(start), self.how.budget, self.how.seed)
        patient = self.how.optimizer in ("grid", "random")
        found = Search(space, start, Objective(self.how.objective), optimizer, self.how.budget, patient=patient)
        teller = Teller(space, found.objective, self.how, self.listen, journal)
        teller.begin(recipes[-1].merge_method, candidate_bytes(plans), most, maker.folder.parent)
        workshop = Workshop(maker, self._evaluator(), self.how, most, journal, teller.tell)
        try:
            stopped = found.run(workshop.evaluate)
            best = best_of(found.judged)
            assert best is not None, "the loop refuses a search of which all has failed"
            command = self.evaluate if isinstance(self.evaluate, str) else None
            method = recipes[-1].merge_method
            history = make_history(self.template, method, self.how, command, request, found, best, stopped)
            self._complete(maker, recipes, best, history)
        except KeyboardInterrupt:
            raise InterruptedMergeError(
                f"search interrupted; what {counted(len(journal.found), 'candidate')} of at most {self.how.budget} "
                f"gave is safe in {maker.folder.parent}",
                action="run the same command again to continue",
            ) from None
        return history

    def _prepare(self, maker: Maker, journal: SearchJournal, plans: Sequence[Plan], most: int) -> None:
        """Remove candidates that were evaluated, and see that the disk has room for the others."""
        if not self.how.keep:
            for number in journal.found:
                maker.remove(number)
        left = self.how.budget - len(journal.found) if self.how.keep else most
        count = 1 + (left if self.how.given == "folder" else 0)
        check_disk_space(maker.folder.parent, count * candidate_bytes(plans))

    def _start(self, maker: Maker, recipes: Sequence[Recipe]) -> Values:
        if self.how.start == "ones":
            return plain_start(self.template)
        if maker.checkpoints is None:
            what = f"the start is {self.how.start}, and the recipe has {len(recipes)} documents"
            raise RecipeError(what, "ones, or a recipe of one document", "choose another start")
        if self.how.start == "nan":
            return nan_start(self.template, recipes[0], maker.checkpoints, self.options, maker.run, maker.hear)
        (plan,) = maker.plans(plain_start(self.template))
        return equal_start(self.template, len(plan.models))

    def _evaluator(self) -> Evaluator:
        if isinstance(self.evaluate, str):
            return CommandEvaluator(self.evaluate, self.how.timeout_s)
        return self.evaluate

    def _complete(self, maker: Maker, recipes: Sequence[Recipe], best: Judged, history: dict[str, Any]) -> None:
        """Put the best recipe, its merge and the history into the working folder."""
        staging, origin = maker.folder.parent, self.template.origin
        text = moved_text(self.template.text(best.candidate.values), recipes, origin.folder, staging)
        write_durably(staging / RECIPE_NAME, text.encode())
        chosen = replace(origin, name=RECIPE_NAME, text=text, path=staging / RECIPE_NAME, has_lines=True)
        merge(chosen, staging / MODEL_NAME, self.options, maker.run, maker.hear)
        write_durably(staging / HISTORY_NAME, history_bytes(history))
        for folder in (staging / _STORE, *(() if self.how.keep else (maker.folder,))):
            if is_named(folder):
                remove_folder(folder)

    def _told(self, history: dict[str, Any], began: float, *, already: bool) -> SearchResult:
        """Report the end of the search, and give its result."""
        found = result_of(self.output, history)
        if already:
            text = f"{self.output} is this search already; nothing to do."
            self.listen(events.Notice("info", text))
        self.listen(
            events.Searched(
                output=str(self.output),
                values=found.values,
                result=found.result,
                number=history["best"],
                evaluated=found.evaluated,
                failed=history["failed"],
                stopped=found.stopped,
                seconds=time.monotonic() - began,
                already=already,
            )
        )
        return found


def _clear(staging: Path) -> None:
    """Remove everything from the working folder but its lock."""
    for path in staging.iterdir():
        if path.is_dir() and not path.is_symlink():
            remove_folder(path)
        elif path.name != LOCK_NAME:
            path.unlink()
