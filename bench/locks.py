"""Make merges in whole processes whose locks are refused, or never answered: the long version of a test.

Run from the repository: ``.venv/bin/python -m bench.locks``. It needs a C compiler. Each part is started twice at the
same time, some processes are killed, and all are started again; then the same without parts.
"""

from __future__ import annotations

import argparse
import errno
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.crash import cases, prepare
from tests.faults.preload import compiler
from tests.no_locks import REFUSALS, SILENT, begin, build
from tests.parts import check

WARNING = "has no locks"
"""What each process must say, unless there is nothing left to do."""


class Trials:
    """Merges of one recipe by processes that are refused all locks.

    Parameters
    ----------
    folder
        An empty folder.
    library
        What refuses the locks.
    dice
        Chooses what is killed, and when.

    """

    def __init__(self, folder: Path, library: Path, dice: random.Random) -> None:
        self.folder, self.library, self.dice = folder, library, dice
        self.case = next(case for case in cases() if case.name == "cabs-magnitude-3")
        self.recipe, self.expected = prepare(folder, self.case)

    def run(self, error: int, parts: int) -> str:
        """Make it in parts, or without any if `parts` is 0, each started twice; tell what the processes did."""
        name = errno.errorcode.get(error, "silent")
        output = self.folder / f"{name}-{parts}"
        each = [("--part", f"{number}/{parts}") for number in range(1, parts + 1)] or [()]
        began = time.monotonic()
        codes = self._round(error, output, [*each, *each], kill=True)
        codes += self._round(error, output, [*each, *each], kill=False)
        check(self.case, self.recipe, output, self.expected)
        killed, ended = codes.count(-9), codes.count(0)
        if killed + ended != len(codes):
            raise SystemExit(f"error: processes of {output} ended with {codes}; expected 0, or -9 for those killed")
        return f"{name:12} {parts or 'none':>6} {ended:>6} {killed:>7} {time.monotonic() - began:8.1f}"

    def _round(self, error: int, output: Path, parts: list[tuple[str, ...]], *, kill: bool) -> list[int]:
        """Start processes at the same time, and kill some of them after a while."""
        arguments = ("merge", self.recipe, output, "--workers", "1", "--memory", "512MiB")
        running = [begin(self.library, error, (*arguments, *part)) for part in parts]
        if kill:
            time.sleep(self.dice.uniform(0.5, 3.0))
            for each in running[:: self.dice.randint(1, 3)]:
                each.kill()
        texts = [each.communicate()[1] for each in running]
        for each, text in zip(running, texts, strict=True):
            if each.returncode == 0 and WARNING not in text and "already" not in text:
                raise SystemExit(f"error: a process of {output} does not say that there are no locks: {text}")
            if each.returncode not in (0, -9):
                print(text, file=sys.stderr)
        return [each.returncode for each in running]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of what is killed, and when")
    options = parser.parse_args()
    if compiler() is None:
        print("skipped: there is no C compiler; expected cc, gcc or clang; install one of them")
        return
    with tempfile.TemporaryDirectory(prefix="dovetail-locks-") as name:
        (Path(name) / "work").mkdir()
        trials = Trials(Path(name) / "work", build(Path(name)), random.Random(options.seed))
        print(f"{'locks':12} {'parts':>6} {'ended':>6} {'killed':>7} {'seconds':>8}")
        for error in (*REFUSALS, SILENT):
            for parts in (3, 0):
                print(trials.run(error, parts), flush=True)
    print("every output was byte-identical to that of one process with locks")


if __name__ == "__main__":
    main()
