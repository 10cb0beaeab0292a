"""Networks that are trained to be modular, and the modules that are taken out of them (MwT, arXiv:2306.09376).

Only tracing, loading and training need torch, which the extra ``modular`` installs; it is imported when they are used.
"""

from __future__ import annotations

from dovetail.engine.modular.architecture import (
    Architecture,
    hidden_width,
    mask_places,
    masked_layers,
    with_generators,
)
from dovetail.engine.modular.documents import architecture_from_json, architecture_to_json
from dovetail.engine.modular.node import INPUT, Node
from dovetail.engine.modular.tracing import trace

__all__ = [
    "INPUT",
    "Architecture",
    "Node",
    "architecture_from_json",
    "architecture_to_json",
    "hidden_width",
    "mask_places",
    "masked_layers",
    "trace",
    "with_generators",
]
