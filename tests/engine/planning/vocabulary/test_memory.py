"""Peak memory of a merge whose rows are scattered over its inputs, in a process of its own."""

from __future__ import annotations

import random
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from dovetail.engine import plan
from dovetail.engine.errors import MemoryLimitError
from dovetail.engine.run.prepare import RunOptions, prepare
from tests.checkpoints import write_recipe
from tests.engine.planning.vocabulary.samples import recipe, write_model
from tests.engine.run.test_memory_limit import MIB, merge_and_measure

TOKENS, WIDTH = 16_000, 2_048


def test_scattered_rows_stay_below_the_limit(tmp_path: Path) -> None:
    """Two embeddings of 64 MB whose rows have nothing to do with each other are aligned within the limit."""
    words = ["?", *(f"w{number}" for number in range(TOKENS - 1))]
    pool = np.random.default_rng(0).standard_normal((TOKENS, WIDTH), np.float32).astype(ml_dtypes.bfloat16)
    folders = []
    for seed, name in enumerate(("one", "two")):
        order = words[:1] + random.Random(seed).sample(words[1 + 100 * seed :], TOKENS - 1 - 100 * seed)
        tied = {"model.embed_tokens.weight": pool[: len(order)]}
        folders.append(write_model(tmp_path / name, order, tensors=tied))
    path = write_recipe(tmp_path / "recipe.yml", **recipe(folders, tokenizer_source="union", dtype="bfloat16"))
    peak_bytes, (begun, *_) = merge_and_measure(path, tmp_path / "out", 300)
    assert peak_bytes <= begun["projected_bytes"] <= 300 * MIB, f"{peak_bytes / MIB:.1f} MiB, {begun}"
    made = load_file(tmp_path / "out" / "model.safetensors")["model.embed_tokens.weight"]
    assert pool.shape == made.shape


def test_vocabularies_beyond_the_limit(tmp_path: Path) -> None:
    """What reading tokenizers has taken counts: a limit below it is refused, and the one named would do."""
    folders = [write_model(tmp_path / name, ["?", name]) for name in ("one", "two")]
    made = plan(write_recipe(tmp_path / "recipe.yml", **recipe(folders, tokenizer_source="union")))
    assert made.vocabulary is not None
    assert made.vocabulary.planning_bytes > 20 * MIB
    with pytest.raises(MemoryLimitError, match="too small for these vocabularies; expected at least"):
        prepare(made, RunOptions(memory_bytes=20 * MIB))
