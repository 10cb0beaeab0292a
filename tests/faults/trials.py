"""One command with one fault: run in a process of its own, struck at one call, and judged by what it says and leaves.

What must hold: the command has finished, with the bytes of a run without fault; or it says in one line what failed,
with the right exit code. Then the same command, without fault, ends with exactly these bytes, and no other file is left
anywhere.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from tests.faults.forks import aside, be_a_command, call, quietly, wait
from tests.faults.paused import COMMAND, HOME
from tests.faults.preload import Library
from tests.faults.scenarios import Scenario
from tests.faults.strikes import Action, Strike
from tests.faults.trees import tree
from tests.faults.verdicts import Ended, Verdict, wrong

_COUNT = Strike("any", 0, Action.FAIL)


class Theatre:
    """The folder of one scenario, in which its command runs again and again.

    Parameters
    ----------
    home
        An empty folder.
    scenario
        The scenario.
    library
        Where the library was built, for processes that begin anew.

    """

    def __init__(self, home: Path, scenario: Scenario, library: Path) -> None:
        self.scenario, self._library = scenario, library
        self.root, self._before = home / "root", home / "before"
        self.inputs, self.work = self.root / "in", self.root / "work"
        self.inputs.mkdir(parents=True)
        self.work.mkdir()
        self._watcher = Library(home, self.root)
        aside(lambda: scenario.write(self.inputs))
        self._set_the_scene()
        with quietly(self.work):  # loads all modules and kernels of the command
            call(scenario.arguments)
        self.reset()
        self._inputs = tree(self.inputs)
        ended = self.run()
        assert ended.code == 0, ended
        self._expected = tree(self.work)
        self.reset()
        assert self.run(_COUNT).code == 0
        assert self.difference() == "", self.difference()
        self.counts, self.total = self._watcher.counts, self._watcher.total
        gc.collect()
        gc.freeze()  # collecting in a forked process would copy all pages

    def _set_the_scene(self) -> None:
        scenario = self.scenario
        for name, place in scenario.links:
            (self.work / place).mkdir(parents=True)
            (self.work / name).symlink_to(place)
        for command in scenario.earlier:
            with quietly(self.work):
                assert call(command) == 0, command
        if scenario.cut is not None:
            assert self.run(scenario.cut).code == -signal.SIGKILL
        shutil.copytree(self.work, self._before, symlinks=True)

    def reset(self) -> None:
        """Restore what was there before the command."""
        shutil.rmtree(self.work)
        shutil.copytree(self._before, self.work, symlinks=True)

    def run(self, strike: Strike | None = None, *, cold: bool = False) -> Ended:
        """Run the command, in a forked process or in one that begins anew; strike it if asked to."""
        if strike is not None:
            self._watcher.aim(strike)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            code = self._run_cold(strike, out, err) if cold else self._run_forked(strike, out, err)
            self._watcher.disarm()
            return Ended(code, _content(out), _content(err))

    def _run_forked(self, strike: Strike | None, out: IO[bytes], err: IO[bytes]) -> int | None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        child = os.fork()
        if child == 0:
            os.chdir(self.work)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            be_a_command(self.scenario.arguments, None if strike is None else self._watcher)
        return wait(child)

    def _run_cold(self, strike: Strike | None, out: IO[bytes], err: IO[bytes]) -> int | None:
        environment = os.environ | {"PYTHONPATH": str(HOME)}
        if strike is not None:
            environment |= self._watcher.environment(self._library)
        # Without -P, Python would look for its own modules in the folder of the scenario.
        command = [sys.executable, "-P", *COMMAND[1:], "", *self.scenario.arguments, "--json"]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=self.work, env=environment
        )
        code = wait(process.pid)
        process.returncode = 0  # it has been waited for
        return code

    def difference(self) -> str:
        """Say how the files differ from those of a run without fault; an empty text if they do not."""
        found, expected = tree(self.work), self._expected
        if extra := sorted(found.keys() - expected.keys()):
            return f"left behind: {', '.join(extra)}"
        if missing := sorted(expected.keys() - found.keys()):
            return f"missing: {', '.join(missing)}"
        if changed := sorted(name for name, content in expected.items() if found[name] != content):
            return f"other bytes: {', '.join(changed)}"
        return "" if tree(self.inputs) == self._inputs else "an input has changed"

    def try_strike(self, strike: Strike, *, cold: bool = False) -> Verdict:
        """Run the command with a fault, then again without, and judge."""
        self.reset()
        ended = self.run(strike, cold=cold)
        name, path = self._watcher.struck or ("", "")

        def verdict(outcome: str, reason: str = "", last: Ended = ended) -> Verdict:
            where = path.removeprefix(f"{self.root}/")
            return Verdict(self.scenario.name, strike, name, where, outcome, reason, last)

        if reason := wrong(strike, ended, path, self.root):
            return verdict("escape", reason)
        at_once = ended.code == 0
        if at_once and (reason := self.difference()):
            return verdict("escape", f"exit code 0, {reason}")
        again = self.run()
        if again.code != 0:
            return verdict("escape", f"the same command again gives {again.code}", again)
        if reason := self.difference():
            return verdict("escape", f"after the same command again: {reason}")
        if at_once and self.scenario.says_finished and not again.says_finished:
            return verdict("escape", "the same command again does not say that there is nothing to do", again)
        if not name:
            return verdict("not reached")
        return verdict("at once" if at_once else "on retry")


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
