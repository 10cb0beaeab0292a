"""Weights that two models store under other names, or cut otherwise."""

from __future__ import annotations

import pytest

from dovetail.io.errors import TensorMismatchError
from tests.engine.recipe.rows import expand_text, names

RECIPE = "merge_method: average\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}"
Shapes = dict[str, tuple[int, ...]]


def model(**parts: tuple[int, ...]) -> Shapes:
    """Make a model of two layers with the given tensors in a part, and larger ones beside it."""
    found: Shapes = {"model.embed_tokens.weight": (50, 8)}
    for i in range(2):
        found[f"model.layers.{i}.mlp.up_proj.weight"] = (99, 8)
        found |= {f"model.layers.{i}.part.{name.replace('__', '.')}": shape for name, shape in parts.items()}
    return found


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            {"q_proj__weight": (8, 8), "k_proj__weight": (4, 8), "v_proj__weight": (4, 8)},
            {"qkv_proj__weight": (16, 8)},
        ),
        ({"norm__weight": (8,), "norm__bias": (8,)}, {"norm__gamma": (8,), "norm__beta": (8,)}),
        ({"q_norm__weight": (8,)}, {"q_layernorm__weight": (8,)}),
        ({"w1__weight": (6, 8), "w2__weight": (8, 6)}, {"w12__weight": (12, 8)}),
    ],
    ids=["fused", "gamma and beta", "renamed", "gate and up"],
)
@pytest.mark.parametrize("turned", [False, True])
def test_refused(ours: Shapes, theirs: Shapes, turned: bool) -> None:
    """As many elements in one part of a layer under other names are the same weights: an error names both."""
    a, b = (theirs, ours) if turned else (ours, theirs)
    text = rf"checkpoint b has 'model\.layers\.0\.part\.{next(iter(b)).replace('__', '.')}'.* where a has 'model"
    with pytest.raises(TensorMismatchError, match=text):
        expand_text(RECIPE, {"a": model(**a), "b": model(**b)})


def test_allowed() -> None:
    """If asked for, each is merged without the other."""
    a, b = model(q__weight=(8, 8), k__weight=(8, 8)), model(qk__weight=(16, 8))
    assert list(a) == names(expand_text(RECIPE, {"a": a, "b": b}, allow_partial=True))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"q__weight": (8, 8)}, {"q__weight": (8, 8), "q__bias": (8,)}),
        ({"q__bias": (8,)}, {"further__weight": (9,)}),
        ({"q__bias": (8,)}, {}),
    ],
)
def test_only_warned_of(ours: Shapes, theirs: Shapes) -> None:
    """What only one model has, or what has other numbers of elements, is no other way of storing."""
    assert 0 < len(expand_text(RECIPE, {"a": model(**ours), "b": model(**theirs)}).warnings)
