"""Killing processes that make parts of a merge, at random instants, for the tests and bench/parts.py.

A round starts a few processes at once and kills each after a while. Some rounds wait until a process begins to publish,
and kill it while it does. Between rounds, everything that no journal lists is overwritten with garbage, as a power
failure might do. Some outputs replace a former one, of which either must be whole at every instant.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import select
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dovetail.engine import RunOptions, convert
from dovetail.engine.actions import publish_parts
from dovetail.engine.actions.parts import laid_out
from dovetail.engine.output.staging import FORMER_NAME, staging_path
from dovetail.engine.run.parts.folder import is_divided, parts_path
from dovetail.engine.run.parts.journals import read_journals
from dovetail.engine.run.records import RecordTable
from tests.crash import CrashCase, scribble_chunks, small_tasks, tree_bytes
from tests.crash import prepare as prepare_case
from tests.nfs import Machines
from tests.parts import REFUSED, check, end, make_part, start


def refuse_lock(descriptor: object, operation: int) -> None:
    """Do as a file system without locks."""
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


@dataclass
class Tally:
    """What has happened to the processes of one case."""

    started: int = 0
    """Processes."""
    killed: int = 0
    """Of these, those that were killed."""
    refused: int = 0
    """Those that found another process at their part."""
    publishing: int = 0
    """Kills of a process that had begun to publish."""
    twice: int = 0
    """Rounds with several processes of one part."""
    mixed: int = 0
    """Rounds with several numbers of parts at once."""
    replaced: int = 0
    """Outputs that have replaced a former one."""
    crashed: int = 0
    """Machines that have failed, with what was not synced."""
    workers: int = 0
    """Kills of a worker of a cluster, or of a rank."""
    gave_up: int = 0
    """Commands that ended because a part had lost too many workers, or all were gone."""

    def add(self, other: Tally) -> None:
        """Count what has happened to another case too."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass
class Child:
    """A process of a round."""

    number: int
    """Its process."""
    part: str
    """What it makes."""
    machine: int
    """Where it runs; 0 where there are no machines."""


