"""Fail, kill and interrupt commands at every call of the operating system: the long version of tests/faults.

Run from the repository: ``.venv/bin/python -m bench.faults``. It needs a C compiler. Every command is run once to count
its calls of each kind that concern its inputs and outputs, and then once for each of these calls and each fault.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.faults.forks import begin
from tests.faults.preload import compiler, load_before_all
from tests.faults.scenarios import SCENARIOS
from tests.faults.strikes import Action, Strike, strikes
from tests.faults.trials import Theatre
from tests.faults.verdicts import Verdict

_ROW = "{:18} {:>7} {:>6} {:>10} {:>8} {:>9} {:>8} {:>8}"


def main() -> None:
    """Run the trials that are asked for, and print what came of them."""
    options = _options()
    if compiler() is None:
        sys.exit("error: there is no C compiler; expected cc, gcc or clang; install one of them")
    library = load_before_all("bench.faults")
    try:
        found = _run(options, library)
    finally:
        shutil.rmtree(library.parent)
    sys.exit(1 if any(each.outcome == "escape" for each in found) else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenarios", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="only calls of these kinds, such as rename")
    actions = [action.name.lower() for action in Action]
    parser.add_argument("--actions", nargs="+", choices=actions, default=actions, help="only these faults")
    parser.add_argument("--sample", type=int, metavar="N", help="only so many faults of each, chosen by chance")
    parser.add_argument(
        "--part", type=_part, default=(1, 1), metavar="K/N", help="the K-th of N parts of each, for N runs side by side"
    )
    parser.add_argument("--cold", type=int, default=0, metavar="N", help="so many of each in a process of its own too")
    parser.add_argument("--count", action="store_true", help="only count the calls")
    parser.add_argument("--seed", type=int, default=0, help="of what is chosen by chance")
    parser.add_argument("--work", type=Path, default=_quick_disk(), help="a folder for small files, on a quick disk")
    return parser.parse_args()


def _part(text: str) -> tuple[int, int]:
    number, _, parts = text.partition("/")
    if not 1 <= int(number) <= int(parts):
        raise ValueError
    return int(number), int(parts)


def _quick_disk() -> Path:
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else Path(tempfile.gettempdir())


def _run(options: argparse.Namespace, library: Path) -> list[Verdict]:
    begin()
    found: list[Verdict] = []
    print(_ROW.format("scenario", "faults", "kills", "interrupts", "at once", "on retry", "escapes", "seconds"))
    for scenario in SCENARIOS:
        if scenario.name in options.scenarios:
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="dovetail-faults-", dir=options.work) as home:
                verdicts = list(_trials(Theatre(Path(home), scenario, library), options))
            found += verdicts
            _print_row(scenario.name, verdicts, time.monotonic() - began)
    _print_row("all", found, 0.0)
    _print_kinds(found)
    return found


def _trials(theatre: Theatre, options: argparse.Namespace) -> Iterator[Verdict]:
    wanted = [strike for strike in strikes(theatre.counts, theatre.total) if _is_wanted(strike, options)]
    number, parts = options.part
    wanted = wanted[number - 1 :: parts]
    chance = random.Random(f"{options.seed} {theatre.scenario.name}")
    chosen = wanted if options.sample is None else chance.sample(wanted, min(options.sample, len(wanted)))
    if options.count:
        print(f"{theatre.scenario.name}: {len(wanted):,} faults, {theatre.total:,} calls: {theatre.counts}", flush=True)
        return
    cold = chance.sample(wanted, min(options.cold, len(wanted)))
    for strike, is_cold in [*((each, False) for each in chosen), *((each, True) for each in cold)]:
        verdict = theatre.try_strike(strike, cold=is_cold)
        if verdict.outcome == "escape":
            _tell(verdict, cold=is_cold)
        yield verdict


def _is_wanted(strike: Strike, options: argparse.Namespace) -> bool:
    kind = options.kinds is None or strike.kind in options.kinds
    return kind and strike.action.name.lower() in options.actions


def _tell(verdict: Verdict, *, cold: bool) -> None:
    where = f"{verdict.scenario}{' (cold)' if cold else ''}, {verdict.strike}, {verdict.call} {verdict.path}"
    print(f"ESCAPE {where}: {verdict.reason}")
    if verdict.ended is not None:
        for line in verdict.ended.err.splitlines()[-25:]:
            print(f"    {line}")
    sys.stdout.flush()


def _print_row(name: str, verdicts: list[Verdict], seconds: float) -> None:
    struck = [each for each in verdicts if each.outcome != "not reached"]
    done, outcomes = Counter(each.strike.action for each in struck), Counter(each.outcome for each in struck)
    kills = done[Action.KILL] + done[Action.TEAR]
    numbers = (done[Action.FAIL], kills, done[Action.INTERRUPT])
    came = (outcomes["at once"], outcomes["on retry"], outcomes["escape"])
    print(_ROW.format(name, *(f"{each:,}" for each in (*numbers, *came)), f"{seconds:.0f}"), flush=True)


def _print_kinds(verdicts: list[Verdict]) -> None:
    kinds = Counter(each.strike.kind for each in verdicts if each.outcome != "not reached")
    print(", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common() if kind != "any"))


if __name__ == "__main__":
    main()
