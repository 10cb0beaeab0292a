"""Public recipes merged by Dovetail alone, against what mergekit 0.1.5 makes of them.

``bench/switching.py`` has written what is expected. Each recipe is merged as it is written, for names, shapes, dtypes,
configuration and tokenizer, and in float32, for the values. Recipes of many models are planned alone, for names, shapes
and dtypes: the bench merges them too.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.engine import merge, plan_stages
from dovetail.engine.errors import DovetailError
from tests.checkpoints import read_output
from tests.doc_blocks import ROOT
from tests.switching.comparing import described, projections, tolerances
from tests.switching.corpus import CORPUS, FEW, RANDOM, Entry
from tests.switching.exceptions import MERGED
from tests.switching.expected import UNITS, but_for_documented, differences, read_expected, values_differ
from tests.switching.families import shapes_of
from tests.switching.making import make_models

EXPECTED, VALUES = read_expected()
ACCEPTED = [name for name in CORPUS if "error" not in EXPECTED[name]]
OTHERS = [name for name in CORPUS if "error" in EXPECTED[name]]

MOST = 5
"""Models up to which a recipe is merged, if it draws no random masks; else they are `FEW`. For each number of models,
kernels are compiled anew, for up to 20 s; few recipes have more, and each of their methods others with fewer.
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give one folder for the models of all recipes, many of which share them."""
    return tmp_path_factory.mktemp("switching")


def merged(entry: Entry, root: Path, out: Path, text: str | None = None) -> dict[str, Any]:
    """Merge a recipe, or another text in its place, among its models; give the tensors."""
    place = make_models(entry, root)
    recipe = place / f"{entry.name}.yml"
    recipe.write_text(entry.text if text is None else text)
    merge(recipe, out)
    return read_output(out)


def has_many(entry: Entry) -> bool:
    """Whether a merge of a recipe has so many models that it is planned alone."""
    return entry.most_models > (MOST if entry.methods.isdisjoint(RANDOM) else FEW)


def planned(entry: Entry, root: Path) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Plan a recipe as it is written, among its models; give the output's shapes, and its dtypes, sorted.

    A stage that needs the result of another has no plan before that is merged: those of the last stage with one are
    given.
    """
    recipe = make_models(entry, root) / f"{entry.name}.yml"
    recipe.write_text(entry.text)
    *_, last = (each.plan for each in plan_stages(recipe) if each.plan is not None)
    shapes = {each.name: each.shape for each in last.tensors}
    return shapes, sorted({each.dtype.torch_name for each in last.tensors})


def test_the_corpus_is_large_and_of_many_kinds() -> None:
    """There are at least 100 recipes that mergekit accepts, no two the same, of every kind of source and method."""
    assert 100 <= len(ACCEPTED)
    assert len(CORPUS) == len({entry.text for entry in CORPUS.values()})
    assert {"card", "doc", "example", "issue", "tutorial"} == {entry.source for entry in CORPUS.values()}
    methods = Counter(method for name in ACCEPTED for method in CORPUS[name].methods)
    assert 18 <= len(methods)
    assert set(CORPUS) == set(EXPECTED)
    assert set(ACCEPTED) == set(VALUES)


def test_the_page_for_switching_users_counts_right() -> None:
    """It says how many recipes there are, how many mergekit accepts, and how many Dovetail merges beside these."""
    page = (ROOT / "docs" / "switching.md").read_text()
    assert f"by {len(CORPUS)} public recipes" in page
    assert f"Dovetail accepts all {len(ACCEPTED)} that mergekit accepts, and {len(MERGED)} more." in page
    accepts = f"Of {len(CORPUS)} public recipes, Dovetail accepts the {len(ACCEPTED)} that mergekit accepts"
    assert accepts in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_mergekit_accepts_gives_what_mergekit_gives(name: str, root: Path, tmp_path: Path) -> None:
    """The output has mergekit's names, shapes, dtype, configuration, tokens and chat template, and in float32 its
    values; of a plan alone, names, shapes and dtype are compared."""
    entry, expected = CORPUS[name], EXPECTED[name]
    if has_many(entry):
        shapes = shapes_of(entry.family, expected["layers"], expected["rows"])
        assert (shapes, expected["dtypes"]) == planned(entry, root)
        return
    merged(entry, root, tmp_path / "out")
    made = described(entry, tmp_path / "out", root / entry.place / "model-a")
    assert "generation_config.json" in made["files"]
    assert [] == differences(but_for_documented(entry, expected, made), made)
    values = merged(entry, root, tmp_path / "values", entry.in_float32())
    assert [] == values_differ(values, tmp_path / "values", VALUES[name])


@pytest.mark.parametrize("name", OTHERS)
def test_what_mergekit_refuses_is_refused_or_merged_on_purpose(name: str, root: Path, tmp_path: Path) -> None:
    """A recipe that mergekit refuses is refused in one line, or merged if `exceptions.MERGED` says why.

    Where it has many models it is planned alone, because kernels for as many would be compiled for it.
    """
    entry = CORPUS[name]
    if name in MERGED and has_many(entry):
        assert planned(entry, root)[0]
    elif name in MERGED:
        assert merged(entry, root, tmp_path / "out")
    else:
        with pytest.raises(DovetailError) as caught:
            merged(entry, root, tmp_path / "out")
        assert 1 == len(str(caught.value).splitlines())


def test_a_wrong_element_is_seen_wherever_it_is(root: Path, tmp_path: Path) -> None:
    """The comparison fails for every element of every tensor, if it is wrong by a ten-thousandth of the largest."""
    tensors = merged(CORPUS["ties"], root, tmp_path / "out", CORPUS["ties"].in_float32())
    tokens = EXPECTED["ties"]["tokens"]
    right, allowed = projections(tensors, tokens), tolerances(tensors, UNITS)
    for number, name in enumerate(sorted(tensors)):
        wrong = np.abs(tensors[name]).max() * 1e-4
        for element in range(tensors[name].size):
            changed = tensors[name].copy()
            changed.reshape(-1)[element] += wrong
            (moved,) = projections({name: changed}, tokens)
            assert allowed[number] < abs(moved - right[number]), (name, element)
