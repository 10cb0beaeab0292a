"""Experts that are fused otherwise than by rows merge with those stored one by one, and with each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dovetail.engine import RunOptions, merge, plan
from dovetail.engine.planning.expert_packings import FUSED_BY_ROWS
from dovetail.io.errors import TensorMismatchError
from tests.checkpoints import BF16, read_output
from tests.engine.planning.test_expert_layouts import EXPERTS, HIDDEN, INNER, average, means, parts, stored, write
from tests.naive_dequantise import MXFP4, unpack4, write_raw
from tests.naive_dequantise import stored as raw


@pytest.mark.parametrize("inner", [5, INNER, HIDDEN])
@pytest.mark.parametrize(
    ("first", "second", "types"),
    [
        ("columns", "split", ("llama4", "llama4_text")),
        ("split", "columns", ("llama4", "llama4")),
        ("alternating", "split", ("gpt_oss", "gpt_oss")),
        ("split", "alternating", ("gpt_oss", None)),
        ("columns", "fused", ("qwen3_vl_moe", "qwen3_vl_moe_text")),
        ("fused", "columns", ("qwen3_vl_moe", "qwen3_vl_moe")),
        ("fused", "split", ("qwen3_vl_moe", "qwen3_vl_moe")),
        ("alternating", "fused", ("gpt_oss", "mixtral")),
        ("columns", "alternating", ("llama4", "gpt_oss")),
    ],
)
def test_matrices_that_lie_across(
    tmp_path: Path, first: str, second: str, types: tuple[str, str | None], inner: int
) -> None:
    """Experts fused by columns, alternating ones with biases too, are the same matrices, whether square or not."""
    sizes = {"inner": inner, "biases": {first, second} == {"alternating", "split"}}
    a = write(tmp_path, "a", stored(parts(1, **sizes), first), types[0])
    b = write(tmp_path, "b", stored(parts(2, **sizes), second), types[1])
    recipe = average(tmp_path, a, b)
    merge(recipe, tmp_path / "out")
    expected, out = stored(means((1, 2), **sizes), first), read_output(tmp_path / "out")
    assert sorted(expected) == sorted(out)
    for name, values in expected.items():
        assert np.array_equal(values, out[name]), name
    assert any("experts of" in text and "merged with those of" in text for text in plan(recipe).warnings)


def test_a_fused_bias_that_is_missing_is_refused(tmp_path: Path) -> None:
    """Where only one of the two biases of a layer is stored, the error names the other."""
    broken = stored(parts(2, biases=True), "alternating")
    del broken["model.layers.1.mlp.experts.down_proj_bias"]
    a = write(tmp_path, "a", stored(parts(1, biases=True), "split"), "gpt_oss")
    b = write(tmp_path, "b", broken, "gpt_oss")
    with pytest.raises(TensorMismatchError, match=r"layers\.1\.mlp\.experts\.down_proj_bias' .* is missing"):
        plan(average(tmp_path, a, b))


def test_mxfp4_experts_and_single_ones(tmp_path: Path) -> None:
    """A gpt-oss in MXFP4 merges with one whose experts are stored one by one, to the mean of both, bit for bit."""
    random = np.random.default_rng(0)
    blocks = {
        f"model.layers.0.mlp.experts.{word}_blocks": random.integers(0, 256, (EXPERTS, rows, 1, 16), np.uint8)
        for word, rows in (("gate_up_proj", 64), ("down_proj", 32))
    }
    scales = {
        name.replace("_blocks", "_scales"): np.full(each.shape[:-1], 126, np.uint8) for name, each in blocks.items()
    }
    biases = {"gate_up_proj_bias": np.ones((EXPERTS, 64)), "down_proj_bias": np.ones((EXPERTS, 32))}
    more = {f"model.layers.0.mlp.experts.{name}": each.astype(BF16) for name, each in biases.items()}
    quantised = write_raw(
        tmp_path / "a",
        {name: raw(each) for name, each in (blocks | scales | more).items()},
        {"model_type": "gpt_oss", **MXFP4},
    )
    weights = {name.rpartition("_")[0]: unpack4(each).reshape(*each.shape[:2], 32) / 2 for name, each in blocks.items()}
    single, gate_up, down = (
        {},
        *(weights[f"model.layers.0.mlp.experts.{word}"] for word in ("gate_up_proj", "down_proj")),
    )
    for expert in range(EXPERTS):
        for word, each in (
            ("gate_proj", gate_up[expert, 0::2]),
            ("up_proj", gate_up[expert, 1::2]),
            ("down_proj", down[expert]),
        ):
            single[f"model.layers.0.mlp.experts.{expert}.{word}.weight"] = each.astype(np.float32)
            single[f"model.layers.0.mlp.experts.{expert}.{word}.bias"] = np.ones(len(each), np.float32)
    b = write(tmp_path, "b", single, "gpt_oss")
    for names in ((quantised, b), (b, quantised)):
        merge(average(tmp_path, *names), tmp_path / f"out-{names[0].name}")
    fused, split = read_output(tmp_path / "out-a"), read_output(tmp_path / "out-b")
    assert all(np.array_equal(each, split[name]) for name, each in single.items())
    for name, each in weights.items():
        assert np.array_equal(each.transpose(0, 2, 1).astype(np.float32), fused[name])


def test_chunks_of_columns_change_nothing(tmp_path: Path) -> None:
    """Views across matrices that are cut into many chunks give the bytes of models that are stored alike."""
    sizes = {"inner": 384, "hidden": 640}
    alternating = write(tmp_path, "a", stored(parts(1, **sizes), "alternating"), "gpt_oss")
    split = write(tmp_path, "b", stored(parts(2, **sizes), "split"), "gpt_oss")
    for first, second, layout in ((alternating, split, "alternating"), (split, alternating, "split")):
        recipe = average(tmp_path, first, second)
        out = tmp_path / f"out-{layout}"
        merge(recipe, out, run=RunOptions(workers=2))
        expected, found = stored(means((1, 2), **sizes), layout), read_output(out)
        assert all(np.array_equal(values, found[name]) for name, values in expected.items())
    assert 1 < max(tensor.chunk_count for tensor in plan(average(tmp_path, alternating, split)).tensors)


def test_the_table_is_that_of_transformers() -> None:
    """Of every architecture in the table, transformers stacks experts first and puts gate before up along rows."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.core_model_loading import Concatenate, MergeModulelist

    for model_type in sorted(FUSED_BY_ROWS):
        found = {}
        for entry in get_checkpoint_conversion_mapping(model_type):
            steps = [(type(step), getattr(step, "dim", None)) for step in getattr(entry, "operations", [])]
            for target in entry.target_patterns if steps else []:
                found[target.rpartition(".")[2]] = (steps, entry.source_patterns)
        steps, sources = found["gate_up_proj"]
        assert [(MergeModulelist, 0), (Concatenate, 1)] == steps, model_type
        assert [source.split(".")[-2] for source in sources] in (["gate_proj", "up_proj"], ["w1", "w3"]), model_type
        steps, sources = found["down_proj"]
        assert [(MergeModulelist, 0)] == steps, model_type
        assert sources[0].split(".")[-2] in ("down_proj", "w2"), model_type
