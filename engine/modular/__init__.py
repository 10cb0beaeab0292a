"""Networks that are trained to be modular, and the modules that are taken out of them (MwT, arXiv:2306.09376).

``__all__`` lists the public names, which are imported when they are first used. Only tracing, loading and training need
torch, which the extra ``modular`` installs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dovetail.engine.modular.extraction.compose import compose_modules
    from dovetail.engine.modular.extraction.extract import extract_module
    from dovetail.engine.modular.extraction.joining import Calibration
    from dovetail.engine.modular.network.architecture import (
        Architecture,
        hidden_width,
        mask_places,
        masked_layers,
        with_generators,
    )
    from dovetail.engine.modular.network.documents import architecture_from_json, architecture_to_json
    from dovetail.engine.modular.network.node import INPUT, Node
    from dovetail.engine.modular.pytorch.loading import load_module
    from dovetail.engine.modular.pytorch.tracing import trace

__all__ = [
    "INPUT",
    "Architecture",
    "Calibration",
    "Node",
    "architecture_from_json",
    "architecture_to_json",
    "compose_modules",
    "extract_module",
    "hidden_width",
    "load_module",
    "mask_places",
    "masked_layers",
    "trace",
    "with_generators",
]

_HOMES = {
    "INPUT": "network.node",
    "Calibration": "extraction.joining",
    "Node": "network.node",
    "architecture_from_json": "network.documents",
    "architecture_to_json": "network.documents",
    "compose_modules": "extraction.compose",
    "extract_module": "extraction.extract",
    "load_module": "pytorch.loading",
    "trace": "pytorch.tracing",
}
"""The module of each public name that is not in `dovetail.engine.modular.network.architecture`."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in __all__:
        return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'network.architecture')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List all names of the package, including public ones that are not imported yet."""
    return sorted({*globals(), *__all__})
