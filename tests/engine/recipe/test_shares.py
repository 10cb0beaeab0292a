"""Models that give little of themselves are refused, and what is said of those that give less than all."""

from __future__ import annotations

from math import prod

import pytest

from dovetail.engine.text import percent
from dovetail.io.errors import TensorMismatchError
from tests.engine.recipe.rows import expand_text

Shapes = dict[str, tuple[int, ...]]

PAIR = "merge_method: average\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}"


def qwen(hidden: int, *, rows: int = 64, layers: int = 3) -> Shapes:
    """Make the shapes of a model of a family in which norms of heads are alike in all sizes."""
    shapes: Shapes = {"model.embed_tokens.weight": (rows, hidden), "model.norm.weight": (hidden,)}
    for i in range(layers):
        for name, shape in {
            "self_attn.q_norm": (8,),
            "self_attn.k_norm": (8,),
            "self_attn.q_proj": (16, hidden),
            "mlp.up_proj": (32, hidden),
        }.items():
            shapes[f"model.layers.{i}.{name}.weight"] = shape
    return shapes


def fused(shapes: Shapes) -> Shapes:
    """Store queries and gates in one tensor a layer, as some exporters do."""
    kept = {name: shape for name, shape in shapes.items() if "_proj" not in name}
    hidden = shapes["model.norm.weight"][0]
    return kept | {f"model.layers.{i}.qkv_mlp.weight": (48, hidden) for i in range(3)}


def renamed(shapes: Shapes) -> Shapes:
    """Call the layers by other names, as another architecture does."""
    return {name.replace("self_attn", "attention").replace("mlp", "ffn"): shape for name, shape in shapes.items()}


UNLIKE: dict[str, tuple[Shapes, Shapes]] = {
    "another size, which shares norms of heads": (qwen(20), qwen(32)),
    "layers stored otherwise, which share norms and embedding": (qwen(20), fused(qwen(20))),
    "layers called otherwise, under a vocabulary that is most of the model": (
        qwen(20, rows=4096),
        renamed(qwen(20, rows=4096)),
    ),
    "three times as many layers": (qwen(20, layers=1), qwen(20, layers=3)),
}


@pytest.mark.parametrize("kind", UNLIKE)
def test_a_model_that_gives_little_is_refused(kind: str) -> None:
    """Exit code 3 names the model, its share and the reason; with `allow_partial`, the same is a warning."""
    a, b = UNLIKE[kind]
    with pytest.raises(TensorMismatchError, match=r"checkpoint b gives [0-9.]+% of its elements \(.* --allow-partial"):
        expand_text(PAIR, {"a": a, "b": b})
    expansion = expand_text(PAIR, {"a": a, "b": b}, allow_partial=True)
    assert list(a) == [spec.name for spec in expansion.tensors]
    assert any("of the elements of b" in text for text in expansion.warnings)


def test_the_error_gives_share_and_reason() -> None:
    """The share is that of elements without embedding, and the largest tensor is the example."""
    a, b = qwen(20), qwen(32)
    body = sum(prod(shape) for name, shape in b.items() if "embed" not in name)
    with pytest.raises(TensorMismatchError) as caught:
        expand_text(PAIR, {"a": a, "b": b})
    assert f"gives {percent(3 * 16 / body)} of its elements" in str(caught.value)
    assert "8 tensors of another shape than in a, such as 'model.embed_tokens.weight' with [64, 32] for [64, 20]" in (
        str(caught.value)
    )
    assert 3 == caught.value.exit_code


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (qwen(20), {name: shape for name, shape in qwen(20).items() if "mlp" not in name}),
        (qwen(20), qwen(20) | {"visual.proj.weight": (40, 60)}),
        (qwen(20), qwen(20, rows=300)),
        (qwen(20, layers=9), qwen(20, layers=2)),
    ],
    ids=["part of a model", "a vision tower besides", "more tokens", "fewer layers"],
)
def test_a_model_that_gives_most_is_merged(a: Shapes, b: Shapes) -> None:
    """What counts is a model's own elements: it may lack much of the base, and have some that the base lacks."""
    expansion = expand_text(PAIR, {"a": a, "b": b})
    assert 1 == len(expansion.warnings)


def test_slices_count_what_they_take() -> None:
    """A model of which a slice takes one layer of many gives all that it is asked for."""
    text = (
        "merge_method: average\nparameters: {weight: 1}\nslices:\n- sources: [{model: a, layer_range: [0, 2]}]\n"
        "- sources: [{model: b, layer_range: [7, 8]}]\n"
    )
    assert () == expand_text(text, {"a": qwen(20, layers=9), "b": qwen(20, layers=9)}).warnings


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0%"), (1, "100%"), (0.5, "50%"), (0.123, "12.3%"), (1e-9, "less than 0.1%")]
)
def test_percent(share: float, text: str) -> None:
    """Shares are written with at most one decimal."""
    assert text == percent(share)
