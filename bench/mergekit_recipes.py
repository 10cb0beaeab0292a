"""Recipes as mergekit's own commands merge them, many in one process, for ``switching.py``.

Executed by the interpreter of mergekit's own environment, it imports nothing of ours. It reads lines of JSON,
``{"folder": FOLDER, "recipe": PATH, "out": FOLDER}``, from standard input, and answers each with a line
``{"error": TEXT or null}``. A recipe of several documents is merged as ``mergekit-multi`` does it, any other as
``mergekit-yaml`` does. Paths of models are relative to ``folder``.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

# This folder has a module "kernels", as has the package index; torch's friends must not take ours for it.
sys.path.pop(0)
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from mergekit.scripts.multimerge import load_config, make_tasks


def merge(folder: str, recipe: str, out: str) -> None:
    """Merge one recipe."""
    os.chdir(folder)
    text = Path(recipe).read_text()
    # Loaders of an earlier merge would keep its files open, and stale where a folder has been written anew.
    LoaderCache().loaders.clear()
    # The card asks the hub about every model.
    options = MergeOptions(
        quiet=True, device="cpu", random_seed=0, lora_merge_cache=f"{out}-lora", write_model_card=False
    )
    if len([each for each in yaml.safe_load_all(text) if each]) > 1:
        stages = f"{out}-stages"
        configs, needs = load_config(text, stages)
        Executor(make_tasks(configs, needs, options, stages, out, True), math_device="cpu").execute()
        if None not in configs:  # then there is no final merge, and the last one counts
            shutil.move(Path(stages) / list(configs)[-1], out)
    else:
        run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), out, options, config_source=text)


def main() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed must not mix with the answers
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    for line in sys.stdin:
        answer: dict[str, Any] = {"error": None}
        try:
            merge(**json.loads(line))
        except Exception as failure:
            answer["error"] = f"{type(failure).__name__}: {failure}"
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
