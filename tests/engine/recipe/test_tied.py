"""Heads that are tied to embeddings."""

from __future__ import annotations

import pytest

from dovetail.engine.recipe import expand
from tests.engine.recipe.rows import TABLE, llama, names, read

HEADLESS = {name: shape for name, shape in llama(1).items() if name != "lm_head.weight"}
RECIPE = "merge_method: sparse\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}"


def merged(
    catalogues: dict[str, dict[str, tuple[int, ...]]], tied: dict[str, bool | None]
) -> tuple[list[str], set[str]]:
    """Give the sources of the head (none if there is no head), and the checkpoints that tie theirs all the same."""
    recipe = read(RECIPE)
    refs = {str(ref): ref for ref in recipe.references()}
    expansion = expand(
        recipe,
        TABLE["sparse"],
        {ref: catalogues[name] for name, ref in refs.items()},
        {refs[name]: value for name, value in tied.items()},
    )
    untied = {str(ref) for ref in expansion.untied}
    if "lm_head.weight" not in names(expansion):
        return [], untied
    (spec,) = [spec for spec in expansion.tensors if spec.name == "lm_head.weight"]
    sources = [spec.base, *spec.inputs]
    return [f"{expansion.checkpoints[item.checkpoint]}:{item.name}" for item in sources if item is not None], untied


@pytest.mark.parametrize("said", [True, None])
def test_embedding_stands_in(said: bool | None) -> None:
    """Where another model has a head of its own, a tied model's embedding stands in for its head."""
    sources, untied = merged({"base": HEADLESS, "a": llama(1), "b": HEADLESS}, {"base": said, "a": False, "b": said})
    assert ["base:model.embed_tokens.weight", "a:lm_head.weight", "b:model.embed_tokens.weight"] == sources
    assert {"base", "b"} == untied


def test_no_head_if_all_are_tied() -> None:
    """No head is made up; one that is stored although it is tied is left out, as the others have none."""
    tied: dict[str, bool | None] = dict.fromkeys(("base", "a", "b"), True)
    assert ([], set()) == merged(dict.fromkeys(tied, HEADLESS), tied)
    assert ([], set()) == merged({"base": HEADLESS, "a": llama(1), "b": HEADLESS}, tied)


def test_stored_by_all() -> None:
    """Heads that all store are merged; who says that they are tied although another does not is told."""
    heads = ["base:lm_head.weight", "a:lm_head.weight", "b:lm_head.weight"]
    same = dict.fromkeys(("base", "a", "b"), llama(1))
    assert (heads, set()) == merged(same, dict.fromkeys(same, True))
    assert (heads, set()) == merged(same, dict.fromkeys(same, None))
    assert (heads, {"base"}) == merged(same, {"base": True, "a": False, "b": False})


def test_head_that_is_missing() -> None:
    """A model that lacks its head and says that it is not tied is merged without it."""
    sources, untied = merged({"base": llama(1), "a": HEADLESS, "b": llama(1)}, {"a": False})
    assert ["base:lm_head.weight", "b:lm_head.weight"] == sources
    assert set() == untied


def test_tensors_that_are_no_heads() -> None:
    """A classifier, or an output layer of another shape than the embedding's, is not tied to anything."""
    shapes = {"embeddings.word_embeddings.weight": (32, 8), "output.weight": (3, 8), "norm.weight": (8,)}
    without = {name: shape for name, shape in shapes.items() if name != "output.weight"}
    recipe = read(RECIPE)
    catalogues = {ref: shapes if str(ref) == "a" else without for ref in recipe.references()}
    expansion = expand(recipe, TABLE["sparse"], catalogues)
    assert "output.weight" not in names(expansion)
    assert "1 tensor with 8.3% of the elements of a: not in the output" in expansion.warnings[0]
