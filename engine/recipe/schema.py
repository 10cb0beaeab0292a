"""Recipes as pydantic models: mergekit's YAML, with every key known and every value typed.

Whether a method knows the parameters that a recipe gives it is checked in `values`; here they are only read.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    model_validator,
)

from dovetail.engine.facts import listed
from dovetail.engine.recipe.dumping import dump
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.origin import Origin
from dovetail.engine.recipe.places import Unused, nearest, one_of, shown
from dovetail.engine.recipe.problems import Strict, problem
from dovetail.engine.recipe.scalars import Label, Whole
from dovetail.engine.recipe.settings import Setting
from dovetail.engine.recipe.tokenizer import Tokenizer, TokenizerSource
from dovetail.engine.text import short_name
from dovetail.io.dtypes import MERGEABLE

DTYPES = tuple(dtype.torch_name for dtype in MERGEABLE)
"""Names of dtypes in recipes; mergekit knows the first three."""


def _check_dtype(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    name = value.removeprefix("torch.")
    if name not in DTYPES:
        raise problem(f"is {shown(value)}", one_of(DTYPES), nearest(name, DTYPES))
    return name


Parameters = Annotated[dict[str, Setting], BeforeValidator(lambda value: {} if value is None else value)]
"""Values of parameters by name."""
Dtype = Annotated[str, BeforeValidator(_check_dtype)]
"""Name of a dtype."""


class InputModel(Strict):
    """A model to merge."""

    model: ModelRef
    """The checkpoint."""
    parameters: Parameters = Field(default_factory=dict)
    """Its own parameters."""


class SliceSource(Strict):
    """Layers of a model to merge."""

    model: ModelRef
    """The checkpoint."""
    layer_range: tuple[Whole, Whole]
    """First layer, and one past the last."""
    parameters: Parameters = Field(default_factory=dict)
    """Its own parameters."""

    @model_validator(mode="after")
    def _check_range(self) -> SliceSource:
        if not 0 <= self.layer_range[0] <= self.layer_range[1]:
            raise problem(f"is {list(self.layer_range)}", "0 <= first <= last + 1", path=("layer_range",))
        return self


class OutputSlice(Strict):
    """Consecutive layers of the output."""

    sources: tuple[SliceSource, ...] = Field(min_length=1)
    """What they are merged from."""
    base_model: ModelRef | None = None
    """Base model of these layers; None for the recipe's."""
    residual_weight: float | None = None
    """Accepted for mergekit's sake, where it has no effect either."""
    parameters: Parameters = Field(default_factory=dict)
    """Parameters of these layers."""

    @model_validator(mode="after")
    def _check_sources(self) -> OutputSlice:
        lengths = [source.layer_range[1] - source.layer_range[0] for source in self.sources]
        for i, length in enumerate(lengths):
            if length != lengths[0]:
                raise problem(
                    f"has {length} layers",
                    f"{lengths[0]} as in the slice's first source",
                    path=("sources", i, "layer_range"),
                )
        return self


class OutputModule(Strict):
    """A part of the output with its own layers, which is made of models or slices."""

    models: tuple[InputModel, ...] = ()
    """Whole models to merge."""
    slices: tuple[OutputSlice, ...] = ()
    """Layers to stack."""
    parameters: Parameters = Field(default_factory=dict)
    """Parameters of this part."""

    @model_validator(mode="after")
    def _check_one(self) -> OutputModule:
        if bool(self.models) == bool(self.slices):
            raise problem("has both or neither of 'models' and 'slices'", "exactly one of them")
        return self


