"""The table of methods. A new method is one file and one entry here."""

from __future__ import annotations

import difflib
from typing import Final

from dovetail.engine.errors import RecipeError
from dovetail.engine.methods.arcee_fusion import ARCEE_FUSION
from dovetail.engine.methods.breadcrumbs import BREADCRUMBS, BREADCRUMBS_TIES
from dovetail.engine.methods.cabs import CABS
from dovetail.engine.methods.convert import CONVERT
from dovetail.engine.methods.dare import DARE_LINEAR, DARE_TIES
from dovetail.engine.methods.della import DELLA, DELLA_LINEAR
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
from dovetail.engine.methods.ram import RAM, RAMPLUS_TL
from dovetail.engine.methods.sce import SCE
from dovetail.engine.methods.slerp import SLERP
from dovetail.engine.methods.task_arithmetic import TASK_ARITHMETIC
from dovetail.engine.methods.ties import MAGNITUDE, TIES

METHODS: Final[dict[str, Method]] = {
    row.name: row
    for row in (
        *(CABS, NM_PRUNING, MAGNITUDE),
        *(TASK_ARITHMETIC, TIES, DARE_LINEAR, DARE_TIES, BREADCRUMBS, BREADCRUMBS_TIES, DELLA, DELLA_LINEAR),
        *(LINEAR, SLERP, NUSLERP, MULTISLERP, KARCHER, MODEL_STOCK),
        *(SCE, RAM, RAMPLUS_TL, NEARSWAP, ARCEE_FUSION, PASSTHROUGH),
    )
}
"""Every method by its name."""


def find(name: str) -> Method:
    """Give the row of a method.

    Raises
    ------
    RecipeError
        There is no such method; the text suggests the nearest name.

    """
    if name in METHODS:
        return METHODS[name]
    nearest = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.0)[0]
    raise RecipeError(f"merge_method is {name!r}", f"one of {', '.join(METHODS)}", f"did you mean {nearest!r}?")


def find_any(name: str) -> Method:
    """Give the row of a method, or of one of those that no recipe can name."""
    return {CONVERT.name: CONVERT, MOE.name: MOE}.get(name) or find(name)
