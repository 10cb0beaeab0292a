"""Recipes of several documents: names, order, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.errors import RecipeError
from dovetail.engine.recipe.stages import MOST_STAGES, Stage, load_stages
from tests.engine.kernels.cases import examples
from tests.engine.recipe.rows import TABLE


def document(name: str | None, *models: str) -> str:
    """Write one document: the mean of some models."""
    lines = [f"name: {name}"] if name else []
    return "\n".join([*lines, "merge_method: average", "parameters: {weight: 1}", f"models: {listed(models)}"]) + "\n"


def listed(models: Sequence[str]) -> str:
    """Write a list of models."""
    return "[" + ", ".join(f"{{model: {model}}}" for model in models) + "]"


def load(*documents: str) -> tuple[Stage, ...]:
    """Read a recipe of several documents for the made-up methods."""
    return load_stages("---\n".join(documents), TABLE)


def names(stages: Sequence[Stage]) -> list[str | None]:
    """Names of stages in order."""
    return [stage.name for stage in stages]


def test_one_document() -> None:
    """A recipe of one document is the final merge, whatever its name; its text is its own."""
    text = "# a comment\n" + document("a", "a", "x")
    (stage,) = load(text)
    assert ((), True) == (stage.needs, stage.needed)
    assert text == stage.recipe.text


def test_order() -> None:
    """Each stage comes after those that it needs, in the documents' order as far as possible; the final is last."""
    stages = load(document(None, "c", "b"), document("c", "a", "x"), document("b", "y"), document("a", "z"))
    assert ["b", "a", "c", None] == names(stages)
    assert [(), (), ("a",), ("c", "b")] == [stage.needs for stage in stages]


def test_last_is_final_if_all_have_names() -> None:
    """Without a nameless document the last is the final merge; others are needed only if it uses them."""
    stages = load(document("a", "x"), document("unused", "a"), document("end", "a"))
    assert ["a", "unused", "end"] == names(stages)
    assert [True, False, True] == [stage.needed for stage in stages]


def test_references_anywhere() -> None:
    """Base models, sources of slices and donors of tokens are references too; a revision is no stage's."""
    stages = load(
        document("a", "x"),
        document("b", "x"),
        document("c", "x"),
        "merge_method: sparse\nbase_model: a\nparameters: {weight: 1}\nslices:\n"
        "- sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}]\n"
        "tokenizer: {source: union, tokens: {x: {source: {kind: model_token, model: c, token_id: 1}}}}\n",
    )
    assert ("a", "b", "c") == stages[-1].needs
    assert () == load(document("a", "x"), document(None, "a@main"))[-1].needs


def test_texts() -> None:
    """The final merge keeps the whole text, a stage its own."""
    first, second = document("a", "x"), document(None, "a")
    stages = load(f"# all\n{first}", second)
    assert first == stages[0].recipe.text
    assert f"# all\n{first}---\n{second}" == stages[1].recipe.text
    assert yaml.safe_load(stages[0].recipe.text) == yaml.safe_load(first)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ((document("a", "b"), document("b", "a"), document(None, "x")), "the stages a, b need each other"),
        ((document("a", "a"), document(None, "x")), "the stages a need each other"),
        ((document(None, "a"), document("a", "x"), document(None, "a")), "line 10: 2 documents have no name"),
        ((document("a", "x"), document("a", "x")), "line 6: name 'a' is given twice; expected each name once"),
        ((document("../a", "x"), document(None, "x")), "line 1: name is '../a'; expected letters, digits"),
        ((document("..", "x"), document(None, "x")), "name is '..'"),
        ((document("a", "x"), document(None, "x").replace("weight", "weigth")), "line 7: parameters.weigth is not a"),
        ((document("a", "x"),) * (MOST_STAGES + 1), "the recipe has 101 documents; expected at most 100"),
        (("", ""), "the recipe is empty; expected a recipe as YAML; write one, or name another file"),
        ((document("a", "x"), "- 1\n"), "a mapping with keys among"),
        ((document("a", "x"), "a: [\n"), "is not valid YAML"),
    ],
)
def test_wrong_recipes(documents: tuple[str, ...], message: str) -> None:
    """What is wrong is named with its own line, whatever document it is in."""
    with pytest.raises(RecipeError) as caught:
        load(*documents)
    assert message in str(caught.value)


def test_aliases_of_all_documents_are_counted() -> None:
    """The limits of a text hold for all its documents together."""
    bomb = "x: &a [" + ", ".join(["1"] * 300) + "]\ny: [" + ", ".join(["*a"] * 200) + "]\n"
    with pytest.raises(RecipeError, match="aliases expand too far"):
        load(bomb, bomb)


@settings(deadline=None, max_examples=examples(15))
@given(st.data(), st.integers(2, 7))
def test_any_graph(data: st.DataObject, count: int) -> None:
    """However documents without cycles are ordered, each comes after what it needs, and all are there."""
    needs = {i: data.draw(st.sets(st.integers(0, i - 1))) if i else set() for i in range(count)}
    order = data.draw(st.permutations(range(count)))
    texts = [document(f"s{i}" if i < count - 1 else None, "x", *(f"s{k}" for k in needs[i])) for i in order]
    stages = load(*texts)
    found = names(stages)
    assert {None, *(f"s{i}" for i in range(count - 1))} == set(found)
    assert found[-1] is None
    for position, stage in enumerate(stages):
        assert set(stage.needs) <= set(found[:position])
    reached = {count - 1}
    for i in reversed(range(count)):
        if i in reached:
            reached |= needs[i]
    assert {f"s{i}" for i in reached - {count - 1}} == {s.name for s in stages[:-1] if s.needed}
