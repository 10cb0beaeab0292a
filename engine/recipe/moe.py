"""The recipe of a mixture of experts: mergekit-moe's YAML, read as other recipes are."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from dovetail.engine.errors import RecipeError
from dovetail.engine.recipe.keys import Place, keys_of
from dovetail.engine.recipe.load import RecipeSource, parse_documents, read_origin
from dovetail.engine.recipe.model_ref import ModelRef
from dovetail.engine.recipe.origin import Origin
from dovetail.engine.recipe.places import Unused
from dovetail.engine.recipe.problems import Strict, problem, recipe_error
from dovetail.engine.recipe.scalars import Whole
from dovetail.engine.recipe.schema import Dtype
from dovetail.engine.recipe.unused import without_unused

GateMode = Literal["hidden", "hidden_avg", "hidden_last", "cheap_embed", "random", "uniform_random"]
"""How the routers' weights are made."""

Prompts = Annotated[tuple[str, ...], Field()]
"""Texts that say what an expert is for."""


class Expert(Strict):
    """One model, of which the feed-forward layers become an expert."""

    source_model: ModelRef
    """The checkpoint."""
    positive_prompts: Prompts = ()
    """Texts that are to be sent to it."""
    negative_prompts: Prompts = ()
    """Texts that are not."""
    noise_scale: float | None = None
    """Known from mergekit, and refused: noise of no seed cannot be made again."""
    residual_scale: float | None = None
    """Factor of what it adds to the residual stream."""

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, data: Any) -> Any:
        """Take ``positive_prompts:`` without a value as none."""
        return {k: v for k, v in data.items() if v is not None} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _check(self) -> Expert:
        if self.noise_scale:
            raise problem(
                f"is {self.noise_scale}", "no noise", "leave it out; add noise to a model beforehand", ("noise_scale",)
            )
        return self


class MoeRecipe(Strict):
    """What mixture of experts to make of which models."""

    base_model: ModelRef
    """The model that everything but the experts comes from."""
    experts: tuple[Expert, ...] = Field(min_length=1)
    """The experts."""
    gate_mode: GateMode = "hidden"
    """How the routers' weights are made."""
    dtype: Dtype | None = None
    """Dtype of the output; None for that of the base model's tensors."""
    experts_per_token: Whole = 2
    """Experts that each token is sent to."""
    shared_experts: tuple[Expert, ...] = ()
    """Experts that every token is sent to."""
    architecture: str | None = None
    """Beginning of the name of the architecture to make, where the models leave a choice."""

    _origin: Origin = PrivateAttr(default_factory=Origin)
    _unused: tuple[Unused, ...] = PrivateAttr(default=())

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, data: Any) -> Any:
        return {k: v for k, v in data.items() if v is not None} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _check(self) -> MoeRecipe:
        if not 1 <= self.experts_per_token <= len(self.experts):
            raise problem(
                f"is {self.experts_per_token}", f"1 to {len(self.experts)}, the experts", path=("experts_per_token",)
            )
        if not self.needs_prompts:
            return self
        for index, expert in enumerate(self.experts):
            if not expert.positive_prompts:
                raise problem(
                    "has no positive_prompts",
                    f"some, from which gate_mode {self.gate_mode} makes its gate",
                    "write some, or use gate_mode: random",
                    ("experts", index),
                )
        alike = {(expert.positive_prompts, expert.negative_prompts) for expert in self.experts}
        if len(alike) == 1 < len(self.experts):
            raise problem("have the same prompts", "prompts that tell the experts apart", "write others", ("experts",))
        return self

    @property
    def needs_prompts(self) -> bool:
        """Whether gates are made from prompts."""
        return self.gate_mode not in ("random", "uniform_random")

    @property
    def origin(self) -> Origin:
        """Where the recipe came from, with its text."""
        return self._origin

    @property
    def unused(self) -> tuple[Unused, ...]:
        """Keys that were given and have no effect, in the order of the text."""
        return self._unused

    def with_origin(self, origin: Origin, unused: tuple[Unused, ...] | None = None) -> MoeRecipe:
        """Return the same recipe, said to come from `origin`; and if `unused` is given, with these `unused` keys."""
        copy = self.model_copy()
        copy._origin = origin
        copy._unused = self._unused if unused is None else unused
        return copy

    def references(self) -> tuple[ModelRef, ...]:
        """Give every model, once each, the base model first."""
        every = (*self.experts, *self.shared_experts)
        return tuple(dict.fromkeys([self.base_model, *(expert.source_model for expert in every)]))


_EXPERT: Final = Place(keys_of(Expert), {"source_model": None})
_KEYS: Final = Place(
    keys_of(MoeRecipe), {"base_model": None, "experts": _EXPERT, "shared_experts": _EXPERT}, harmless=("dtype",)
)


def load_moe_recipe(source: RecipeSource) -> MoeRecipe:
    """Read the recipe of a mixture of experts.

    Parameters
    ----------
    source
        A file, its text, or a dict, as for `dovetail.engine.recipe.load_recipe`.

    Raises
    ------
    RecipeError
        Anything is wrong with it. The message names the file, the line, the key path, and the nearest valid name.

    """
    origin = read_origin(source)
    documents = parse_documents(origin)
    if len(documents) != 1:
        raise RecipeError(
            f"{origin.name}: the recipe has {len(documents)} documents", "one", "write one for each model"
        )
    data, unused = without_unused(documents[0], origin, _KEYS)
    try:
        return MoeRecipe.model_validate(data).with_origin(origin, unused)
    except ValidationError as error:
        raise recipe_error(error, data, origin) from None
