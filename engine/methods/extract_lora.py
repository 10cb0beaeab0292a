"""Extraction of an adapter. No recipe can name it; `dovetail extract-lora` uses it as merges use their methods."""

from __future__ import annotations

from dovetail.engine.methods.convert import make_program
from dovetail.engine.methods.method import Method

EXTRACT_LORA = Method(
    name="extract_lora",
    summary="Write what a fine-tune changed as a low-rank adapter.",
    paper="https://arxiv.org/abs/2106.09685",
    base="origin",
    parameters=(),
    program=make_program,
    max_models=1,
    by_name=False,
)
"""What an extraction has in place of a row of the table of methods: its plan only puts finished tensors together."""