class Recipe(Strict):
    """A recipe: what to merge, and how."""

    name: Label | None = None
    """Name of the result."""
    merge_method: str
    """Name of a method."""
    base_model: ModelRef | None = None
    """The model that the others were made from."""
    models: tuple[InputModel, ...] = ()
    """Whole models to merge; or else"""
    slices: tuple[OutputSlice, ...] = ()
    """layers to stack; or else"""
    modules: dict[str, OutputModule] = Field(default_factory=dict)
    """parts of the output."""
    parameters: Parameters = Field(default_factory=dict)
    """Parameters of the whole merge."""
    vectors: ModelRef | None = None
    """Store of the models' task vectors, from which they are merged in place of the models themselves."""
    dtype: Dtype | None = None
    """Dtype of the output unless `out_dtype` is given."""
    out_dtype: Dtype | None = None
    """Dtype of the output."""
    chat_template: str | None = None
    """Name or text of a chat template."""
    tokenizer_source: TokenizerSource | None = None
    """Where the tokenizer comes from."""
    tokenizer: Tokenizer | None = None
    """How the tokenizer is made, in detail."""

    _origin: Origin = PrivateAttr(default_factory=Origin)
    _unused: tuple[Unused, ...] = PrivateAttr(default=())

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {k: v for k, v in data.items() if v is not None or k not in ("models", "slices", "modules")}
        return data

    @model_validator(mode="after")
    def _check_whole(self) -> Recipe:
        given = [key for key in ("models", "slices", "modules") if getattr(self, key)]
        if len(given) != 1:
            raise problem(
                f"has {' and '.join(given) or 'no models to merge'}", "exactly one of models, slices, modules"
            )
        if self.tokenizer and self.tokenizer_source:
            raise problem("has both 'tokenizer' and 'tokenizer_source'", "one of them")
        if self.vectors and (self.tokenizer or self.tokenizer_source):
            raise problem(
                "has 'vectors' and asks for a tokenizer",
                "one of them, as a store has no tokenizers",
                "leave the tokenizer out, or merge the models themselves",
            )
        return self

    def __repr__(self) -> str:
        names = [short_name(str(ref)) for ref in self.named()]
        return f"Recipe({self.merge_method} of {listed(names)})"

    __str__ = __repr__

    @property
    def origin(self) -> Origin:
        """Where the recipe came from, with its original text."""
        return self._origin

    @property
    def text(self) -> str:
        """The recipe as it was written."""
        return self._origin.text if self._origin.own_text is None else self._origin.own_text

    @property
    def unused(self) -> tuple[Unused, ...]:
        """Keys that were given and have no effect, in the order of the text."""
        return self._unused

    def with_origin(self, origin: Origin, unused: tuple[Unused, ...] | None = None) -> Recipe:
        """Return the same recipe, said to come from `origin`; and if `unused` is given, with these `unused` keys."""
        copy = self.model_copy()
        copy._origin = origin
        copy._unused = self._unused if unused is None else unused
        return copy

    def references(self) -> tuple[ModelRef, ...]:
        """Every checkpoint that is opened, once each: those of `named`, or with `vectors` the base models and last the
        store."""
        return self.named() if self.vectors is None else (*self.base_models(), self.vectors)

    def named(self) -> tuple[ModelRef, ...]:
        """Every model that the recipe names, once each: the base model first, then in order, those that only the
        tokenizer needs at last."""
        refs = [self.base_model] if self.base_model else []
        parts: list[Recipe | OutputModule] = [self, *self.modules.values()]
        for part in parts:
            refs += [model.model for model in part.models]
            for cut in part.slices:
                refs += [cut.base_model] if cut.base_model else []
                refs += [source.model for source in cut.sources]
        refs += [self.tokenizer_source] if isinstance(self.tokenizer_source, ModelRef) else []
        refs += self.tokenizer.references() if self.tokenizer else []
        return tuple(dict.fromkeys(refs))

    def base_models(self) -> tuple[ModelRef, ...]:
        """The base model and those of single slices."""
        parts: list[Recipe | OutputModule] = [self, *self.modules.values()]
        cuts = [cut for part in parts for cut in part.slices]
        found = [self.base_model, *(cut.base_model for cut in cuts)]
        return tuple(dict.fromkeys(ref for ref in found if ref))

    def to_json(self) -> dict[str, Any]:
        """Write what the recipe says as values that JSON has, its defaults left out."""
        found: dict[str, Any] = dump(self)
        return found

    def canonical_json(self) -> str:
        """Write what the recipe says, not how it says it: equal for equal recipes, fit for hashing."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
