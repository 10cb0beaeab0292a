"""Many merges by mergekit in one process, for comparisons.

Executed by the interpreter of mergekit's own environment, it imports nothing of ours. It reads lines of JSON,
``{"recipe": PATH, "out": FOLDER}``, from standard input, and answers each with a line ``{"error": TEXT or null}``.
Models' paths in recipes are relative to the current folder. Lines ``{"sparsify": METHOD, "tensor": ROWS, "density": D,
"epsilon": E, "seeds": N}`` ask what N random masks are like; the answers have ``kept``, how often each element is kept,
and ``norms``, the least and the greatest sum of magnitudes of the rescaled tensor.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

# This folder has a module "kernels", as has the package index; torch's friends must not take ours for it.
sys.path.pop(0)
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from mergekit.sparsify import RescaleNorm, SparsificationMethod, sparsify


def merge(recipe: str, out: str) -> None:
    """Merge one recipe."""
    with open(recipe) as file:  # noqa: PTH123 - as plain as can be
        config = MergeConfiguration.model_validate(yaml.safe_load(file))
    # Loaders of an earlier merge would keep its files open, and stale where a folder has been written anew.
    LoaderCache().loaders.clear()
    run_merge(config, out, MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True, device="cpu"))


def statistics(request: dict[str, Any]) -> dict[str, Any]:
    """Sparsify a tensor at random many times."""
    tensor = torch.tensor(request["tensor"], dtype=torch.float32)
    kept, norms = torch.zeros_like(tensor), []
    for seed in range(request["seeds"]):
        torch.manual_seed(seed)
        sparse = sparsify(
            tensor,
            density=request["density"],
            method=SparsificationMethod(request["sparsify"]),
            epsilon=request["epsilon"],
            rescale_norm=RescaleNorm.l1,
        )
        kept += sparse != 0
        norms.append(sparse.double().abs().sum().item())
    return {"kept": kept.int().tolist(), "norms": [min(norms), max(norms)]}


def main() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed must not mix with the answers
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {"error": None}
        try:
            if "sparsify" in request:
                answer |= statistics(request)
            else:
                merge(request["recipe"], request["out"])
        except Exception as failure:
            answer["error"] = f"{type(failure).__name__}: {failure}"
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
