"""Matching the keys of an adapter's ``alpha_pattern``: module names or regular expressions, from untrusted files.

peft takes the first key for which ``(.*\\.)?(KEY)$`` matches the name of the module. A hostile expression can keep
Python's ``re`` busy for years. The part of the language that such keys use is therefore matched here by following all
possible positions in the name at once, within a fixed number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

MAX_STEPS: Final = 5_000_000
"""Most steps that the matching for one adapter may take; this many take some seconds."""

_SPECIAL: Final = frozenset("\\^$*+?{}[]()|")

_ESCAPED_SETS: Final[dict[str, Callable[[str], bool]]] = {
    "d": str.isdecimal,
    "w": lambda character: character.isalnum() or character == "_",
}

_Gaps = tuple[tuple[int, int], ...]

_Step = Callable[[str, set[int]], set[int]]


class PatternError(Exception):
    """A pattern cannot be used. The text continues a sentence that begins with the pattern."""


class PatternTable:
    """The keys of a pattern mapping, in their order.

    Raises
    ------
    PatternError
        A key uses a part of the language that is not supported.

    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._steps = 0
        # Plain keys, by the gaps between their dots, and by the text in the gaps: a dot matches any character.
        self._plain: dict[tuple[int, _Gaps], dict[str, int]] = {}
        self._lengths: dict[int, list[_Gaps]] = {}
        self._others: list[tuple[int, _Step]] = []
        self.keys = tuple(keys)
        for index, key in enumerate(self.keys):
            if _SPECIAL.isdisjoint(key):
                ends = [place for place, character in enumerate(key) if character == "."]
                gaps = tuple(zip([0, *(end + 1 for end in ends)], [*ends, len(key)], strict=True))
                table = self._plain.setdefault((len(key), gaps), {})
                if not table:
                    self._lengths.setdefault(len(key), []).append(gaps)
                table.setdefault(key.replace(".", ""), index)
            else:
                self._others.append((index, _Parser(key, self._count).parse()))

    def find(self, name: str) -> str | None:
        """Give the first key that matches a module's name, or None.

        Raises
        ------
        PatternError
            The matching has taken too many steps.

        """
        if not self.keys:
            return None
        starts = {0, *(place + 1 for place, character in enumerate(name) if character == ".")}
        found = [index for start in starts for index in self._plain_matches(name[start:])]
        for index, step in self._others:
            if len(name) in step(name, set(starts)):
                found.append(index)
                break
        return self.keys[min(found)] if found else None

    def _plain_matches(self, text: str) -> Iterable[int]:
        for gaps in self._lengths.get(len(text), ()):
            self._count(1 + len(text) // 16)
            between = "".join([text[low:high] for low, high in gaps])
            if (index := self._plain[len(text), gaps].get(between)) is not None:
                yield index

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise PatternError("takes too long to match")


class _Parser:
    """Makes of an expression a function from the positions where a match may begin to those where it may end."""

    def __init__(self, key: str, count: Callable[[int], None]) -> None:
        self._key, self._at, self._count = key, 0, count

    def parse(self) -> _Step:
        """Parse the whole expression."""
        if len(self._key) > 1000:
            raise PatternError("is longer than 1000 characters")
        step = self._alternatives(0)
        if self._at < len(self._key):
            raise PatternError(f"has {self._key[self._at]!r} where it is not allowed")
        return step

    def _next(self) -> str:
        return self._key[self._at : self._at + 1]

    def _take(self) -> str:
        self._at += 1
        return self._key[self._at - 1 : self._at]

    def _alternatives(self, depth: int) -> _Step:
        if depth > 20:
            raise PatternError("is nested too deeply")
        branches = [self._sequence(depth)]
        while self._next() == "|":
            self._take()
            branches.append(self._sequence(depth))
        if len(branches) == 1:
            return branches[0]
        return lambda text, places: set().union(*(branch(text, places) for branch in branches))

    def _sequence(self, depth: int) -> _Step:
        steps: list[_Step] = []
        while self._next() not in ("", "|", ")"):
            anchor = self._next() in ("^", "$")
            steps.append(self._repeated(self._atom(depth), anchor=anchor))

        def run(text: str, places: set[int]) -> set[int]:
            for step in steps:
                if not places:
                    break
                places = step(text, places)
            return places

        return run

    def _atom(self, depth: int) -> _Step:
        character = self._take()
        if character == "(":
            if self._key.startswith("?:", self._at):
                self._at += 2
            step = self._alternatives(depth + 1)
            if self._take() != ")":
                raise PatternError("lacks a closing parenthesis")
            return step
        if character == "^":
            return lambda text, places: places & {0}
        if character == "$":
            return lambda text, places: places & {len(text)}
        if character == "[":
            return self._one(self._character_set())
        if character == "\\":
            return self._one(self._escaped())
        if character == ".":
            return self._one(lambda other: other != "\n")
        if character in _SPECIAL:
            raise PatternError(f"has {character!r} where it is not allowed")
        return self._one(lambda other: other == character)

    def _one(self, fits: Callable[[str], bool]) -> _Step:
        def run(text: str, places: set[int]) -> set[int]:
            self._count(len(places) + 1)
            return {place + 1 for place in places if place < len(text) and fits(text[place])}

        return run

    def _escaped(self) -> Callable[[str], bool]:
        character = self._take()
        if character in _ESCAPED_SETS:
            return _ESCAPED_SETS[character]
        if not character or character.isalnum():
            raise PatternError(f"has '\\{character}', which is not understood")
        return lambda other: other == character

    def _character_set(self) -> Callable[[str], bool]:
        inverted = self._next() == "^" and bool(self._take())
        members: list[Callable[[str], bool]] = []
        while (character := self._take()) != "]":
            if character in ("", "[", "^") or (character == "-" and members):
                raise PatternError("has a character set that is not understood")
            if character == "\\":
                members.append(self._escaped())
            elif self._next() == "-":
                self._take()
                last = self._take()
                if last in ("", "]", "\\", "[") or last < character:
                    raise PatternError("has a character set that is not understood")
                members.append(lambda other, low=character, high=last: low <= other <= high)  # type: ignore[misc]
            else:
                members.append(lambda other, member=character: other == member)  # type: ignore[misc]
        if not members:
            raise PatternError("has a character set that is not understood")
        return lambda other: any(member(other) for member in members) != inverted

    def _repeated(self, step: _Step, *, anchor: bool) -> _Step:
        sign = self._next()
        if sign == "{" or (anchor and sign and sign in "*+?"):
            raise PatternError(f"has {sign!r} where it is not understood")
        if sign not in ("*", "+", "?") or not sign:
            return step
        self._take()
        if self._next() in ("*", "+", "?", "{") and self._next():
            raise PatternError(f"has {sign + self._next()!r}, which is not understood")
        if sign == "?":
            return lambda text, places: places | step(text, places)

        def run(text: str, places: set[int]) -> set[int]:
            reached = set(places) if sign == "*" else set()
            fresh = step(text, places) - reached
            while fresh:
                self._count(1)
                reached |= fresh
                fresh = step(text, fresh) - reached
            return reached | places if sign == "*" else reached

        return run
