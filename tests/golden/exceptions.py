"""Where parity with mergekit is not within 2 units in the last place, and why.

Every entry is tested to be needed.
"""

from __future__ import annotations

from dataclasses import dataclass

ROUNDING: dict[str, float] = {
    # The factor of `rescale` comes from two sums in float32.
    "breadcrumbs-normalize-rescale": 5,
    "breadcrumbs_ties-normalize-rescale": 5,
    "ties-rescale": 5,
    # torch.addcmul rounds a multiplication and an addition once (fused), not twice.
    "linear-base-added": 4,
    "linear-gradients": 4,
    # Norms, dot products, angles and shares in float32, where ours are in float64.
    "karcher-base-added": 7,
    "karcher-defaults": 7,
    "karcher-steps": 8,
    "karcher-tol": 4,
    "multislerp-base": 4,
    "multislerp-defaults": 5,
    "multislerp-eps": 6,
    "multislerp-weights": 6,
    "nuslerp-base": 4,
    "nuslerp-cancelling": 4,
    "nuslerp-defaults": 4,
    "nuslerp-mamba": 4,
    "nuslerp-mamba-row_wise": 5,
    "nuslerp-row_wise": 5,
    "slerp-outside": 4,
    # As before; and the share is sensitive where task vectors point against each other.
    "model_stock-mamba": 16,
    # Weights from mean squares in float32.
    "sce-topk": 4,
}
"""Cases where mergekit's own rounding in float32 adds up to more: how many units at most.

That it is theirs is tested too: their result in float64 (``<case>.float64.safetensors``) is within 3 units of ours.
"""


@dataclass(frozen=True)
class Trap:
    """A case where mergekit does what cannot be meant."""

    tensors: tuple[str, ...]
    """The tensors that differ."""
    reason: str
    """What it does."""


TRAPS: dict[str, Trap] = {
    "task_arithmetic-slices": Trap(
        ("model.norm.weight", "lm_head.weight"),
        "of the last slice's sources, which decide the tensors after the layers, it takes only as many as the first "
        "slice has",
    ),
}
"""Cases with a trap."""