class Killer:
    """Kills processes that make parts of a case.

    Parameters
    ----------
    folder
        An empty folder, or one that is shared by machines.
    case
        What is made.
    seed
        Of the instants and the parts.
    counts
        Numbers of parts that a round may have; the first round has the first.
    machines
        Machines on which the processes run; None for this one.

    """

    def __init__(
        self, folder: Path, case: CrashCase, seed: int, counts: tuple[int, ...], machines: Machines | None
    ) -> None:
        self.folder, self.case, self.counts, self.machines = folder, case, counts, machines
        self.dice, self.tally, self.count = random.Random(seed), Tally(), counts[0]
        self.subject, self.expected = prepare_case(folder, case)
        self.output, self.former = folder / "output", folder / "former"
        assert 0 == end(start(lambda: convert(folder / "base", self.former)))
        self.before = tree_bytes(self.former)
        self.replaces, self.made = False, 0
        began = time.monotonic()
        self._complete(folder / "timed", 1)
        self.longest = time.monotonic() - began
        self.publishing = 0.2 * self.longest
        self._begin()

    def _begin(self) -> None:
        """Begin a new output, perhaps in place of a former one."""
        self.replaces = self.dice.random() < 0.5
        if self.replaces:
            shutil.copytree(self.former, self.output)
        if self.machines is not None:
            self.machines.settle()

    def _start(self, part: str, output: Path, tell: int | None = None) -> Child:
        """Start a process that makes a part, and writes its number into a pipe when it begins to publish."""
        machine = self.dice.randrange(self.machines.count) if self.machines is not None else 0

        def work() -> None:
            if self.machines is not None:
                self.machines.enter(machine)
            if tell is not None:
                tell_at_publishing(tell)
            make_part(self.case, self.subject, output, part, overwrite=self.replaces)

        return Child(start(work), part, machine)

    def _together(self, parts: list[str], output: Path) -> None:
        """Make parts, each of which must succeed, one after another."""
        for part in parts:
            assert 0 == end(self._start(part, output).number), f"part {part} failed by itself"

    def _complete(self, output: Path, count: int) -> None:
        """Make all that is left of an output, which must succeed."""
        self._together([f"{number}/{count}" for number in range(1, count + 1)], output)

    def round(self) -> None:
        """Start a few processes at once, kill each after a while, and look at what is left."""
        late, same, mixed = (self.dice.random() < often for often in (0.5, 0.4, 0.3))
        parts, count = [], self.count
        for _ in range(self.dice.randint(1, 3)):
            count = self.dice.choice([1, *self.counts]) if mixed else 1 if late else count
            parts.append(f"{self.dice.randint(1, count)}/{count}")
        if same:
            parts = parts[:1] * len(parts)
        self.tally.twice += len(set(parts)) < len(parts)
        self.tally.mixed += len({part.partition("/")[2] for part in parts}) > 1
        reader, writer = os.pipe()
        children = [self._start(part, self.output, writer) for part in parts]
        self.tally.started += len(children)
        if late:
            self._kill_publisher(children, reader)
        while children:
            time.sleep(self.dice.random() ** 2 * self.longest)
            self._kill(children.pop(0), children)
        os.close(reader)
        os.close(writer)
        self._scribble()
        self._look()
        self.count = self.dice.choice(self.counts)

    def _kill_publisher(self, children: list[Child], reader: int) -> None:
        """Wait until a process begins to publish, and kill it while it does, if any one comes so far."""
        if not select.select([reader], [], [], 2 * self.longest)[0]:
            return
        number = int.from_bytes(os.read(reader, 4), "little")
        time.sleep(self.dice.random() * self.publishing)
        (child,) = (child for child in children if child.number == number)
        children.remove(child)
        if self._kill(child, children):
            self.tally.publishing += 1
            self.publishing *= 1.05
        else:  # it was done already
            self.publishing *= 0.9

    def _kill(self, child: Child, others: list[Child]) -> bool:
        """Kill a process, or sometimes its whole machine; give whether it was killed before its end."""
        if self.machines is not None and self.dice.random() < 0.3:
            struck = [child, *(each for each in others if each.machine == child.machine)]
            self.machines.crash(child.machine, [each.number for each in struck])
            others[:] = [each for each in others if each not in struck]
            self.tally.crashed += 1
        else:
            struck = [child]
            os.kill(child.number, signal.SIGKILL)
        codes = [end(each.number) for each in struck]
        for each, code in zip(struck, codes, strict=True):
            assert code in (0, None, REFUSED), f"part {each.part} failed by itself"
            self.tally.killed += code is None
            self.tally.refused += code == REFUSED
        return codes[0] is None

    def _scribble(self) -> None:
        """Overwrite every chunk that no journal lists."""
        staging = staging_path(self.output)
        if not is_divided(staging):
            return
        plan = laid_out(self.case.plan(self.subject), self.output, RunOptions())
        table = RecordTable(plan)
        read_journals(staging, plan.hash, table)
        scribble_chunks(plan, staging, table)

    def _look(self) -> None:
        """Make sure that the former output is whole, or the new one; take the new one away."""
        if not self.output.exists():
            kept = parts_path(staging_path(self.output)) / FORMER_NAME
            assert not self.replaces or self.before == tree_bytes(kept), "the former output is lost"
        elif not self.replaces or self.before != tree_bytes(self.output):
            if self.machines is not None:
                self.machines.settle()
            self._complete(self.output, 1)  # it is perhaps not tidied up
            self._take_away()

    def _take_away(self) -> None:
        """Compare the new output, and begin another one."""
        check(self.case, self.subject, self.output, self.expected)
        assert [] == [path.name for path in self.folder.iterdir() if path.name.startswith(".")], "something is left"
        self.tally.replaced += self.replaces
        self.made += 1
        shutil.rmtree(self.output)
        self._begin()

    def finish(self) -> None:
        """Make all parts of what is left, and compare it."""
        self._complete(self.output, self.count)
        check(self.case, self.subject, self.output, self.expected)


def tell_at_publishing(pipe: int) -> None:
    """Let this process write its number into a pipe when it has found all chunks done, and begins to publish."""
    own_folder = publish_parts.own_folder

    def told(staging: Path) -> Any:
        os.write(pipe, os.getpid().to_bytes(4, "little"))
        return own_folder(staging)

    publish_parts.own_folder = told


def kill_parts(
    folder: Path,
    case: CrashCase,
    kills: int,
    seed: int,
    counts: tuple[int, ...] = (3, 3, 3, 2, 5),
    *,
    locks: bool = True,
    machines: Machines | None = None,
) -> Tally:
    """Make a case in parts, again and again, killing most processes, until so many are killed; check every output.

    Parameters
    ----------
    folder, case, seed, counts, machines
        As for `Killer`.
    kills
        Kills after which the rest is left to itself.
    locks
        Whether the file system seems to have locks: else two processes of one part work at the same time.

    """
    small_tasks()
    if not locks:
        fcntl.flock = refuse_lock
    killer = Killer(folder, case, seed, counts, machines)
    while killer.tally.killed < kills:
        killer.round()
    killer.finish()
    return killer.tally
