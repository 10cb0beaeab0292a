"""The rows of the table of methods: what they say about a method and its parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from dovetail.engine.methods.outputs import Output
from dovetail.engine.methods.program import Problem, Program

if TYPE_CHECKING:
    from dovetail.engine.methods.marking import Marking


class _Required:
    """Type of `REQUIRED`."""

    def __repr__(self) -> str:
        return "required"


REQUIRED: Final = _Required()
"""Stands for the default of a parameter that a recipe must give."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a method."""

    name: str
    """Key in a recipe's ``parameters``."""
    kind: Literal["float", "int", "bool", "choice", "models"]
    """Type of its values; ``models`` is a list of model names."""
    default: Any
    """Value where a recipe gives none; `REQUIRED` if a recipe must give one."""
    help: str
    """What the parameter does, in one line for users."""
    scope: Literal["model", "merge"] = "merge"
    """Whether there is a value for each model (``model``) or one for the merge (``merge``)."""
    choices: tuple[str, ...] = ()
    """Permitted values of a ``choice``."""
    synonyms: tuple[str, ...] = ()
    """Other keys by which recipes may give the parameter."""
    inert: bool = False
    """Whether it never has an effect, and is accepted because other programs have it; recipes that give it are told."""


@dataclass(frozen=True, slots=True)
class PlugIn:
    """An installed distribution that brings methods."""

    distribution: str
    """Its name."""
    version: str
    """Its version."""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True, slots=True)
class Masks:
    """What models keep by a method that prunes their task vectors before it weighs them."""

    family: str
    """What methods have in common that keep the same by the same parameters."""
    program: Callable[[Problem], Marking] = field(repr=False)
    """Makes the program that says what models keep of a tensor."""


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the table of methods."""

    name: str
    """Value of a recipe's ``merge_method``."""
    summary: str
    """What the method does and when to use it, in one line."""
    paper: str
    """Address of the paper that defines the method, or an empty string."""
    base: Literal["origin", "pair", "optional", "member"]
    """The role of the base model. ``origin``: it is required, and task vectors are differences from it. ``pair``: it is
    required, and merged with exactly one other model. ``optional``: if there is one, task vectors are differences from
    it. ``member``: it is merged like any other model."""
    parameters: tuple[Parameter, ...] = field(repr=False)
    """Parameters of the method."""
    program: Callable[[Problem], Program] = field(repr=False)
    """Makes the program of one tensor; raises RecipeError if parameters cannot be used."""
    min_models: int = 1
    """Least number of models, without the base model."""
    max_models: int | None = None
    """Greatest number of models, without the base model; None for no limit."""
    outputs: Callable[[Problem], tuple[Output, ...]] | None = field(default=None, repr=False)
    """Gives the outputs of a problem that has several, two at least; its programs are then `GroupProgram`. None for a
    method whose problems have one output each, with the inputs' name and shape."""
    by_name: bool = True
    """Whether a program depends on the name of its tensor, as random masks do; if not, similar tensors share one."""
    divides_weights: str | None = None
    """The switch that divides the models' ``weight`` by their sum, of a method that sums whole models; None for others.
    Where it is off and a model lacks a tensor, the other models' weights are scaled to the sum of all."""
    masks: Masks | None = None
    """What models keep, if that depends on no weight, so that it can be stored; None for other methods."""
    caution: Callable[[Problem], str] | None = field(default=None, repr=False)
    """Says what a person should know of a problem's parameters before a merge, or nothing; None to say nothing."""
    trial: Callable[[Problem], None] | None = field(default=None, repr=False)
    """Calls the kernels of a small problem's program, where its inputs are not the elements of tensors; None to call
    the program with made-up elements."""
    plug_in: PlugIn | None = None
    """The distribution that brings the method, set when the method is loaded; None for methods of Dovetail."""


def plug_in_entry(method: Method) -> dict[str, dict[str, str]]:
    """Describe the distribution that brings a method, for manifests and hashes; empty for methods of Dovetail."""
    return {} if method.plug_in is None else {"plug_in": asdict(method.plug_in)}
