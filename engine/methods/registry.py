"""The table of methods. A new method is one file and one entry here, or a plug-in: see `plugins`.

Methods are imported when they are looked up, since a merge needs one of them, and its kernels alone.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import TYPE_CHECKING, Final

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.method import Method
from dovetail.engine.methods.vectors import making, method_behind, using
from dovetail.io.files.interrupts import held

if TYPE_CHECKING:
    from dovetail.engine.methods.plugins import PlugIns

_HOMES: Final = {
    "cabs": "cabs",
    "nm_pruning": "nm_pruning",
    "magnitude": "ties",
    "task_arithmetic": "task_arithmetic",
    "ties": "ties",
    "dare_linear": "dare",
    "dare_ties": "dare",
    "breadcrumbs": "breadcrumbs",
    "breadcrumbs_ties": "breadcrumbs",
    "della": "della",
    "della_linear": "della",
    "linear": "linear",
    "slerp": "slerp",
    "nuslerp": "nuslerp",
    "multislerp": "multislerp",
    "karcher": "karcher",
    "model_stock": "model_stock",
    "tsv_m": "tsv_m",
    "iso_c": "iso_c",
    "consensus_ta": "consensus_ta",
    "sce": "sce",
    "ram": "ram",
    "ramplus_tl": "ram",
    "nearswap": "nearswap",
    "arcee_fusion": "arcee_fusion",
    "passthrough": "passthrough",
}
"""For each method, the module of this folder that has its row, under the method's name in capitals."""

_HIDDEN: Final = {"convert": "convert", "moe": "moe", "analyze": "analysis"}
"""The same for the methods that no recipe can name."""


def _row(name: str, module: str) -> Method:
    with held(at_once=True):  # an import that Ctrl-C cuts short leaves halves of modules behind
        found: Method = getattr(import_module(f"dovetail.engine.methods.{module}"), name.upper())
    return found


class _Rows(MutableMapping[str, Method]):
    """Rows by name, each of which is imported when it is first looked up."""

    def __init__(self) -> None:
        self._found: dict[str, Method | None] = dict.fromkeys(_HOMES)

    def __getitem__(self, name: str) -> Method:
        found = self._found[name]
        if found is None:
            found = self._found[name] = _row(name, _HOMES[name])
        return found

    def __setitem__(self, name: str, row: Method) -> None:
        self._found[name] = row

    def __delitem__(self, name: str) -> None:
        del self._found[name]

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


METHODS: Final[MutableMapping[str, Method]] = _Rows()
"""Dovetail's own methods by name."""

_LONGEST_SHOWN = 250
"""Most characters of a name that an error quotes."""

_LONGEST_SLIP = 60
"""Longest name, in characters, for which the nearest is looked for."""


@functools.cache
def plug_ins() -> PlugIns:
    """Load the methods of other installed distributions, once a process: built-in methods never wait for this."""
    from dovetail.engine.methods.plugins import load_plug_ins

    return load_plug_ins(taken={*METHODS, "convert"})


def all_methods() -> dict[str, Method]:
    """Give every method by its name, those of other distributions last."""
    return {**METHODS, **plug_ins().methods}


def find(name: str) -> Method:
    """Give the row of a method; plug-ins are looked for only where Dovetail has no method of the name.

    Raises
    ------
    RecipeError
        There is no such method, and the text suggests the nearest name; or a plug-in should bring it and cannot be
        used, and the text says which and why.

    """
    if name in METHODS:
        return METHODS[name]
    found = plug_ins()
    if name in found.methods:
        return found.methods[name]
    for fault in found.faults:
        if name in fault.methods:
            from dovetail.engine.methods.plugins import UPDATE

            raise RecipeError(f"merge_method is {name!r}, but {fault}", "a plug-in that can be used", UPDATE)
    known, quoted = all_methods(), repr(name) if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]!r}..."
    # Similarity takes quadratic time: a name this long is no slip of the finger.
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    nearest = difflib.get_close_matches(plain, known, n=1, cutoff=0.5) if len(name) <= _LONGEST_SLIP else []
    # Before the names, which fill several lines of a terminal.
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    raise RecipeError(
        f"merge_method is {quoted}{hint}", f"one of {', '.join(known)}", "; ".join(map(str, found.faults))
    )


def find_any(name: str) -> Method:
    """Give the row of a method, or of one of those that no recipe can name."""
    if (behind := method_behind(name)) is not None:
        return making(find(behind[0])) if behind[1] else using(find(behind[0]))
    return _row(name, _HIDDEN[name]) if name in _HIDDEN else find(name)
