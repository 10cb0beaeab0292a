"""Making candidates: a recipe with values, merged into a folder or into memory.

The checkpoints are opened once for all candidates of a recipe of one document. A recipe of several is merged stage by
stage, as by `dovetail.engine.merge`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from dovetail.engine import events
from dovetail.engine.actions.carry_out import carry_out
from dovetail.engine.actions.finished import find_finished
from dovetail.engine.actions.forecasts import plan_stages
from dovetail.engine.actions.in_memory import merge_in_memory
from dovetail.engine.actions.merge import merge
from dovetail.engine.actions.spared import input_paths
from dovetail.engine.actions.vectors import make_vectors
from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.registry import find
from dovetail.engine.output.request import plan_request
from dovetail.engine.output.side_files import side_bytes
from dovetail.engine.output.staging import staging_path
from dovetail.engine.planning.builder import make_plan, open_checkpoints
from dovetail.engine.planning.plan import Plan, PlanOptions
from dovetail.engine.recipe.load import parse_recipe
from dovetail.engine.recipe.origin import Origin
from dovetail.engine.recipe.places import key_path
from dovetail.engine.recipe.schema import Recipe
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.searching.reading import Template, literal
from dovetail.engine.searching.space import Dimension, Value, Values
from dovetail.io.arrays import to_array, to_torch
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.files.durable import remove_folder
from dovetail.io.files.machine import available_bytes
from dovetail.io.files.smallfile import is_named

_AFTER_PRUNING: Final = frozenset(("weight", "lambda", "normalize", "rescale", "consensus"))
"""Parameters that do not decide what models keep."""

FOLDER: Final = "candidates"
"""Name of the folder of candidates."""


def must_read_again(checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether every merge of some checkpoints has to read them anew: over a network, or as they exceed free memory.

    Else the system keeps them, and a merge from a store takes as long as one of the models: making it would not pay.
    """
    return any(each.remote for each in checkpoints) or sum(each.nbytes for each in checkpoints) > available_bytes()


