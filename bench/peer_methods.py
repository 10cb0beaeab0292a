"""The methods that Dovetail and mergekit can both have, each with the settings it is measured with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workplace import write_recipe

Parameters = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """How one method is measured on a base model and its fine-tunes."""

    models: str
    """Its models: letters of ``b`` (the base), ``1`` and ``2`` (the fine-tunes)."""
    base: str = ""
    """Its base model, or nothing."""
    parameters: Parameters = field(default_factory=dict)
    """Parameters of the merge."""
    each: Sequence[Parameters] = ()
    """Parameters of every model."""
    random: bool = False
    """Whether masks are random, so that results can only be compared statistically."""
    pair: bool = False
    """Whether the method takes two models and no more."""

    def write(self, path: Path, method: str, family: Sequence[Path], dtype: str) -> Path:
        """Write the recipe for a family of checkpoints.

        Fine-tunes beyond the second are merged too, with the parameters of the second, unless the method takes a pair.
        """
        place = {"b": family[0], **{str(number): folder for number, folder in enumerate(family[1:], 1)}}
        more = [] if self.pair or "2" not in self.models else [str(number) for number in range(3, len(family))]
        return write_recipe(
            path,
            method,
            place[self.base] if self.base else None,
            [place[letter] for letter in (*self.models, *more)],
            parameters=self.parameters,
            model_parameters=(*self.each, *(self.each[-1:] * len(more))),
            dtype=dtype,
        )


def _weights(*values: float, **more: Any) -> tuple[Parameters, ...]:
    return tuple({"weight": value, **more} for value in values)


SETTINGS: dict[str, Setting] = {
    "linear": Setting("b12", each=_weights(0.2, 0.4, 0.4)),
    "task_arithmetic": Setting("12", "b", each=_weights(0.6, 0.4)),
    "cabs": Setting("12", "b", each=_weights(0.6, 0.4, n_val=64, m_val=256)),
    "ties": Setting("12", "b", each=_weights(0.6, 0.4, density=0.5)),
    "dare_linear": Setting("12", "b", each=_weights(0.6, 0.4, density=0.5), random=True),
    "dare_ties": Setting("12", "b", each=_weights(0.6, 0.4, density=0.5), random=True),
    "breadcrumbs": Setting("12", "b", each=_weights(0.6, 0.4, density=0.5, gamma=0.01)),
    "breadcrumbs_ties": Setting("12", "b", each=_weights(0.6, 0.4, density=0.5, gamma=0.01)),
    "della": Setting("12", "b", each=_weights(0.6, 0.4, density=0.5, epsilon=0.15), random=True),
    "della_linear": Setting("12", "b", each=_weights(0.6, 0.4, density=0.5, epsilon=0.15), random=True),
    "slerp": Setting("12", "1", {"t": 0.4}, pair=True),
    "nuslerp": Setting("12", each=_weights(0.6, 0.4), pair=True),
    "multislerp": Setting("12", "b", each=_weights(0.6, 0.4)),
    "karcher": Setting("b12"),
    "model_stock": Setting("12", "b"),
    "nearswap": Setting("12", "1", {"t": 1e-5}, pair=True),
    "arcee_fusion": Setting("12", "1", pair=True),
    "sce": Setting("12", "b", {"select_topk": 0.5}),
    "ram": Setting("12", "b"),
    "ramplus_tl": Setting("12", "b"),
    "passthrough": Setting("1"),
}
"""By method name, in the order of the table."""
