"""Dovetail: the merge, from recipe to report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dovetail.engine.actions.compare import compare
    from dovetail.engine.actions.convert import convert
    from dovetail.engine.actions.extract_lora import extract_lora
    from dovetail.engine.actions.merge import merge
    from dovetail.engine.actions.moe import make_moe
    from dovetail.engine.actions.stages import plan_stages
    from dovetail.engine.actions.verify import read_manifest
    from dovetail.engine.planning.builder import make_plan as plan
    from dovetail.engine.planning.extraction.options import ExtractionOptions
    from dovetail.engine.planning.plan import Plan, PlanOptions
    from dovetail.engine.run.prepare import RunOptions

__all__ = [
    "ExtractionOptions",
    "Plan",
    "PlanOptions",
    "RunOptions",
    "compare",
    "convert",
    "extract_lora",
    "make_moe",
    "merge",
    "plan",
    "plan_stages",
    "read_manifest",
]

_HOMES = {
    "Plan": ("planning.plan", "Plan"),
    "PlanOptions": ("planning.plan", "PlanOptions"),
    "RunOptions": ("run.prepare", "RunOptions"),
    "compare": ("actions.compare", "compare"),
    "convert": ("actions.convert", "convert"),
    "ExtractionOptions": ("planning.extraction.options", "ExtractionOptions"),
    "extract_lora": ("actions.extract_lora", "extract_lora"),
    "make_moe": ("actions.moe", "make_moe"),
    "merge": ("actions.merge", "merge"),
    "plan": ("planning.builder", "make_plan"),
    "plan_stages": ("actions.stages", "plan_stages"),
    "read_manifest": ("actions.verify", "read_manifest"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command's help must not wait for numba."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