@dataclass(slots=True)
class Maker:
    """Makes the candidates of one search."""

    template: Template
    """The recipe with marks."""
    options: PlanOptions
    """What, with the recipe, decides a candidate's bytes."""
    run: RunOptions
    """How candidates are merged."""
    listen: events.Listener
    """Receives notices, each once."""
    folder: Path
    """Where candidates get their folders."""
    checkpoints: tuple[Checkpoint, ...] | None = None
    """The checkpoints, once they are open; None too of a recipe of several documents."""
    _said: set[str] = field(default_factory=set)
    _line: str = ""
    _stored: tuple[Checkpoint, ...] | None = None

    def open(self, recipes: Sequence[Recipe]) -> None:
        """Open the checkpoints of the recipe, whose documents are given with any values, if it is of one document."""
        if len(recipes) > 1:
            return
        self.checkpoints = tuple(open_checkpoints(recipes[0], None, self.listen))

    def plans(self, values: Values) -> tuple[Plan, ...]:
        """Plan a candidate, each of its stages that can be planned."""
        origin = self.template.filled(values)
        if self.checkpoints is None:
            return tuple(each.plan for each in plan_stages(origin, self.options) if each.plan is not None)
        return (make_plan(parse_recipe(origin), self.options, checkpoints=self.checkpoints),)

    def plan_start(self, start: Values) -> tuple[Plan, ...]:
        """Plan the start.

        Raises
        ------
        RecipeError
            The method refuses its values; the message names a mark whose bounds are wrong, if there is one.

        """
        if error := self._refusal(start):
            self.check_bounds(start)
            action = "let a mark begin elsewhere, as in {search: [1, 8], start: 2}"
            raise RecipeError(f"the start is refused: {error.what}", error.expected, action)
        return self.plans(start)

    def check_bounds(self, start: Values) -> None:
        """Plan every mark at its extremes.

        An extreme is refused if the method refuses it whether everything else is as at the start, as low as it can be,
        or as high: values that only do not go together are for the search to find out.

        Raises
        ------
        RecipeError
            The method refuses a value that is marked to be searched; the message names the mark.

        """
        dimensions = self.template.space.dimensions
        ends = [_extremes(each) or (value,) for each, value in zip(dimensions, start, strict=True)]
        beside = (start, tuple(each[0] for each in ends), tuple(each[-1] for each in ends))
        for index, dimension in enumerate(dimensions):
            for extreme in ends[index]:
                error = self._refusal((*start[:index], extreme, *start[index + 1 :]))
                if error and all(self._refusal((*each[:index], extreme, *each[index + 1 :])) for each in beside[1:]):
                    where = dimension.places[0]
                    what = f"{key_path(where)} is searched as far as {extreme}, which is refused: {error.what}"
                    raise self.template.origin.error(where, what, error.expected, "correct the bounds")

    def _refusal(self, values: Values) -> RecipeError | None:
        """Plan a candidate; give the error if its parameters are refused."""
        try:
            self.plans(values)
        except RecipeError as error:
            return error
        return None

    def store_vectors(self, start: Values, store: Path) -> None:
        """Store what the models keep, if no mark decides that and the models are too large to stay in memory.

        Candidates are then merged from less, to the same bits.

        Parameters
        ----------
        start
            Any values: what models keep is the same for all.
        store
            The folder of the store.

        Raises
        ------
        DovetailError
            As `dovetail.engine.make_vectors` does, but for recipes of which nothing can be stored: those are merged
            from their models.

        """
        origin = self.template.filled(start)
        if self.checkpoints is None or not self._is_storable(origin) or not must_read_again(self.checkpoints):
            return
        try:
            make_vectors(origin, store, self.options, self.run, self.hear)
        except RecipeError:
            return
        self._line = f"vectors: {literal(str(store.absolute()))}\n"
        self._stored = tuple(open_checkpoints(parse_recipe(self._from_store(start)), None, self.hear))

    def _is_storable(self, origin: Origin) -> bool:
        """Whether what models keep can be stored for all candidates, and is less than the models are."""
        recipe = parse_recipe(origin)
        method = find(recipe.merge_method)
        searched = {each.parameter for each in self.template.space.dimensions}
        block = re.match(r"(#.*\n|\s)*[A-Za-z_]+:", origin.text) is not None  # a line can stand before it
        prunes = method.masks is not None and method.name != "task_arithmetic"
        return prunes and block and recipe.vectors is None and searched <= _AFTER_PRUNING

    def _from_store(self, values: Values) -> Origin:
        origin = self.template.filled(values)
        return replace(origin, text=self._line + origin.text)

    def _plan(self, values: Values) -> Plan:
        """Plan a candidate of a recipe of one document, from the store if there is one."""
        if self._stored is None:
            return self.plans(values)[0]
        return make_plan(parse_recipe(self._from_store(values)), self.options, checkpoints=self._stored)

    def path(self, number: int) -> Path:
        """Give the folder of a candidate."""
        return self.folder / f"{number:05}"

    def make_folder(self, number: int, values: Values) -> Path:
        """Merge a candidate into its folder, or leave it there if an earlier run has made it."""
        path = self.path(number)
        self.folder.mkdir(exist_ok=True)
        if self.checkpoints is None:
            merge(self.template.filled(values), path, self.options, self.run, self.hear)
            return path
        plan = self._plan(values)
        if find_finished(path, plan_request(plan), input_paths(plan), self.run) is None:
            carry_out(plan, path, self.run, self.hear)
        return path

    def make_tensors(self, values: Values, *, torch: bool) -> dict[str, Any]:
        """Merge a candidate into memory; give a state dict of torch tensors or of numpy arrays."""
        plan = self._plan(values)
        convert: Callable[..., Any] = to_torch if torch else to_array
        merged = merge_in_memory(plan, self.run, self.hear)
        return {
            tensor.name: convert(data, tensor.dtype, tensor.shape)
            for tensor, data in zip(plan.tensors, merged, strict=True)
        }

    def remove(self, number: int) -> None:
        """Remove what there is of a candidate: its folder, and what an interrupted merge has left beside it."""
        path = self.path(number)
        for each in (path, staging_path(path)):
            if is_named(each):
                remove_folder(each)

    def hear(self, event: events.Event) -> None:
        """Pass notices on, each once: every candidate would say the same."""
        if isinstance(event, events.Notice) and event.text not in self._said:
            self._said.add(event.text)
            self.listen(event)


def candidate_bytes(plans: Sequence[Plan]) -> int:
    """Give the size of a candidate on the disk, in bytes; of several stages that of the last, which is kept."""
    return plans[-1].write_bytes + side_bytes(plans[-1]) if plans else 0


def _extremes(dimension: Dimension) -> tuple[Value, ...]:
    """Give the values that stand for all of a dimension when bounds are checked."""
    if dimension.kind in ("float", "int"):
        return dimension.nearest(dimension.low), dimension.nearest(dimension.high)
    return dimension.options if dimension.kind == "choice" else ()
