"""Merge methods: one file and one row of the table each.

What a method of another distribution needs can be imported from here; see `dovetail.engine.methods.plugins`. What
brings numba along is imported when it is first used, because recipes are read without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dovetail.engine.methods.method import REQUIRED, Method, Parameter
from dovetail.engine.methods.outputs import GroupProgram, Output
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, EveryChunk, OnePass, Problem, Program, State

if TYPE_CHECKING:
    from dovetail.engine.kernels.convert import encode
    from dovetail.engine.methods.decoding import STRETCH, TaskVectors, Values, blocks, plain_statistics, stretches

__all__ = [
    "REQUIRED",
    "STRETCH",
    "Bytes",
    "Chunk",
    "ChunkStatistics",
    "EveryChunk",
    "GroupProgram",
    "Method",
    "OnePass",
    "Output",
    "Parameter",
    "Problem",
    "Program",
    "State",
    "TaskVectors",
    "Values",
    "blocks",
    "encode",
    "plain_statistics",
    "stretches",
]


def __getattr__(name: str) -> Any:
    """Import a helper for compiled code when it is first used."""
    if name == "encode":
        return import_module("dovetail.engine.kernels.convert").encode
    if name in __all__:
        return getattr(import_module("dovetail.engine.methods.decoding"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
