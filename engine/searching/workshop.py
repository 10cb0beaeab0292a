"""Making and evaluating the candidates of a generation: one after another, or several at once.

Candidates are merged one at a time, on the calling thread. Each is evaluated on a thread of its own, which puts the
outcome into the journal as soon as it is known, so that a kill loses only what was not evaluated yet.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from dovetail.engine.errors import OutputError, RecipeError
from dovetail.engine.searching.candidates import Maker
from dovetail.engine.searching.command import ask_all, end_all
from dovetail.engine.searching.evaluations import Evaluation, failed, read_result
from dovetail.engine.searching.journal import SearchJournal
from dovetail.engine.searching.options import SearchOptions
from dovetail.engine.searching.record import Candidate
from dovetail.io.files.interrupts import check_interrupts

Evaluator = Callable[[Any], Any]
"""Evaluates a candidate: its folder, or its tensors."""

_POLL_S: Final = 0.1
"""Seconds between two looks whether somebody asks to stop."""
_END_S: Final = 2.0
"""Seconds that evaluators have to end by themselves."""
_KILL_S: Final = 10.0
"""Seconds that the system has to end them: one that waits for a broken disk may never end."""


@dataclass(slots=True)
class Workshop:
    """Evaluates the candidates of one search."""

    maker: Maker
    """Makes candidates."""
    evaluator: Evaluator
    """Evaluates them; a function of the caller's, or a command."""
    options: SearchOptions
    """What evaluators are given, and whether folders are kept."""
    most: int
    """Most candidates that are there at once."""
    journal: SearchJournal
    """Receives every outcome."""
    tell: Callable[[Candidate, Evaluation], None]
    """Told of every candidate that was evaluated now, on the calling thread."""
    _done: queue.SimpleQueue[tuple[Candidate, Evaluation | BaseException]] = field(default_factory=queue.SimpleQueue)
    _running: dict[int, threading.Thread] = field(default_factory=dict)
    _writing: Any = field(default_factory=threading.Lock)
    _stopping: bool = False

    def evaluate(self, candidates: Sequence[Candidate]) -> list[Evaluation]:
        """Evaluate those candidates that no earlier run has evaluated; give the outcome of all, in their order.

        Raises
        ------
        OutputError
            An earlier run asked for other candidates.
        DovetailError
            A candidate cannot be merged for a reason that lies in no parameter.
        KeyboardInterrupt
            Somebody asks to stop; no evaluator runs any more.

        """
        try:
            for candidate in candidates:
                if candidate.number in self.journal.found:
                    self._check(candidate)
                    continue
                while len(self._running) >= self.most:
                    self._collect()
                self._begin(candidate)
            while self._running:
                self._collect()
        except BaseException:
            self._stop()
            raise
        return [self.journal.found[candidate.number][1] for candidate in candidates]

    def _check(self, candidate: Candidate) -> None:
        before = self.journal.found[candidate.number][0]
        if before != candidate.values:
            raise OutputError(
                f"unfinished search {self.maker.folder.parent} cannot be continued: candidate {candidate.number} had "
                f"the values {list(before)} and would have {list(candidate.values)}",
                "the same versions of the libraries as before",
                "restore them, or pass --restart to begin anew",
            )

    def _begin(self, candidate: Candidate) -> None:
        """Merge a candidate, and begin to evaluate it."""
        check_interrupts()
        try:
            subject: Any = self._make(candidate)
        except RecipeError as error:
            outcome = failed(f"it cannot be merged: {error}")
            self._keep(candidate, outcome)
            self._clear(candidate)
            self.tell(candidate, outcome)
            return
        thread = threading.Thread(target=self._work, args=(candidate, subject), daemon=True)
        self._running[candidate.number] = thread
        thread.start()

    def _make(self, candidate: Candidate) -> Any:
        if self.options.given == "folder":
            return self.maker.make_folder(candidate.number, candidate.values).absolute()
        return self.maker.make_tensors(candidate.values, torch=self.options.given == "tensors")

    def _work(self, candidate: Candidate, subject: Any) -> None:
        """Evaluate a candidate, on a thread of its own."""
        try:
            outcome: Evaluation | BaseException = self._outcome(subject)
            assert isinstance(outcome, Evaluation)
            if self._stopping:
                return
            self._keep(candidate, outcome)
        except BaseException as error:  # of the journal; raised again where it is collected
            outcome = error
        self._done.put((candidate, outcome))

    def _outcome(self, subject: Any) -> Evaluation:
        try:
            given = self.evaluator(subject)
        except (Exception, SystemExit) as error:
            return failed(f"{type(error).__name__}: {error}".rstrip(": "))
        return given if isinstance(given, Evaluation) else read_result(given)

    def _keep(self, candidate: Candidate, outcome: Evaluation) -> None:
        with self._writing:
            self.journal.append(candidate.number, candidate.values, outcome)
            self.journal.found[candidate.number] = candidate.values, outcome

    def _collect(self) -> None:
        """Wait until a candidate has been evaluated."""
        while True:
            check_interrupts()
            with contextlib.suppress(queue.Empty):
                candidate, outcome = self._done.get(timeout=_POLL_S)
                break
        del self._running[candidate.number]
        if isinstance(outcome, BaseException):
            raise outcome
        self._clear(candidate)
        self.tell(candidate, outcome)

    def _clear(self, candidate: Candidate) -> None:
        if self.options.given == "folder" and not self.options.keep:
            self.maker.remove(candidate.number)

    def _stop(self) -> None:
        """End all evaluators that are commands, and wait for them; functions of the caller's cannot be ended."""
        self._stopping = True
        for seconds, end in ((_END_S, ask_all), (_KILL_S, end_all)):
            deadline = time.monotonic() + seconds
            while self._is_running() and time.monotonic() < deadline:
                end()
                time.sleep(0.02)

    def _is_running(self) -> bool:
        """Whether a command may still run; a thread that was only just begun may be about to start one."""
        is_command = getattr(self.evaluator, "is_command", False)
        return is_command and any(thread.is_alive() for thread in self._running.values())
