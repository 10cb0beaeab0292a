"""The keys of an adapter's ``alpha_pattern``: module names or regular expressions, from files that are not trusted.

peft takes the first key for which ``(.*\\.)?(KEY)$`` matches the module's name. An expression can be made to keep the
``re`` of Python busy for years, so RE2 matches here, in time that is linear in the name. The two libraries agree on
the part of the language that such keys use; a key that goes beyond it is refused.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Any, Final

MAX_STEPS: Final = 50_000_000
"""Most steps that all matching for one adapter may take: some seconds."""

MAX_KEY_LENGTH: Final = 1000
"""Characters of the longest regular expression that is understood."""

_SPECIAL: Final = frozenset("\\^$*+?{}[]()|")
_MATCH_STEPS: Final = 64  # what a call of RE2 costs, in steps, besides one for every character of the name

_DIFFERENT: Final = re.compile(
    r"\\(?![dwDW])[A-Za-z0-9]"  # escapes that only one of the two knows, or that they read differently
    r"|\(\?(?!:)"  # flags, named groups, looking around
    r"|\{,"  # up to some number in Python, these characters in RE2
    r"|\[\^?\[|\[:"  # classes such as [:alpha:] in RE2, plain members in Python
)

_Gaps = tuple[tuple[int, int], ...]


class PatternError(Exception):
    """Why a pattern cannot be used, worded to follow it."""


class PatternTable:
    """The keys of a pattern mapping, in their order.

    Raises
    ------
    PatternError
        A key is no regular expression, or goes beyond the part of the language that is understood.

    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._steps = 0
        # Plain keys, by the gaps between their dots, which match any character, and by what stands in these gaps.
        self._plain: dict[tuple[int, _Gaps], dict[str, int]] = {}
        self._lengths: dict[int, list[_Gaps]] = {}
        self._expressions: list[tuple[int, Any]] = []
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
                self._expressions.append((index, _compile(key)))

    def find(self, name: str) -> str | None:
        """Give the first key that matches a module's name, or None.

        Raises
        ------
        PatternError
            Matching has taken too many steps, or the name has characters on which the two libraries may disagree.

        """
        starts = {0, *(place + 1 for place, character in enumerate(name) if character == ".")} if self._plain else ()
        found = [index for start in starts for index in self._plain_matches(name[start:])]
        if self._expressions and not (name.isascii() and name.isprintable()):
            raise PatternError(f"meets the module name {name[:80]!r}, which is not plain ASCII")
        for index, expression in self._expressions:
            if found and min(found) < index:
                break
            self._count(_MATCH_STEPS + len(name))
            if expression.fullmatch(name):
                found.append(index)
                break
        return self.keys[min(found)] if found else None

    def _plain_matches(self, text: str) -> Iterable[int]:
        for gaps in self._lengths.get(len(text), ()):
            self._count(_MATCH_STEPS + len(text))
            between = "".join([text[low:high] for low, high in gaps])
            if (index := self._plain[len(text), gaps].get(between)) is not None:
                yield index

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise PatternError("takes too long to match")


def _compile(key: str) -> Any:
    """Compile one expression by RE2, if it means the same to Python."""
    import re2

    if len(key) > MAX_KEY_LENGTH:
        raise PatternError(f"is longer than {MAX_KEY_LENGTH} characters")
    if not (key.isascii() and key.isprintable()):
        raise PatternError("has characters other than plain ASCII")
    if found := _DIFFERENT.search(key):
        raise PatternError(f"has {found[0]!r}, which is not understood")
    options = re2.Options()
    options.log_errors = False
    whole = rf"(.*\.)?({key})$"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of sets that will mean something else one day
            re.compile(whole)
        return re2.compile(whole, options)
    except (re.error, FutureWarning, RecursionError, OverflowError) as error:
        raise PatternError(f"is not understood ({error})") from None
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace") if error.args else "too large"
        raise PatternError(f"is not understood ({reason})") from None
