"""The keys that a recipe has: which of them are known where, and which of them decide values of the output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from dovetail.engine.recipe.schema import InputModel, OutputModule, OutputSlice, Recipe, SliceSource
from dovetail.engine.recipe.tokenizer import Token, TokenEmbedding, Tokenizer


@dataclass(frozen=True, slots=True)
class Place:
    """A kind of mapping in recipes: its keys, and what stands below them."""

    keys: tuple[str, ...]
    """Keys that are known here."""
    inside: Mapping[str, Place | AnyKeys | ParameterKeys | None] = field(default_factory=dict)
    """Mappings below a key, or lists of them; None for a model's name, which may be a mapping."""
    harmless: tuple[str, ...] = ()
    """Keys that decide no value of the output: a slip in their names is no error."""
    inert: tuple[str, ...] = ()
    """Known keys that never have an effect."""

    @property
    def deciding(self) -> list[str]:
        """Keys that decide values of the output: a slip in their names is an error."""
        return [key for key in self.keys if key not in self.harmless]


@dataclass(frozen=True, slots=True)
class AnyKeys:
    """A mapping with any keys."""

    each: Place
    """What stands below each of them."""


@dataclass(frozen=True, slots=True)
class ParameterKeys:
    """Parameters of the method."""

    alone: bool
    """Whether they are given for a single model."""


def keys_of(model: type[BaseModel]) -> tuple[str, ...]:
    """Give the keys that a part of a recipe has."""
    return tuple(model.model_fields)


_SHARED, _OWN = ParameterKeys(alone=False), ParameterKeys(alone=True)
_PATH = Place(("path", "revision"))
MODEL_PARTS = Place(
    ("model", "lora", "override_architecture"), {"model": _PATH, "lora": _PATH}, harmless=("override_architecture",)
)
"""The keys of a model's name that is written in parts."""
EMBEDDING = Place(keys_of(TokenEmbedding), {"model": None})
"""The keys of where a token's embedding comes from, or of a model's name."""
_TOKEN = Place(keys_of(Token), {"source": EMBEDDING})
_MODELS = Place(keys_of(InputModel), {"model": None, "parameters": _OWN})
_SOURCES = Place(keys_of(SliceSource), {"model": None, "parameters": _OWN})
_SLICES = Place(
    keys_of(OutputSlice),
    {"sources": _SOURCES, "base_model": None, "parameters": _SHARED},
    harmless=("residual_weight",),
    inert=("residual_weight",),
)
_MODULES = Place(keys_of(OutputModule), {"models": _MODELS, "slices": _SLICES, "parameters": _SHARED})
_TOKENIZER = Place(keys_of(Tokenizer), {"source": None, "tokens": AnyKeys(_TOKEN)})
_BELOW: dict[str, Place | AnyKeys | ParameterKeys | None] = {
    "models": _MODELS,
    "slices": _SLICES,
    "parameters": _SHARED,
    "base_model": None,
    "vectors": None,
    "tokenizer_source": None,
    "tokenizer": _TOKENIZER,
}
RECIPE = Place(
    keys_of(Recipe), _BELOW | {"modules": AnyKeys(_MODULES)}, ("name", "dtype", "out_dtype", "chat_template")
)
"""The keys of a recipe."""
FILTERED = Place(("filter", "value"))
"""The keys of a value for some tensors."""
