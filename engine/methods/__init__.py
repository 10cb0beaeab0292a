"""Merge methods: one file and one row of the table each.

What a method of another distribution needs can be imported from here; see `dovetail.engine.methods.plugins`.
"""

from __future__ import annotations

from dovetail.engine.methods.method import REQUIRED, Method, Parameter
from dovetail.engine.methods.program import Bytes, Chunk, ChunkStatistics, OnePass, Problem, Program, State

__all__ = [
    "REQUIRED",
    "Bytes",
    "Chunk",
    "ChunkStatistics",
    "Method",
    "OnePass",
    "Parameter",
    "Problem",
    "Program",
    "State",
]
