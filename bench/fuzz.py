"""Try as many hostile inputs of every kind as one likes: the long version of tests/test_fuzz.py.

Run from the repository: ``.venv/bin/python -m bench.fuzz --inputs 100000``. Where atheris is installed
(``pip install atheris``), inputs are chosen by the code that they reach; where it is not, by the errors that they get.

An input escapes if something else comes of it than success, or an error of one line with the exit code 2, 3 or 5; if it
takes more than a second of processor time, or more than 128 MiB of memory; or if it kills the process. Whatever
escapes is kept in ``--work``, and tried again in a process of its own, without coverage, before it counts.
``--replay KIND FILE`` tries one input, and shows where its error comes from.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

MOST_GROWTH_BYTES = 128 * 2**20
"""Most memory that one input may take beyond what the process held."""

ADDRESS_SPACE_BYTES = 8 * 2**30
"""Address space that a process of a campaign may have beyond what it has when it begins."""

LONGEST_INPUT_BYTES = 2**16
"""Longest input that coverage makes."""

_TOLD_EVERY = 100


@dataclass
class Tally:
    """What a campaign of one kind has seen, which its process writes down as it goes."""

    inputs: int = 0
    """Inputs tried."""
    accepted: int = 0
    """Of these, those that the program took."""
    outcomes: set[str] = field(default_factory=set)
    """Kinds of error."""
    slowest_seconds: float = 0.0
    """Longest processor time that one input took; with coverage, everything takes several times as long."""
    grown_bytes: int = 0
    """Most memory that one input took."""
    suspects: dict[str, str] = field(default_factory=dict)
    """Files of inputs that seem to escape, by what came of them."""


class Campaign:
    """Tries inputs of one kind in this process, and writes down what it sees."""

    def __init__(self, kind: str, work: Path) -> None:
        from tests import fuzz
        from tests.fuzz_targets import KINDS

        self._fuzz, self._work, self.tally = fuzz, work, Tally()
        self._home = tempfile.TemporaryDirectory(prefix="dovetail-fuzz-")
        self.target = KINDS[kind].make(Path(self._home.name))
        for seed in self.target.seeds:  # whatever is imported and compiled on first use is no input's fault
            with contextlib.suppress(fuzz.EscapeError):
                fuzz.attempt(self.target, seed)

    def attempt(self, data: bytes) -> str:
        """Try one input; give its outcome, which for a suspect begins with an exclamation mark."""
        fuzz, tally = self._fuzz, self.tally
        (self._work / "current").write_bytes(data)
        before = fuzz.forget_peak()
        try:
            outcome, seconds = fuzz.attempt(self.target, data)
            grown = fuzz.peak_resident_bytes() - before
            tally.slowest_seconds = max(tally.slowest_seconds, seconds)
            tally.grown_bytes = max(tally.grown_bytes, grown)
            if seconds > fuzz.LONGEST_SECONDS:
                outcome = f"!slow {outcome}"
            elif grown > MOST_GROWTH_BYTES:
                outcome = f"!large {outcome}"
        except fuzz.EscapeError as error:
            cause = error.__cause__ or error
            place = traceback.extract_tb(cause.__traceback__)[-1]
            outcome = f"!{type(cause).__name__} at {Path(place.filename).name}:{place.lineno}"
        tally.inputs += 1
        tally.accepted += not outcome
        tally.outcomes.add(outcome)
        if outcome.startswith("!") and outcome not in tally.suspects:
            path = self._work / f"{xxhash.xxh3_64_hexdigest(data)}.input"
            path.write_bytes(data)
            tally.suspects[outcome] = path.name
        if tally.inputs % _TOLD_EVERY == 0:
            self.tell()
        return outcome

    def tell(self) -> None:
        """Write the tally down."""
        content = dataclasses.asdict(self.tally) | {"outcomes": sorted(self.tally.outcomes)}
        (self._work / "tally.json").write_text(json.dumps(content))


def run_plain(campaign: Campaign, inputs: int, seed: int) -> None:
    """Try mutated inputs; those that get an error which none before has got are mutated further."""
    from tests.fuzz import mutated

    corpus = list(campaign.target.seeds)
    for number in range(inputs):
        chance = random.Random(seed << 32 | number)
        data = mutated(chance.choice(corpus), chance)
        known = len(campaign.tally.outcomes)
        campaign.attempt(data)
        if len(campaign.tally.outcomes) > known and len(data) < LONGEST_INPUT_BYTES:
            corpus.append(data)
    campaign.tell()


def run_by_coverage(kind: str, work: Path, inputs: int, seed: int) -> None:
    """Let atheris choose inputs by the code that they reach, mutated by its own ways and by ours; does not return."""
    import atheris

    import dovetail.engine

    folder = Path(dovetail.engine.__file__).parent / "kernels"
    kernels = [
        f"dovetail.engine.kernels.{path.stem}" for path in folder.glob("*.py")
    ]  # what is compiled stays as it is
    with atheris.instrument_imports(include=["dovetail"], exclude=[*kernels, "dovetail.io.adapters.kernels"]):
        campaign = Campaign(kind, work)
    from tests.fuzz import mutated

    corpus = work / "corpus"
    corpus.mkdir(exist_ok=True)
    for data in campaign.target.seeds:
        (corpus / xxhash.xxh3_64_hexdigest(data)).write_bytes(data)

    def mutate(data: bytes, limit_bytes: int, number: int) -> bytes:
        chance = random.Random(number)
        made = mutated(data, chance)[:limit_bytes] if chance.random() < 0.6 else atheris.Mutate(data, len(data))
        return bytes(made)

    def attempt(data: bytes) -> None:
        campaign.attempt(data)
        if campaign.tally.inputs >= inputs:
            campaign.tell()
            os._exit(0)

    options = [
        f"-seed={seed + 1}",
        f"-max_len={LONGEST_INPUT_BYTES}",
        "-timeout=60",
        "-rss_limit_mb=0",
        "-len_control=0",
    ]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={work}/", str(corpus)], attempt, custom_mutator=mutate)
    atheris.Fuzz()


def replay(kind: str, path: Path) -> str:
    """Try one input again, in this process; say what is wrong with it, or nothing."""
    from tests import fuzz

    with tempfile.TemporaryDirectory(prefix="dovetail-fuzz-") as work:
        campaign, data = Campaign(kind, Path(work)), path.read_bytes()
        try:
            seconds = min(fuzz.attempt(campaign.target, data)[1] for _ in range(3))
        except fuzz.EscapeError as error:
            traceback.print_exception(error.__cause__ or error)
            return str(error)
        before = fuzz.forget_peak()
        fuzz.attempt(campaign.target, data)
        grown = fuzz.peak_resident_bytes() - before
    if seconds > fuzz.LONGEST_SECONDS or grown > MOST_GROWTH_BYTES:
        return f"{kind}: {seconds:.1f} s of processor time, {grown / 2**20:.0f} MiB: {data[:300]!r}"
    return ""


def _child(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "faulthandler", "-m", "bench.fuzz", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _follow(kind: str, inputs: int, seed: int, work: Path, *, plain: bool) -> tuple[Tally, list[str]]:
    """Try inputs of one kind in processes of their own; give the tally, and what is wrong with those that escape."""
    whole, escapes, began = Tally(), [], 0
    while whole.inputs < inputs:
        place = work / kind.replace(" ", "-") / str(began)
        place.mkdir(parents=True)
        began += 1
        ended = _child("--child", kind, "--inputs", inputs - whole.inputs, "--seed", seed + began, "--work", place,
                       *(["--plain"] if plain else []))  # fmt: skip
        told = json.loads((place / "tally.json").read_text()) if (place / "tally.json").exists() else {}
        _add(whole, told)
        suspects = {place / name: outcome for outcome, name in told.get("suspects", {}).items()}
        if ended.returncode != 0:
            suspects[place / "current"] = f"the process ended with {ended.returncode}"
            (place / "stderr").write_text(ended.stderr)
        for path, outcome in suspects.items():
            again = _child("--replay", kind, path)
            if again.returncode != 0:
                escapes.append(f"{path}: {outcome}: {again.stdout.strip()[-1000:] or again.stderr[-1000:]}")
        if ended.returncode != 0 and (began > 20 or not told):
            escapes.append(f"{kind}: given up after {began} processes: {ended.stderr[-1000:]}")
            break
    return whole, escapes


def _add(whole: Tally, told: dict[str, Any]) -> None:
    whole.inputs += told.get("inputs", 0)
    whole.accepted += told.get("accepted", 0)
    whole.outcomes.update(told.get("outcomes", ()))
    whole.slowest_seconds = max(whole.slowest_seconds, told.get("slowest_seconds", 0.0))
    whole.grown_bytes = max(whole.grown_bytes, told.get("grown_bytes", 0))


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs of all kinds together [100000]")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="kinds to try [all]")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other inputs [0]")
    parser.add_argument("--plain", action="store_true", help="do without coverage, even where atheris is installed")
    parser.add_argument("--work", type=Path, help="where escapes are kept [a new folder]")
    parser.add_argument("--replay", nargs=2, metavar=("KIND", "FILE"), help="try the input in a file, and nothing else")
    parser.add_argument("--child", metavar="KIND", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main() -> None:
    options = _arguments()
    if options.replay:
        kind, path = options.replay
        wrong = replay(kind, Path(path))
        print(wrong or f"{path} is as it should be")
        sys.exit(1 if wrong else 0)
    if options.child:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE_BYTES,) * 2)
        if options.plain:
            run_plain(Campaign(options.child, options.work), options.inputs, options.seed)
        else:
            run_by_coverage(options.child, options.work, options.inputs, options.seed)
        return
    _run_all(options)


def _run_all(options: argparse.Namespace) -> None:
    """Try inputs of all kinds, and print a table."""
    from tests.fuzz_targets import KINDS

    plain = options.plain
    if not plain:
        try:
            import atheris  # noqa: F401
        except ImportError:
            print("atheris is not installed: inputs are chosen by their errors, not by coverage (pip install atheris)")
            plain = True
    work = options.work or Path(tempfile.mkdtemp(prefix="dovetail-fuzz-"))
    kinds = {name: KINDS[name] for name in options.kinds or KINDS}
    total = sum(kind.cases for kind in kinds.values())
    columns = f"{'inputs':>8} {'taken':>8} {'outcomes':>9} {'slowest s':>10} {'MiB':>6} {'seconds':>8} {'escapes':>8}"
    print(f"{'kind':18} {columns}")
    every: list[str] = []
    tried = 0
    for name, kind in kinds.items():
        share, began = -(-options.inputs * kind.cases // total), time.monotonic()
        tally, escapes = _follow(name, share, options.seed, work, plain=plain)
        every, tried = every + escapes, tried + tally.inputs
        print(
            f"{name:18} {tally.inputs:8} {tally.accepted:8} {len(tally.outcomes):9} {tally.slowest_seconds:10.2f} "
            f"{tally.grown_bytes / 2**20:6.0f} {time.monotonic() - began:8.0f} {len(escapes):8}",
            flush=True,
        )
    print(f"{tried} inputs, {len(every)} escapes" + (f", kept in {work}" if every else ""))
    for escape in every:
        print(escape)
    sys.exit(1 if every else 0)


if __name__ == "__main__":
    main()
