"""Modules of modular networks. No recipe can name it; `dovetail modules` uses it as merges use their methods."""

from __future__ import annotations

from dovetail.engine.methods.convert import make_program
from dovetail.engine.methods.method import Method

MODULES = Method(
    name="modules",
    summary="Cut what some classes need out of modular networks.",
    paper="https://arxiv.org/abs/2306.09376",
    base="member",
    parameters=(),
    program=make_program,
    by_name=False,
)
"""What an extraction of modules has in place of a row of the table of methods: its plan only copies parts."""
