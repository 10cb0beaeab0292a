"""The shape of the table of methods: what a row says about a method and its parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from dovetail.engine.methods.outputs import Output
from dovetail.engine.methods.program import Problem, Program


class _Required:
    """Type of `REQUIRED`."""

    def __repr__(self) -> str:
        return "required"


REQUIRED: Final = _Required()
"""Default of a parameter that has none."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a method."""

    name: str
    """Key in a recipe's ``parameters``."""
    kind: Literal["float", "int", "bool", "choice", "models"]
    """Type of its values; ``models`` is a list of model names."""
    default: Any
    """Value when a recipe gives none, or `REQUIRED`."""
    help: str
    """One line for people."""
    scope: Literal["model", "merge"] = "merge"
    """Whether each model has its own value or the merge has one."""
    choices: tuple[str, ...] = ()
    """Permitted values of a ``choice``."""
    synonyms: tuple[str, ...] = ()
    """Other keys that recipes may use for it."""


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the table of methods."""

    name: str
    """Value of a recipe's ``merge_method``."""
    summary: str
    """What it does and when to use it, in one line."""
    paper: str
    """Address of the paper that defines it, or an empty string."""
    base: Literal["origin", "pair", "optional", "member"]
    """What the base model is. ``origin``: required, the origin of task vectors, not merged itself. ``pair``: required,
    and merged with just one other model. ``optional``: the origin of task vectors if there is one. ``member``: a model
    like any other."""
    parameters: tuple[Parameter, ...]
    """Its parameters."""
    program: Callable[[Problem], Program] = field(repr=False)
    """Makes the program of one tensor; raises RecipeError where parameters do not fit together."""
    min_models: int = 1
    """Least number of models, the base model not counted."""
    max_models: int | None = None
    """Greatest number of models; None for any."""
    outputs: Callable[[Problem], tuple[Output, ...]] | None = field(default=None, repr=False)
    """Gives the outputs of a problem that has several, two at least; its programs are then `GroupProgram`. None for a
    method whose problems have one output each, with the inputs' name and shape."""
    by_name: bool = True
    """Whether a program depends on its tensor's name, as random masks do; else tensors that are alike share one."""
