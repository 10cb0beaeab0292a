"""CABS for mergekit, registered through its decorator: the authors' formula in torch.

Run as a program this is ``mergekit-yaml`` with one more method. It is executed by the interpreter of mergekit's own
environment and imports nothing of ours.
"""

from __future__ import annotations

import sys

# This folder has a module "kernels", as has the package index; torch's friends must not take ours for it.
sys.path.pop(0)

import torch
from mergekit.merge_methods.base import BasePolicy, InputContract, PerNonBase, TensorGroup
from mergekit.merge_methods.easy_define import merge_method
from mergekit.merge_methods.registry import register
from mergekit.scripts.run_yaml import main


@merge_method(
    name="cabs",
    pretty_name="CABS",
    reference_url="https://arxiv.org/abs/2503.01874",
    contract=InputContract(base=BasePolicy.REQUIRED),
)
def cabs(
    group: TensorGroup,
    /,
    *,
    weight: PerNonBase[float],
    n_val: PerNonBase[int],
    m_val: PerNonBase[int],
) -> torch.Tensor:
    """Keep, model after model, the n strongest free changes of every m, and add them (Algorithm 1)."""
    base = group.base.tensor
    merged = torch.zeros(base.numel(), dtype=base.dtype)
    claimed = torch.zeros(base.numel(), dtype=torch.bool)
    for entry in group.non_base:
        delta = (entry.tensor - base).reshape(-1)
        free = delta.masked_fill(claimed, 0)
        keep = keep_n_of_m(free.abs(), n_val[entry.id], m_val[entry.id]) & (free != 0)
        merged += delta * keep * weight[entry.id]
        claimed |= keep
    return base + merged.reshape(base.shape)


def keep_n_of_m(magnitude: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """Mark the n largest of every m elements; the last block may be short."""
    keep = torch.zeros(magnitude.shape, dtype=torch.bool)
    whole = magnitude.numel() // m * m
    if whole:
        best = magnitude[:whole].view(-1, m).topk(n, dim=1, sorted=False).indices
        keep[:whole].view(-1, m).scatter_(1, best, True)
    rest = magnitude[whole:]
    if rest.numel():
        keep[whole + rest.topk(min(n, rest.numel())).indices] = True
    return keep


register(cabs)

if __name__ == "__main__":
    main()
