"""Merges of models with layers for multi-token prediction, against NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dovetail.engine import events, merge
from tests.checkpoints import read_output, write_checkpoint, write_recipe

LAYERS = 4
GLM = {
    "model_type": "glm4_moe_lite", "num_hidden_layers": LAYERS, "num_nextn_predict_layers": 1,
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
}  # fmt: skip
QWEN = {
    "model_type": "qwen3_5",
    "text_config": {"num_hidden_layers": LAYERS, "mtp_num_hidden_layers": 1, "layer_types": list("abcd")},
}

Tensors = dict[str, NDArray[Any]]


def glm(folder: Path, seed: int, config: dict[str, Any] = GLM) -> Tensors:
    """Write a model whose prediction layer has the number after its last layer's."""
    random = np.random.default_rng(seed)
    names = ["model.embed_tokens.weight"]
    for i in range(LAYERS + 1):
        names += [f"model.layers.{i}.o_proj.weight", f"model.layers.{i}.mlp.{'experts.0.' if i else ''}up.weight"]
    names += [f"model.layers.{LAYERS}.{word}.weight" for word in ("enorm", "eh_proj", "shared_head.head")]
    return saved(folder, [*names, "model.norm.weight", "lm_head.weight"], random, config)


def qwen(folder: Path, seed: int, config: dict[str, Any] = QWEN) -> Tensors:
    """Write a model with a prediction layer apart from the others, beside a vision tower."""
    random = np.random.default_rng(seed)
    names = ["model.language_model.embed_tokens.weight"]
    names += [f"model.language_model.layers.{i}.o_proj.weight" for i in range(LAYERS)]
    names += ["model.visual.blocks.0.w", "mtp.fc.weight", "mtp.layers.0.o_proj.weight", "mtp.norm.weight"]
    return saved(folder, [*names, "lm_head.weight"], random, config)


def saved(folder: Path, names: list[str], random: np.random.Generator, config: dict[str, Any]) -> Tensors:
    """Write tensors of random values."""
    tensors = {name: random.standard_normal((6, 4)).astype(np.float32) for name in names}
    write_checkpoint(folder, tensors, config=config)
    return tensors


def merged(home: Path, **content: Any) -> tuple[Tensors, dict[str, Any], list[str]]:
    """Merge; give the output, its configuration, and the warnings."""
    said: list[str] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Notice) and event.level == "warning":
            said.append(event.text)

    merge(write_recipe(home / "recipe.yml", **content), home / "out", listen=listen)
    return read_output(home / "out"), json.loads((home / "out" / "config.json").read_text()), said


@pytest.mark.parametrize(
    ("write", "config", "stack"),
    [
        (glm, GLM, "model.layers."),
        (glm, {"num_hidden_layers": LAYERS}, "model.layers."),
        (glm, {"num_hidden_layers": 99}, "model.layers."),
        (qwen, QWEN, "model.language_model.layers."),
    ],
)
def test_gradient(tmp_path: Path, write: Any, config: dict[str, Any], stack: str) -> None:
    """The last layer of the stack is the second model's alone, and so is the prediction layer; names stay."""
    a, b = (write(tmp_path / name, seed, config) for seed, name in enumerate("ab"))
    weights = ([1, 0], [0, 1])
    models = [
        {"model": str(tmp_path / name), "parameters": {"weight": value}}
        for name, value in zip("ab", weights, strict=True)
    ]
    out, _, said = merged(tmp_path, merge_method="linear", models=models)
    assert ([], sorted(a)) == (said, sorted(out))
    for i in range(LAYERS):
        name, share = f"{stack}{i}.o_proj.weight", i / (LAYERS - 1)
        assert np.allclose((1 - share) * a[name] + share * b[name], out[name], rtol=1e-5, atol=1e-6)
    for name in a:
        if f".{LAYERS}." in name or name.startswith("mtp."):
            assert np.array_equal(b[name], out[name])


def test_stacked_glm(tmp_path: Path) -> None:
    """The prediction layer follows the output's last layer, lists follow the layers, and the numbers count each."""
    a = glm(tmp_path / "a", 0)
    slices = [{"sources": [{"model": str(tmp_path / "a"), "layer_range": r}]} for r in ([0, 3], [0, LAYERS])]
    out, config, said = merged(tmp_path, merge_method="passthrough", slices=slices)
    assert (7, 1) == (config["num_hidden_layers"], config["num_nextn_predict_layers"])
    kinds = ["dense" if f"model.layers.{i}.mlp.up.weight" in out else "sparse" for i in range(7)]
    assert kinds == config["mlp_layer_types"]
    for name in a:
        if f".{LAYERS}." in name:
            assert np.array_equal(a[name], out[name.replace(f".{LAYERS}.", ".7.")])
    assert {f"model.layers.{i}.o_proj.weight" for i in range(8)} == {name for name in out if "o_proj" in name}
    assert 1 == len(said)


def test_prediction_layer_left_out(tmp_path: Path) -> None:
    """Where the last layer is not the output's, the prediction layer is left out and its number is 0."""
    glm(tmp_path / "a", 0)
    slices = [{"sources": [{"model": str(tmp_path / "a"), "layer_range": [0, 3]}]}]
    out, config, said = merged(tmp_path, merge_method="passthrough", slices=slices)
    assert (3, 0) == (config["num_hidden_layers"], config["num_nextn_predict_layers"])
    assert not [name for name in out if "layers.3." in name or "eh_proj" in name]
    assert "are left out" in said[0]


def test_stacked_qwen(tmp_path: Path) -> None:
    """Slices of the text decoder keep a prediction layer that is stored apart, and the head is the text decoder's."""
    a, b = qwen(tmp_path / "a", 0), qwen(tmp_path / "b", 1)
    slices = [{"sources": [{"model": str(tmp_path / "b"), "layer_range": r}]} for r in ([0, 1], [0, LAYERS])]
    vision = {"models": [{"model": str(tmp_path / "a")}]}
    modules = {"vision_tower": vision, "text_decoder": {"slices": slices}}
    out, config, said = merged(tmp_path, merge_method="passthrough", modules=modules)
    expected = {"num_hidden_layers": 5, "mtp_num_hidden_layers": 1, "layer_types": list("aabcd")}
    assert expected == config["text_config"]
    for name in b:
        if name.startswith("mtp.") or name == "lm_head.weight":
            assert np.array_equal(b[name], out[name])
    assert np.array_equal(a["model.visual.blocks.0.w"], out["model.visual.blocks.0.w"])
    assert 1 == len(said)
