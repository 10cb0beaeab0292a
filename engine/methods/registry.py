"""The table of methods. A new method is one file and one entry here, or a plug-in: see `plugins`."""

from __future__ import annotations

import difflib
import functools
from typing import Final

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.analysis import ANALYZE
from dovetail.engine.methods.arcee_fusion import ARCEE_FUSION
from dovetail.engine.methods.breadcrumbs import BREADCRUMBS, BREADCRUMBS_TIES
from dovetail.engine.methods.cabs import CABS
from dovetail.engine.methods.consensus_ta import CONSENSUS_TA
from dovetail.engine.methods.convert import CONVERT
from dovetail.engine.methods.dare import DARE_LINEAR, DARE_TIES
from dovetail.engine.methods.della import DELLA, DELLA_LINEAR
from dovetail.engine.methods.iso_c import ISO_C
from dovetail.engine.methods.karcher import KARCHER
from dovetail.engine.methods.linear import LINEAR
from dovetail.engine.methods.method import Method
from dovetail.engine.methods.model_stock import MODEL_STOCK
from dovetail.engine.methods.moe import MOE
from dovetail.engine.methods.multislerp import MULTISLERP
from dovetail.engine.methods.nearswap import NEARSWAP
from dovetail.engine.methods.nm_pruning import NM_PRUNING
from dovetail.engine.methods.nuslerp import NUSLERP
from dovetail.engine.methods.passthrough import PASSTHROUGH
from dovetail.engine.methods.plugins import UPDATE, PlugIns, load_plug_ins
from dovetail.engine.methods.ram import RAM, RAMPLUS_TL
from dovetail.engine.methods.sce import SCE
from dovetail.engine.methods.slerp import SLERP
from dovetail.engine.methods.task_arithmetic import TASK_ARITHMETIC
from dovetail.engine.methods.ties import MAGNITUDE, TIES
from dovetail.engine.methods.tsv_m import TSV_M
from dovetail.engine.methods.vectors import making, method_behind, using

METHODS: Final[dict[str, Method]] = {
    row.name: row
    for row in (
        *(CABS, NM_PRUNING, MAGNITUDE),
        *(TASK_ARITHMETIC, TIES, DARE_LINEAR, DARE_TIES, BREADCRUMBS, BREADCRUMBS_TIES, DELLA, DELLA_LINEAR),
        *(LINEAR, SLERP, NUSLERP, MULTISLERP, KARCHER, MODEL_STOCK),
        *(TSV_M, ISO_C, CONSENSUS_TA),
        *(SCE, RAM, RAMPLUS_TL, NEARSWAP, ARCEE_FUSION, PASSTHROUGH),
    )
}
"""Dovetail's own methods by name."""

_LONGEST_SHOWN = 250
"""Most characters of a name that an error quotes."""

_LONGEST_SLIP = 60
"""Longest name, in characters, for which the nearest is looked for."""


@functools.cache
def plug_ins() -> PlugIns:
    """Load the methods of other installed distributions, once a process: built-in methods never wait for this."""
    return load_plug_ins(taken={*METHODS, CONVERT.name})


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
    return {each.name: each for each in (CONVERT, MOE, ANALYZE)}.get(name) or find(name)
