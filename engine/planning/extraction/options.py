"""What a user can ask of an extraction."""

from __future__ import annotations

from dataclasses import dataclass

from dovetail.engine.errors import RecipeError
from dovetail.engine.planning.extraction.modules import matches
from dovetail.engine.planning.opened import requested_dtype

DEFAULT_RANK = 64
"""Greatest rank where none is asked for."""

DEFAULT_RANK_BY_ENERGY = 256
"""Greatest rank where a share of the energy is asked for and no rank."""


@dataclass(frozen=True, slots=True)
class ExtractionOptions:
    """The options that, together with the two models, decide the bytes of an adapter."""

    rank: int | None = None
    """Greatest rank of a matrix; None for 64, or for 256 where `energy` is given."""
    energy: float | None = None
    """Share of each matrix's energy (its sum of squares) to keep, by the least rank that does; None for `rank`."""
    alpha: float | None = None
    """``lora_alpha`` of the adapter; None for its rank, so that the product is not scaled."""
    dtype: str | None = None
    """Dtype of the factors; None for the base model's own, tensor by tensor."""
    include: tuple[str, ...] = ()
    """Patterns of the tensors that are looked at; all if there are none."""
    exclude: tuple[str, ...] = ()
    """Patterns of those that are not."""
    modules_to_save: tuple[str, ...] = ()
    """Patterns of the modules that are kept whole, rather than factored, if they changed."""
    iterations: int = 3
    """Steps of the subspace iteration: each reads the models once and brings the result closer to the optimum."""
    seed: int = 0
    """Seed of the bases that it begins with."""

    def __post_init__(self) -> None:
        checks = (
            ("rank", self.rank, self.rank is None or self.rank >= 1, "a positive number"),
            ("energy", self.energy, self.energy is None or 0 < self.energy <= 1, "a share above 0 and at most 1"),
            ("alpha", self.alpha, self.alpha is None or 0 < self.alpha < 1e30, "a positive number"),
            ("iterations", self.iterations, 1 <= self.iterations <= 100, "a number from 1 to 100"),
        )
        for name, value, sound, expected in checks:
            if not sound:
                raise RecipeError(f"{name} is {value}", expected, f"correct {name}")
        dtype = requested_dtype(self.dtype)
        if dtype is not None and dtype.itemsize not in (2, 4):
            raise RecipeError(f"dtype is {self.dtype}", "float32, float16 or bfloat16", "correct dtype")

    @property
    def most_rank(self) -> int:
        """The greatest rank that a matrix may have."""
        return self.rank or (DEFAULT_RANK if self.energy is None else DEFAULT_RANK_BY_ENERGY)

    def wants(self, tensor: str) -> bool:
        """Whether the extraction compares a tensor in the two models."""
        included = not self.include or matches((*self.include, *self.modules_to_save), tensor)
        return included and not matches(self.exclude, tensor)
