"""Dovetail's engine: merging checkpoints, from the recipe to the report.

``__all__`` lists the public names: functions, their options and results, and the modules of events and errors.
Functions and classes are imported when they are first used, so that importing this package takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dovetail.engine import errors, events
from dovetail.io.files.collector import collector_paused
from dovetail.io.files.interrupts import held

if TYPE_CHECKING:
    from dovetail.engine.actions.analysis import Analysis
    from dovetail.engine.actions.analyze import analyze
    from dovetail.engine.actions.compare import compare
    from dovetail.engine.actions.comparison import Comparison, Difference, Limits
    from dovetail.engine.actions.convert import convert
    from dovetail.engine.actions.extract_lora import extract_lora
    from dovetail.engine.actions.forecasts import Forecast, plan_stages
    from dovetail.engine.actions.merge import merge
    from dovetail.engine.actions.merge_tensors import merge_tensors
    from dovetail.engine.actions.moe import make_moe
    from dovetail.engine.actions.plan import plan
    from dovetail.engine.actions.recompute import recompute
    from dovetail.engine.actions.vectors import make_vectors
    from dovetail.engine.actions.verify import Verdict, read_manifest, verify
    from dovetail.engine.output.document import Manifest
    from dovetail.engine.planning.extraction.options import ExtractionOptions
    from dovetail.engine.planning.plan import Plan, PlanOptions
    from dovetail.engine.run.prepare import RunOptions
    from dovetail.engine.searching.history import SearchResult
    from dovetail.engine.searching.options import SearchOptions
    from dovetail.engine.searching.search import search
    from dovetail.io.formats.safetensors_format import SafetensorsFormat
    from dovetail.io.zarr.format import ZarrFormat

__all__ = [
    "Analysis",
    "Comparison",
    "Difference",
    "ExtractionOptions",
    "Forecast",
    "Limits",
    "Manifest",
    "Plan",
    "PlanOptions",
    "RunOptions",
    "SafetensorsFormat",
    "SearchOptions",
    "SearchResult",
    "Verdict",
    "ZarrFormat",
    "analyze",
    "compare",
    "convert",
    "errors",
    "events",
    "extract_lora",
    "make_moe",
    "make_vectors",
    "merge",
    "merge_tensors",
    "plan",
    "plan_stages",
    "read_manifest",
    "recompute",
    "search",
    "verify",
]

_HOMES = {
    "dovetail.engine.actions.analysis": ("Analysis",),
    "dovetail.engine.actions.analyze": ("analyze",),
    "dovetail.engine.actions.compare": ("compare",),
    "dovetail.engine.actions.comparison": ("Comparison", "Difference", "Limits"),
    "dovetail.engine.actions.convert": ("convert",),
    "dovetail.engine.actions.extract_lora": ("extract_lora",),
    "dovetail.engine.actions.forecasts": ("Forecast", "plan_stages"),
    "dovetail.engine.actions.merge": ("merge",),
    "dovetail.engine.actions.merge_tensors": ("merge_tensors",),
    "dovetail.engine.actions.moe": ("make_moe",),
    "dovetail.engine.actions.plan": ("plan",),
    "dovetail.engine.actions.recompute": ("recompute",),
    "dovetail.engine.actions.vectors": ("make_vectors",),
    "dovetail.engine.actions.verify": ("Verdict", "read_manifest", "verify"),
    "dovetail.engine.output.document": ("Manifest",),
    "dovetail.engine.planning.extraction.options": ("ExtractionOptions",),
    "dovetail.engine.planning.plan": ("Plan", "PlanOptions"),
    "dovetail.engine.run.prepare": ("RunOptions",),
    "dovetail.engine.searching.history": ("SearchResult",),
    "dovetail.engine.searching.options": ("SearchOptions",),
    "dovetail.engine.searching.search": ("search",),
    "dovetail.io.formats.safetensors_format": ("SafetensorsFormat",),
    "dovetail.io.zarr.format": ("ZarrFormat",),
}
"""For each module, the public names that it defines."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that the command's help does not wait for numba."""
    for module, names in _HOMES.items():
        if name in names:
            # An import that Ctrl-C cuts short leaves halves of modules behind, and nothing imported is garbage.
            with held(at_once=True), collector_paused():
                return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List all names of the package, including public ones that are not imported yet."""
    return sorted({*globals(), *__all__})
