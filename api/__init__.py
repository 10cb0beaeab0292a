"""Dovetail merges model checkpoints that are bigger than your memory.

``from dovetail import merge, open_checkpoint`` is what most programs begin with. All public names of `dovetail.engine`
can be imported from here, and those of `dovetail.io` that open checkpoints. They are imported when they are first used,
so that importing this package takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dovetail.engine import (
        Analysis,
        Comparison,
        Difference,
        ExtractionOptions,
        Forecast,
        Limits,
        Manifest,
        Plan,
        PlanOptions,
        RunOptions,
        SafetensorsFormat,
        SearchOptions,
        SearchResult,
        Verdict,
        ZarrFormat,
        analyze,
        compare,
        convert,
        errors,
        events,
        extract_lora,
        make_moe,
        make_vectors,
        merge,
        merge_tensors,
        plan,
        plan_stages,
        read_manifest,
        recompute,
        search,
        verify,
    )
    from dovetail.io import DovetailError, load_state_dict, open_checkpoint, read_checkpoint

    __version__: str

__all__ = [
    "Analysis",
    "Comparison",
    "Difference",
    "DovetailError",
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
    "__version__",
    "analyze",
    "compare",
    "convert",
    "errors",
    "events",
    "extract_lora",
    "load_state_dict",
    "make_moe",
    "make_vectors",
    "merge",
    "merge_tensors",
    "open_checkpoint",
    "plan",
    "plan_stages",
    "read_checkpoint",
    "read_manifest",
    "recompute",
    "search",
    "verify",
]

_OF_IO = ("DovetailError", "load_state_dict", "open_checkpoint", "read_checkpoint")
"""The public names that come from `dovetail.io`; all others come from `dovetail.engine`."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "__version__":
        from importlib.metadata import version

        return version("dovetail")
    if name in __all__:
        return getattr(import_module("dovetail.io" if name in _OF_IO else "dovetail.engine"), name)
    if name in ("engine", "io"):
        return import_module(f"dovetail.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List all names of the package, including public ones that are not imported yet."""
    return sorted({*globals(), *__all__, "engine", "io"})
