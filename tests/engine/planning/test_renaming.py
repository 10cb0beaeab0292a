"""Models whose layers are called by other prefixes, as exports and versions differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dovetail.engine import merge, plan
from dovetail.engine.planning.renaming import find_renaming
from dovetail.io.errors import TensorMismatchError
from tests.checkpoints import read_output, write_checkpoint, write_recipe

Shapes = dict[str, tuple[int, ...]]


def layers(stack: str, width: int = 8) -> Shapes:
    """Make the layers of one stack."""
    names = ("self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight")
    shapes = ((width, width), (2 * width, width), (width,))
    return {f"{stack}.{i}.{name}": shape for i in range(2) for name, shape in zip(names, shapes, strict=True)}


def language(prefix: str, head: str = "lm_head") -> Shapes:
    """Make a language model with a prefix before all but its head."""
    return {
        f"{prefix}embed_tokens.weight": (32, 8),
        **layers(f"{prefix}layers"),
        f"{prefix}norm.weight": (8,),
        f"{head}.weight": (32, 8),
    }


def vision(prefix: str) -> Shapes:
    """Make a vision tower with layers that are called like those of the language model, in another width."""
    return {
        f"{prefix}patch_embed.proj.weight": (12, 3),
        **layers(f"{prefix}encoder.layers", 12),
        f"{prefix}norm.weight": (12,),
    }


NEW = language("model.language_model.") | vision("model.visual.")
CASES: dict[str, tuple[Shapes, Shapes]] = {
    "a language model into one that sees": (language("model."), NEW),
    "the layout before version 5 of transformers": (
        language("language_model.model.", "language_model.lm_head") | vision("visual."),
        NEW,
    ),
    "that layout as the base": (NEW, language("language_model.model.", "language_model.lm_head") | vision("visual.")),
    "one that sees into a language model": (NEW, language("model.")),
    "a model without its head's prefix": (
        layers("h") | {"wte.weight": (9, 8)},
        layers("transformer.h") | {"transformer.wte.weight": (9, 8)},
    ),
    "an encoder with a prefix of its class": (
        layers("bert.encoder.layer") | {"bert.embeddings.word_embeddings.weight": (9, 8)},
        layers("encoder.layer") | {"embeddings.word_embeddings.weight": (9, 8)},
    ),
    "a wrapper": (language("module.model.", "module.lm_head"), language("model.")),
}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_one_renaming_maps_all(kind: str) -> None:
    """Every tensor that the other has gets its name there and has its shape; others keep their names."""
    ours, reference = CASES[kind]
    found = find_renaming(ours, reference)
    assert found is not None
    renamed = {found.names.get(name, name): shape for name, shape in ours.items()}
    common = renamed.keys() & reference.keys()
    assert len(renamed) == len(ours)
    assert min(len(ours), len(reference)) == len(common)
    assert {name: reference[name] for name in common} == {name: renamed[name] for name in common}


REFUSED: dict[str, tuple[Shapes, Shapes]] = {
    "the same names": (language("model."), language("model.")),
    "other layers": (layers("model.layers"), {f"decoder.layers.0.{name}": (8, 8) for name in ("q", "k", "v")}),
    "two stacks that fit": (
        layers("model.layers"),
        layers("thinker.model.layers") | layers("talker.model.layers"),
    ),
    "another word for layers": (layers("model.layers"), layers("model.blocks")),
    "a tensor more in every layer": (
        layers("model.layers") | {f"model.layers.{i}.gate.weight": (8,) for i in range(2)},
        layers("text.layers"),
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_nothing_is_renamed_on_a_guess(kind: str) -> None:
    """Where no one renaming maps all layers, there is none."""
    assert find_renaming(*REFUSED[kind]) is None


def write(folder: Path, shapes: Shapes, seed: int) -> Path:
    """Write a checkpoint of random tensors."""
    random = np.random.default_rng(seed)
    return write_checkpoint(
        folder, {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    )


@pytest.mark.parametrize("kind", list(CASES)[:3])
def test_merged_under_the_base_models_names(tmp_path: Path, kind: str) -> None:
    """Task vectors are taken between like tensors, the base's others stay, and the renaming is a warning."""
    theirs, reference = CASES[kind]
    tuned, base = write(tmp_path / "tuned", theirs, 1), write(tmp_path / "base", reference, 2)
    recipe = write_recipe(
        tmp_path / "recipe.yml",
        merge_method="task_arithmetic",
        base_model=str(base),
        models=[{"model": str(tuned), "parameters": {"weight": 0.5}}],
    )
    merge(recipe, tmp_path / "out")
    out, one, zero = (read_output(tmp_path / name) for name in ("out", "tuned", "base"))
    assert sorted(reference) == sorted(plan_names(recipe))
    renaming = find_renaming(theirs, reference)
    assert renaming is not None
    by_new = {renaming.names.get(name, name): values for name, values in one.items()}
    for name, values in out.items():
        change = np.float32(0.5) * (by_new[name] - zero[name]) if name in by_new else np.float32(0)
        np.testing.assert_array_equal(zero[name] + change, values)
    assert any("begin otherwise than in" in text for text in plan(recipe).warnings)


def plan_names(recipe: Path) -> list[str]:
    """Give the names of a recipe's output."""
    return [tensor.name for tensor in plan(recipe).tensors]


def test_what_cannot_be_renamed_is_refused(tmp_path: Path) -> None:
    """A model with another word for layers shares a head with the base, and is no model to merge with it."""
    head = {"lm_head.weight": (32, 8)}
    a, b = layers("model.layers") | head, layers("model.blocks") | head
    models = [{"model": str(write(tmp_path / name, shapes, 1))} for name, shapes in (("a", a), ("b", b))]
    recipe = write_recipe(tmp_path / "recipe.yml", merge_method="linear", models=models, parameters={"weight": 1})
    with pytest.raises(TensorMismatchError, match="gives 0% of its elements"):
        plan(recipe)
