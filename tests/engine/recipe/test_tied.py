"""Heads that are tied to embeddings."""

from __future__ import annotations

import pytest

from dovetail.engine.recipe import Expansion, ModelRef, expand
from tests.engine.recipe.rows import TABLE, llama, names, read

HEADLESS = {name: shape for name, shape in llama(1).items() if name != "lm_head.weight"}
RECIPE = "merge_method: sparse\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}"


def merged(
    catalogues: dict[str, dict[str, tuple[int, ...]]],
    tied: dict[str, bool | None],
    copies: dict[str, bool | None] | None = None,
) -> tuple[list[str], set[str]]:
    """Give the sources of the head (none if there is no head), and the checkpoints that tie theirs all the same.

    `copies` says of which checkpoints the stored head is a copy of the embedding, and which may not be asked about.
    """
    expansion = expanded(catalogues, tied, copies)
    untied = {str(ref) for ref in expansion.untied}
    if "lm_head.weight" not in names(expansion):
        return [], untied
    (spec,) = [spec for spec in expansion.tensors if spec.name == "lm_head.weight"]
    sources = [spec.base, *spec.inputs]
    return [f"{expansion.checkpoints[item.checkpoint]}:{item.name}" for item in sources if item is not None], untied


def expanded(
    catalogues: dict[str, dict[str, tuple[int, ...]]],
    tied: dict[str, bool | None],
    copies: dict[str, bool | None] | None = None,
) -> Expansion:
    """Expand a recipe of a base model and two others."""
    recipe = read(RECIPE)
    refs = {str(ref): ref for ref in recipe.references()}

    def is_copy(ref: ModelRef, head: str, embedding: str) -> bool | None:
        assert ("lm_head.weight", "model.embed_tokens.weight") == (head, embedding)
        return (copies or {})[str(ref)]

    return expand(
        recipe,
        TABLE["sparse"],
        {ref: catalogues[name] for name, ref in refs.items()},
        {refs[name]: value for name, value in tied.items()},
        is_copy=is_copy,
    )


@pytest.mark.parametrize("said", [True, None])
def test_embedding_stands_in(said: bool | None) -> None:
    """Where another model has a head of its own, a tied model's embedding stands in for its head."""
    catalogues = {"base": HEADLESS, "a": llama(1), "b": HEADLESS}
    sources, untied = merged(catalogues, {"base": said, "a": False, "b": said}, {"a": False})
    assert ["base:model.embed_tokens.weight", "a:lm_head.weight", "b:model.embed_tokens.weight"] == sources
    assert {"base", "b"} == untied


def test_no_head_if_all_are_tied() -> None:
    """No head is made up; one that is stored as a copy of the embedding is left out, and named."""
    tied: dict[str, bool | None] = dict.fromkeys(("base", "a", "b"), True)
    assert ([], set()) == merged(dict.fromkeys(tied, HEADLESS), tied)
    catalogues = {"base": HEADLESS, "a": llama(1), "b": HEADLESS}
    for said in (tied, {**tied, "a": None}, {}):
        expansion = expanded(catalogues, said, {"a": True})
        assert "lm_head.weight" not in names(expansion)
        assert expansion.warnings == (
            "'lm_head.weight' is not in the output: in a it is a copy of the embedding, to which it stays tied",
        )


def test_head_that_differs_though_it_is_tied() -> None:
    """A stored head that differs from the embedding counts, whatever its configuration says, and that is said."""
    tied: dict[str, bool | None] = dict.fromkeys(("base", "a", "b"), True)
    catalogues = {"base": HEADLESS, "a": llama(1), "b": HEADLESS}
    sources = ["base:model.embed_tokens.weight", "a:lm_head.weight", "b:model.embed_tokens.weight"]
    assert (sources, {"base", "a", "b"}) == merged(catalogues, tied, {"a": False})
    (warning,) = expanded(catalogues, tied, {"a": False}).warnings
    assert warning.startswith("'lm_head.weight' of a is merged as a head of its own: it differs from the embedding")


def test_head_that_cannot_be_read_yet() -> None:
    """A head that may be a copy counts, so that the output is right whatever it is, and that is said."""
    catalogues = {"base": HEADLESS, "a": llama(1), "b": HEADLESS}
    sources = ["base:model.embed_tokens.weight", "a:lm_head.weight", "b:model.embed_tokens.weight"]
    assert (sources, {"base", "a", "b"}) == merged(catalogues, {}, {"a": None})
    (warning,) = expanded(catalogues, {}, {"a": None}).warnings
    assert warning.startswith("'lm_head.weight' of a is kept as a head of its own")


