"""What comparing two checkpoints finds: how far every pair of tensors lies apart, and how far they may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dovetail.engine.errors import RecipeError
from dovetail.engine.facts import cut, facts_html, facts_text
from dovetail.engine.output.tensor_table import data_frame
from dovetail.engine.run.budget import Budget
from dovetail.engine.text import format_size
from dovetail.io.dtypes import DTYPES


@dataclass(slots=True)
class Difference:
    """How far two tensors with the same name and shape lie apart."""

    name: str
    """Name of both tensors."""
    dtypes: tuple[str, str]
    """Dtypes of the two tensors, by the names that safetensors uses."""
    elements: int
    """Number of elements of each tensor."""
    changed: int = 0
    """Number of elements that differ. Zeros of both signs are equal, and so are two NaN."""
    unmatched: int = 0
    """How many of these are not finite in at least one tensor: no distance is measured, and any limit is exceeded."""
    max_abs: float = 0.0
    """The greatest ``|a - b|``."""
    max_rel: float = 0.0
    """The greatest ``|a - b| / max(|a|, |b|)``."""
    max_ulp: int = 0
    """The greatest distance in units in the last place of the coarser dtype; see `dovetail.engine.kernels.compare`.
    For integers, the greatest ``|a - b|``."""
    same_bits: bool = True
    """Whether the two tensors have the same dtype and the same bytes."""

    def add(self, other: Difference) -> None:
        """Add the difference of another chunk of the same two tensors."""
        self.changed += other.changed
        self.unmatched += other.unmatched
        self.max_abs, self.max_rel = max(self.max_abs, other.max_abs), max(self.max_rel, other.max_rel)
        self.max_ulp = max(self.max_ulp, other.max_ulp)
        self.same_bits &= other.same_bits

    def to_json(self) -> dict[str, Any]:
        """Give the difference as a JSON object, with the fraction of elements that differ."""
        return asdict(self) | {"changed_fraction": self.changed / max(1, self.elements)}


@dataclass(frozen=True, slots=True)
class Limits:
    """How far apart two tensors may lie; if no limit is given, they may not differ at all, not even in dtype."""

    max_abs: float | None = None
    """Greatest ``|a - b|``; None for any."""
    max_rel: float | None = None
    """Greatest ``|a - b| / max(|a|, |b|)``; None for any."""
    max_ulp: int | None = None
    """Greatest distance in units in the last place of the coarser dtype; None for any."""

    def __post_init__(self) -> None:
        for name, limit in (("max_abs", self.max_abs), ("max_rel", self.max_rel), ("max_ulp", self.max_ulp)):
            if limit is not None and not limit >= 0:  # this refuses NaN too, which no distance would exceed
                raise RecipeError(f"{name} is {limit}", "a number that is not negative", f"correct {name}")

    @property
    def given(self) -> bool:
        """Whether any limit is given."""
        return (self.max_abs, self.max_rel, self.max_ulp) != (None, None, None)

    def exceeded_by(self, difference: Difference) -> bool:
        """Whether two tensors with this difference lie farther apart than is allowed."""
        if not self.given:
            return difference.changed > 0 or difference.dtypes[0] != difference.dtypes[1]
        found = (
            (self.max_abs, difference.max_abs),
            (self.max_rel, difference.max_rel),
            (self.max_ulp, difference.max_ulp),
        )
        return difference.unmatched > 0 or any(limit is not None and value > limit for limit, value in found)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison of two checkpoints found."""

    differences: tuple[Difference, ...]
    """The difference of every pair of tensors that was compared, in the first checkpoint's order."""
    only_first: tuple[str, ...]
    """Tensors that only the first checkpoint has."""
    only_second: tuple[str, ...]
    """Tensors that only the second has."""
    unlike: tuple[tuple[str, str, str], ...]
    """Tensors that cannot be compared, because their shapes differ or only one of them has floating-point elements.

    Each has its name, and its dtype and shape in the first and in the second checkpoint."""
    budget: Budget
    """The memory and the workers of the comparison."""
    seconds: float
    """Time that the comparison took, in seconds."""

    def table(self) -> np.recarray[Any, Any]:
        """Give the differences as numpy records, in the first checkpoint's order.

        Returns
        -------
        recarray
            One record a tensor: the fields of `Difference`, with ``changed_fraction``, and the two dtypes as ``first``
            and ``second``.

        """
        return _table(self.differences)

    def to_pandas(self) -> Any:
        """Give the differences as a data frame of pandas, by name.

        Raises
        ------
        UnsupportedError
            pandas is not installed; the message says how to install it.

        """
        return data_frame(self.table())

    def _facts(self) -> dict[str, str]:
        apart = [each for each in self.differences if each.changed]
        far = max(self.differences, key=lambda each: each.max_abs, default=None)
        return {
            "tensors": f"{len(self.differences):,} compared, {len(apart):,} with elements that differ",
            "farthest": f"{far.max_abs:.4g} in {cut(far.name)}" if far is not None and apart else "nothing differs",
            "not compared": f"{len(self.unlike):,} unlike, {len(self.only_first):,} only in the first, "
            f"{len(self.only_second):,} only in the second",
            "read": f"{format_size(self.read_bytes)} in {self.seconds:.1f} s",
        }

    def __repr__(self) -> str:
        return facts_text("Comparison", self._facts())

    def _repr_html_(self) -> str:
        """Show it as a table in notebooks."""
        return facts_html("Comparison", self._facts())

    @property
    def read_bytes(self) -> int:
        """Bytes of both checkpoints that were compared."""
        return sum(sum(DTYPES[name].itemsize for name in each.dtypes) * each.elements for each in self.differences)

    def beyond(self, limits: Limits) -> tuple[str, ...]:
        """Name the tensors that exceed the limits, that cannot be compared, or that only one checkpoint has."""
        apart = [each.name for each in self.differences if limits.exceeded_by(each)]
        return (*apart, *(name for name, _, _ in self.unlike), *self.only_first, *self.only_second)


def _table(differences: Sequence[Difference]) -> np.recarray[Any, Any]:
    """Make a record of every difference."""
    kind = np.dtype(
        [
            *(("name", object), ("first", object), ("second", object), ("elements", np.int64)),
            *(("changed", np.int64), ("changed_fraction", np.float64), ("unmatched", np.int64)),
            *(("max_abs", np.float64), ("max_rel", np.float64), ("max_ulp", np.uint64), ("same_bits", np.bool_)),
        ]
    )
    table = np.zeros(len(differences), kind)
    for place, each in enumerate(differences):
        found = each.to_json()
        found["first"], found["second"] = each.dtypes
        for name in kind.names or ():
            table[name][place] = found[name]
    return table.view(np.recarray)
