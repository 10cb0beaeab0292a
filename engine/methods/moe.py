"""Mixtures of experts. No merge recipe can name it; `dovetail moe` uses it as merges use their methods."""

from __future__ import annotations

from dovetail.engine.methods.method import Method
from dovetail.engine.methods.passthrough import make_program

MOE = Method(
    name="moe",
    summary="Make dense models the experts of one model.",
    paper="https://github.com/arcee-ai/mergekit/blob/main/docs/moe.md",
    base="member",
    parameters=(),
    program=make_program,
    by_name=False,
    max_models=1,
)
"""What making a mixture of experts has in place of a row of the table of methods: tensors are taken as they are."""
