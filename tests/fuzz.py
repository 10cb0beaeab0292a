"""A seeded fuzzer for what comes from outside: for tests/test_fuzz.py, and for bench/fuzz.py, which adds coverage.

Every rule has an error text of its own, so an input whose error was never seen before has reached new code: it joins
the corpus and is mutated further. Texts stand in for coverage, at no cost. Case number n of a seed is always the same,
and what a target does with an input depends on the input alone, so that its bytes are all that is needed to try again.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from dovetail.io.errors import DovetailError
from tests.pace import check

LONGEST_TEXT = 5_000
"""Most characters that an error may have, whatever it quotes."""

LONGEST_SECONDS = 1.0
"""Most processor time that an input may take."""

EXIT_CODES = (2, 3, 5)
"""Exit codes that an error about an input may have: the recipe is wrong, a checkpoint is bad, an output is."""

_SIZES = (
    0,
    1,
    -1,
    2,
    3,
    4,
    8,
    16,
    17,
    255,
    2**16,
    2**31 - 1,
    2**32,
    2**53 + 1,
    2**62,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
)
_TEXTS = (
    "", ".", "..", "/", "a/b", "../x", "/etc/passwd", "C:\\x", "\0", "\x1b[2J", "\n", "\u202e", "\ud800", "\ufeff",
    "é" * 40, "x" * 5_000, "model.safetensors", "a.safetensors", "../a.safetensors", "__metadata__", "F32", "BF16",
    "F4", "I64", "bfloat16", "float32", "cabs", "linear", "base", "math", "1e999", "0x10", "3:32", "null", "~", "*",
    "{}", "a@b", "a+b", "!!python/name:os.system",
)  # fmt: skip
_BYTES = (
    b"\0", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"{", b"}", b"[", b"]", b'"', b"\\", b"\\u0000",
    b"\\ud800", b":", b",", b"NaN", b"1e999", b"9" * 40, b"-0", b"[" * 3_000, b'{"a":' * 3_000, b"&a [", b"*a", b"- ",
    b"? ", b"!!x ", b"<<: ", b"\n", b"\t", b"---\n", b"%YAML 9.9\n", b"|\n", b"#",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """One kind of input."""

    name: str
    """What it is."""
    seeds: tuple[bytes, ...]
    """Good inputs, or nearly good ones: JSON objects, which are YAML too, or any bytes."""
    use: Callable[[bytes, random.Random], object]
    """Hands an input to the program; may wrap it with further chance, which is that of the input."""


class EscapeError(AssertionError):
    """An input had another end than it may have; the text has the beginning of the input."""


@dataclass(slots=True)
class Findings:
    """What a campaign has seen."""

    cases: int = 0
    """Inputs tried."""
    accepted: int = 0
    """Of these, those that the program took."""
    outcomes: set[str] = field(default_factory=set)
    """Kinds of error, as texts without what they quote."""
    slowest_seconds: float = 0.0
    """Longest time that one input took."""


def campaign(target: Target, cases: int, seed: int) -> Findings:
    """Try so many inputs on a target.

    Raises
    ------
    EscapeError
        As `attempt` raises it, for the first of them.

    """
    corpus, found = list(target.seeds), Findings()
    for number in range(cases):
        chance = random.Random(seed << 32 | number)
        data = chance.choice(target.seeds) if chance.random() < 0.3 else chance.choice(corpus)
        data = target.seeds[number] if number < len(target.seeds) else mutated(data, chance)
        outcome, seconds = attempt(target, data)
        check(seconds, LONGEST_SECONDS, f"{target.name} {number}: {data[:500]!r}")
        found.cases += 1
        found.accepted += outcome == ""
        found.slowest_seconds = max(found.slowest_seconds, seconds)
        if (outcome not in found.outcomes or (not outcome and found.accepted < 100)) and len(data) < 20_000:
            corpus.append(data)
        found.outcomes.add(outcome)
    return found


def attempt(target: Target, data: bytes) -> tuple[str, float]:
    """Try one input.

    Returns
    -------
    str
        What kind of error came of it, as its text without what it quotes; empty for none.
    float
        Processor time that it took, in seconds.

    Raises
    ------
    EscapeError
        Something else than success came of it, or an error of our tree in one bearable line, with its exit code.

    """
    case = f"{target.name}: {data[:500]!r}"
    began = time.process_time()
    try:
        target.use(data, random.Random(xxhash.xxh3_64_intdigest(data)))
        text = kind = ""
    except DovetailError as error:
        text, kind = str(error), type(error).__name__
        if error.exit_code not in EXIT_CODES:
            raise EscapeError(f"{case} has the exit code {error.exit_code}: {text[:300]!r}") from error
    except Exception as error:
        raise EscapeError(f"{case} escapes the error tree") from error
    seconds = time.process_time() - began
    if len(text) >= LONGEST_TEXT:
        raise EscapeError(f"{case} makes an error of {len(text)} characters: {text[:300]!r}")
    if not text.isprintable():
        raise EscapeError(f"{case} makes an error that cannot be printed: {text[:300]!r}")
    return kind and kind + ": " + re.sub(r"'[^']*'|\"[^\"]*\"|\(.*\)|\[.*?\]|\S*/\S*|\d+", "_", text), seconds


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Change an input in one to four ways, of its structure or of its bytes."""
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))):
        structure = chance.random() < 0.6
        data = (_change_structure(data, chance) if structure else None) or _change_bytes(data, chance)
    return data


