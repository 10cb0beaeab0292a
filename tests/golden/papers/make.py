"""Makes the golden files of this folder: what the papers' formulas give for its recipes, computed by torch.

    python tests/golden/papers/make.py            # all recipes
    python tests/golden/papers/make.py iso_c      # those whose names begin so

mergekit lacks these methods, so that nothing of others can be run. Each function below is written from its paper, and
shares no code with Dovetail or with the oracles of the tests.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent

Tensor = torch.Tensor
Settings = dict[str, Any]


def consensus_ta(taus: Sequence[Tensor], settings: Settings, each: Sequence[Settings]) -> Tensor:
    """arXiv:2405.07813, TALL masks and their consensus; in float32, in which the comparison is made."""
    total = torch.zeros_like(taus[0])
    for tau, one in zip(taus, each, strict=True):
        total += one.get("weight", 1.0) * tau
    masks = [
        tau.abs() > one.get("tall_mask_lambda", settings.get("tall_mask_lambda", 0.4)) * (total - tau).abs()
        for tau, one in zip(taus, each, strict=True)
    ]
    agreed = torch.stack(masks).sum(0) >= settings.get("k", 2)
    return settings.get("lambda", 1.0) * (total * agreed)


def mean(taus: Sequence[Tensor], settings: Settings, each: Sequence[Settings]) -> Tensor:
    """What the methods below do with tensors that are no matrices."""
    weighted = [one.get("weight", 1.0) * tau.double() for tau, one in zip(taus, each, strict=True)]
    return settings.get("lambda", 1.0) * torch.stack(weighted).mean(0)


def tsv_m(taus: Sequence[Tensor], settings: Settings, each: Sequence[Settings]) -> Tensor:
    """arXiv:2412.00081, TSV-M: truncate, concatenate, orthogonalise, multiply."""
    if taus[0].dim() != 2:
        return mean(taus, settings, each)
    rank = min(taus[0].shape) // len(taus)
    lefts, values, rights = [], [], []
    for tau, one in zip(taus, each, strict=True):
        left, value, right = torch.linalg.svd(one.get("weight", 1.0) * tau.double(), full_matrices=False)
        lefts.append(left[:, :rank])
        values.append(value[:rank])
        rights.append(right[:rank])
    p, _, q = torch.linalg.svd(torch.cat(lefts, 1), full_matrices=False)
    r, _, s = torch.linalg.svd(torch.cat(rights, 0), full_matrices=False)
    return settings.get("lambda", 1.0) * (p @ q @ torch.diag(torch.cat(values)) @ r @ s)


def iso_c(taus: Sequence[Tensor], settings: Settings, each: Sequence[Settings]) -> Tensor:
    """arXiv:2502.04959, Iso-C: the sum, with every singular value replaced by their mean."""
    if taus[0].dim() != 2:
        return mean(taus, settings, each)
    total = torch.stack([one.get("weight", 1.0) * tau.double() for tau, one in zip(taus, each, strict=True)]).sum(0)
    left, values, right = torch.linalg.svd(total, full_matrices=False)
    return settings.get("lambda", 1.0) * values.mean() * (left @ right)


METHODS = {"consensus_ta": consensus_ta, "tsv_m": tsv_m, "iso_c": iso_c}


def main() -> None:
    """Make what is asked for."""
    wanted = tuple(sys.argv[1:]) or ("",)
    for path in sorted(HERE.glob("*.yml")):
        if not path.stem.startswith(wanted):
            continue
        recipe = yaml.safe_load(path.read_text())
        base, *models = (
            {name: tensor.float() for name, tensor in load_file(HERE / model / "model.safetensors").items()}
            for model in (recipe["base_model"], *(each["model"] for each in recipe["models"]))
        )
        settings, each = recipe.get("parameters", {}), [one.get("parameters", {}) for one in recipe["models"]]
        merged = {}
        for name, origin in sorted(base.items()):
            change = METHODS[recipe["merge_method"]]([model[name] - origin for model in models], settings, each)
            merged[name] = (origin.to(change.dtype) + change).float().contiguous()
        save_file(merged, path.with_suffix(".safetensors"))
        print(path.stem, flush=True)


if __name__ == "__main__":
    main()
