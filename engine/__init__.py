"""Dovetail: the merge, from recipe to report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dovetail.engine.comparing import compare
    from dovetail.engine.conversion import convert
    from dovetail.engine.merging import RunOptions, merge
    from dovetail.engine.planned import Plan, PlanOptions
    from dovetail.engine.planning import make_plan as plan
    from dovetail.engine.stages import plan_stages
    from dovetail.engine.verify import read_manifest

__all__ = ["Plan", "PlanOptions", "RunOptions", "compare", "convert", "merge", "plan", "plan_stages", "read_manifest"]

_HOMES = {
    "Plan": ("planned", "Plan"),
    "PlanOptions": ("planned", "PlanOptions"),
    "RunOptions": ("merging", "RunOptions"),
    "compare": ("comparing", "compare"),
    "convert": ("conversion", "convert"),
    "merge": ("merging", "merge"),
    "plan": ("planning", "make_plan"),
    "plan_stages": ("stages", "plan_stages"),
    "read_manifest": ("verify", "read_manifest"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command's help must not wait for numba."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