def _change_structure(data: bytes, chance: random.Random) -> bytes | None:
    """Replace, remove, add or double something in a JSON text; None where it is not one."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    places = _places(document)
    where = chance.choice(places)
    changed = _replaced(document, where, chance)
    text = json.dumps(changed)
    if chance.random() < 0.1 and isinstance(changed, dict) and changed:
        # A name given twice, which no structure in memory can hold.
        name = chance.choice(list(changed))
        text = text[:-1] + f", {json.dumps(name)}: {json.dumps(changed[name])}}}"
    return text.encode()


def _places(value: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [where, *(place for key, item in inner for place in _places(item, (*where, key)))]


def _replaced(value: Any, where: Sequence[Any], chance: random.Random) -> Any:
    """Copy a structure with something else at one place."""
    if not where:
        return _another(value, chance)
    copy = value.copy()
    if len(where) == 1 and chance.random() < 0.2:
        del copy[where[0]]
    elif len(where) == 1 and chance.random() < 0.2 and isinstance(copy, dict):
        copy[chance.choice(_TEXTS)] = copy.pop(where[0])
    else:
        copy[where[0]] = _replaced(value[where[0]], where[1:], chance)
    return copy


def _another(value: Any, chance: random.Random) -> Any:
    """Give another value, often one of the same kind."""
    kind = chance.randrange(10)
    if kind < 4 and isinstance(value, int):
        return value + chance.choice((-8, -4, -1, 1, 4, 8)) if chance.random() < 0.5 else chance.choice(_SIZES)
    if kind < 5 and isinstance(value, list):
        return [*value, *(value[:1] or [chance.choice(_SIZES)])] if kind < 2 else value[::-1] if kind < 4 else []
    if kind < 4 and isinstance(value, dict) and value:
        return value | {chance.choice(_TEXTS): chance.choice(list(value.values()))}
    if kind < 6:
        return chance.choice(_TEXTS)
    if kind < 8:
        return chance.choice(_SIZES)
    return chance.choice((None, True, False, 0.5, 1e300, float("inf"), [], {}, [value], {"value": value}, [[0] * 70]))


def _change_bytes(data: bytes, chance: random.Random) -> bytes:
    """Flip, cut, double or insert bytes anywhere."""
    start, stop = sorted((chance.randint(0, len(data)), chance.randint(0, len(data))))
    stop = min(stop, start + chance.choice((1, 2, 8, 64)))
    kind = chance.randrange(6)
    if kind == 0 and data:
        start = min(start, len(data) - 1)
        return data[:start] + bytes([data[start] ^ 1 << chance.randrange(8)]) + data[start + 1 :]
    if kind == 1:
        return data[:start] + data[stop:]
    if kind == 2:
        return data[:start] + data[start:stop] * chance.choice((2, 3, 50)) + data[stop:]
    if kind == 3:
        return data[:start] + chance.choice(_BYTES) + data[stop:]
    if kind == 4:
        return data[:start] + chance.randbytes(chance.choice((1, 1, 4, 30))) + data[stop:]
    return data[:start] + chance.choice(_BYTES) + data[start:]


def peak_resident_bytes() -> int:
    """Most memory that this process has held since `forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the system does not tell")


def forget_peak() -> int:
    """Let `peak_resident_bytes` begin again; give what this process holds now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_resident_bytes()