def test_stored_by_all() -> None:
    """Heads that all store are merged, and nobody is asked about them, unless a configuration ties one."""
    heads = ["base:lm_head.weight", "a:lm_head.weight", "b:lm_head.weight"]
    same = dict.fromkeys(("base", "a", "b"), llama(1))
    differ: dict[str, bool | None] = dict.fromkeys(same, False)
    assert (heads, set(same)) == merged(same, dict.fromkeys(same, True), differ)
    assert (heads, set()) == merged(same, dict.fromkeys(same, None))
    assert (heads, set()) == merged(same, dict.fromkeys(same, False))
    assert (heads, {"base"}) == merged(same, {"base": True, "a": False, "b": False}, {"base": True})


def test_copies_stored_by_all() -> None:
    """Copies in all models are left out where the configuration ties them; who does not say so has to say so then."""
    same = dict.fromkeys(("base", "a", "b"), llama(1))
    copies: dict[str, bool | None] = dict.fromkeys(same, True)
    expansion = expanded(same, {"base": True, "a": True, "b": None}, copies)
    assert "lm_head.weight" not in names(expansion)
    assert {"b"} == {str(ref) for ref in expansion.retied}
    expansion = expanded({**same, "a": HEADLESS}, {}, copies)
    assert "lm_head.weight" not in names(expansion)
    assert {"base", "b"} == {str(ref) for ref in expansion.retied}


def test_copy_beside_a_head_that_counts() -> None:
    """A copy is merged as it is where another model's head counts; that its configuration ties it is no more true."""
    catalogues = {"base": llama(1), "a": llama(1), "b": HEADLESS}
    sources = ["base:lm_head.weight", "a:lm_head.weight", "b:model.embed_tokens.weight"]
    found = merged(catalogues, {"base": True, "a": None}, {"base": True, "a": False})
    assert (sources, {"base", "a", "b"}) == found


def test_copy_that_is_said_to_be_untied() -> None:
    """A copy makes no tied base model larger, whatever its own configuration says; an untied base model's counts."""
    catalogues = {"base": HEADLESS, "a": llama(1), "b": llama(1)}
    assert ([], set()) == merged(catalogues, {"a": False}, {"a": True, "b": True})
    assert ([], set()) == merged(catalogues, {"base": True, "a": False, "b": None}, {"a": True, "b": True})
    catalogues = {"base": llama(1), "a": HEADLESS, "b": llama(1)}
    sources = ["base:lm_head.weight", "a:model.embed_tokens.weight", "b:lm_head.weight"]
    assert (sources, {"a"}) == merged(catalogues, {"base": False, "b": False})


@pytest.mark.parametrize(
    ("head", "embedding"),
    [
        ("transformer.lm_head.weight", "transformer.wte.weight"),
        ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"),
        ("proj_out.weight", "model.decoder.embed_tokens.weight"),
        ("lm_head.weight", "shared.weight"),
        ("embed_out.weight", "gpt_neox.embed_in.weight"),
        ("language_model.lm_head.weight", "language_model.model.embed_tokens.weight"),
    ],
)
@pytest.mark.parametrize("copy", [True, False])
def test_names_of_heads(head: str, embedding: str, copy: bool) -> None:
    """Heads and embeddings are found by the words of many architectures."""
    recipe = read(RECIPE)
    catalogues = {
        ref: {embedding: (8, 4), "w": (4,)} | ({head: (8, 4)} if str(ref) == "a" else {}) for ref in recipe.references()
    }
    expansion = expand(recipe, TABLE["sparse"], catalogues, is_copy=lambda *_: copy)
    assert (head not in names(expansion)) is copy


def test_embedding_nearest_to_the_head() -> None:
    """Of several embeddings a head is compared with the one whose name is most like its own."""
    recipe = read(RECIPE)
    head, *embeddings = (f"talker.{name}.weight" for name in ("lm_head", "model.embed_tokens"))
    shapes = dict.fromkeys(["mtp.embed_tokens.weight", "thinker.embed_tokens.weight", *embeddings, head], (8, 4))
    lacking = {name: shape for name, shape in shapes.items() if name != head}
    asked = []

    def is_copy(_: ModelRef, *names: str) -> bool:
        asked.append(names)
        return True

    catalogues = {ref: shapes if str(ref) == "a" else lacking for ref in recipe.references()}
    assert head not in names(expand(recipe, TABLE["sparse"], catalogues, is_copy=is_copy))
    assert [(head, "talker.model.embed_tokens.weight")] == asked


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


@pytest.mark.parametrize("shape", [(32,), (4, 8, 1)])
def test_names_of_heads_that_are_no_matrices(shape: tuple[int, ...]) -> None:
    """A tensor with the name of a head that is no matrix is merged as any other, whatever the configuration ties."""
    catalogue = {"model.embed_tokens.weight": shape, "lm_head.weight": shape}
    sources, untied = merged(dict.fromkeys(("base", "a", "b"), catalogue), {"base": True})
    assert ["base:lm_head.weight", "a:lm_head.weight", "b:lm_head.weight"] == sources
    assert set() == untied
