"""The pictures of a model card: what they show, and that they are files of the output like any other."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from dovetail.engine import merge, read_manifest, verify
from dovetail.engine.errors import RecipeError
from dovetail.engine.output.pictures import PICTURE_NAMES
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.run.prepare import RunOptions
from tests.checkpoints import llama_tensors, write_checkpoint
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.engine.interrupt import OPTIONS, commit_often, interrupt

WITH = PlanOptions(card_pictures=True)


def boxes(path: Path) -> list[dict[str, Any]]:
    """Give the rectangles of a picture but for its ground, in order."""
    root = ElementTree.parse(path).getroot()
    return [each.attrib for each in root.iter("{http://www.w3.org/2000/svg}rect")][1:]


def texts(path: Path) -> list[str]:
    """Give the texts of a picture."""
    return [each.text or "" for each in ElementTree.parse(path).getroot().iter("{http://www.w3.org/2000/svg}text")]


def test_shares(family: Family) -> None:
    """Every bar is cut by the models' shares of the squared norm kept in its layer, and the legend has the whole."""
    merge(family.recipe_path, family.out, WITH)
    tensors = read_manifest(family.out)["tensors"]
    squares: dict[str, list[float]] = {}
    for name, entry in tensors.items():
        layer = name.split(".")[2] if name.startswith("model.layers") else "outside"
        row = squares.setdefault(layer, [0.0, 0.0])
        for place, norm in enumerate(entry["statistics"]["kept_norm"]):
            row[place] += norm**2
    drawn = boxes(family.out / PICTURE_NAMES[0])
    legend, bars = drawn[:2], drawn[2:]
    order = sorted((0, 1), key=lambda place: -sum(row[place] for row in squares.values()))
    for index, layer in enumerate(("0", "1", "outside")):
        for line, place in enumerate(order):
            bar = bars[2 * index + line]
            assert legend[line]["fill"] == bar["fill"]
            share = squares[layer][place] / sum(squares[layer])
            assert share == pytest.approx(float(bar["height"]) / 220, abs=1e-4)
    whole = sum(map(sum, squares.values()))
    first = sum(row[order[0]] for row in squares.values()) / whole
    name = ("math", "code")[order[0]]
    assert f"{100 * first:.1f}% of the whole: {name}" in texts(family.out / PICTURE_NAMES[0])


def test_changes(family: Family) -> None:
    """There is a cell for every layer and kind, and the scale goes from the least to the greatest change."""
    merge(family.recipe_path, family.out, WITH)
    tensors = read_manifest(family.out)["tensors"]
    changes = [
        each["statistics"]["merged_norm"] / math.sqrt(math.prod(each["shape"])) for each in tensors.values()
    ]  # of this family, each tensor has a cell of its own
    drawn = boxes(family.out / PICTURE_NAMES[1])
    assert 64 + len(tensors) == len(drawn)
    assert {f"{min(changes):.2g}", f"{max(changes):.2g}"} <= set(texts(family.out / PICTURE_NAMES[1]))
    fills = {each["fill"] for each in drawn[64:]}
    assert {"#00204c", "#ffe945"} <= fills


def test_they_are_files_of_the_output(family: Family) -> None:
    """The card shows them, the manifest lists them, damage to them is named; without a word there are none."""
    merge(family.recipe_path, family.home / "plain")
    merge(family.recipe_path, family.out, WITH)
    assert not set(PICTURE_NAMES) & {path.name for path in (family.home / "plain").iterdir()}
    assert True is read_manifest(family.out)["options"]["card_pictures"]
    card = (family.out / "README.md").read_text()
    assert all(f"]({name})" in card for name in PICTURE_NAMES)
    assert ((), ()) == (verify(family.out).damage, verify(family.out).unlisted)
    with (family.out / PICTURE_NAMES[0]).open("ab") as file:
        file.write(b" ")
    assert [True] == [PICTURE_NAMES[0] in sentence for sentence in verify(family.out).damage]


def test_the_same_bytes(family: Family) -> None:
    """They do not depend on the number of workers; asked for again, nothing is done; without them, it is an error."""
    merge(family.recipe_path, family.out, WITH, RunOptions(workers=1))
    merge(family.recipe_path, family.home / "other", WITH, RunOptions(workers=2))
    for name in PICTURE_NAMES:
        assert (family.out / name).read_bytes() == (family.home / "other" / name).read_bytes()
    assert 0 == dovetail("merge", family.recipe_path, family.out, "--card-pictures", "--quiet").code
    outcome = dovetail("merge", family.recipe_path, family.out)
    assert 5 == outcome.code
    assert "card_pictures of the options was " in outcome.err
    assert make_plan(family.recipe_path, WITH).hash != make_plan(family.recipe_path, PlanOptions()).hash


def test_models_that_have_pictures(family: Family) -> None:
    """A merge of a base model with pictures has none of these; a conversion has them, as its card shows them."""
    merge(family.recipe_path, family.home / "first", WITH)
    merge(family.recipe(base_model=str(family.home / "first")), family.out)
    assert not set(PICTURE_NAMES) & {path.name for path in family.out.iterdir()}
    assert 0 == dovetail("convert", family.home / "first", family.home / "second", "--quiet").code
    for name in PICTURE_NAMES:
        assert (family.home / "first" / name).read_bytes() == (family.home / "second" / name).read_bytes()
    assert f"]({PICTURE_NAMES[0]})" in (family.home / "second" / "README.md").read_text()


def test_nothing_to_draw(family: Family) -> None:
    """Where no base model is changed, a warning says so; a picture without a card is an error."""
    models = [{"model": "math", "parameters": {"weight": 0.5}}, {"model": "code", "parameters": {"weight": 0.5}}]
    family.recipe_path.write_text(yaml.safe_dump({"merge_method": "linear", "models": models}))
    outcome = dovetail("merge", family.recipe_path, family.out, "--card-pictures")
    assert 0 == outcome.code
    assert "warning: The model card shows no pictures" in outcome.err
    assert "svg" not in (family.out / "README.md").read_text()
    outcome = dovetail("merge", family.recipe_path, family.home / "x", "--card-pictures", "--no-write-model-card")
    assert 2 == outcome.code
    assert "card_pictures is asked for without model_card; expected pictures with a card; leave one out" in outcome.err


def test_many_models_and_kinds(family: Family) -> None:
    """Of many models the rest are one, and of many kinds those with the largest changes are shown."""
    base = {f"layers.0.{number}.x{number}.weight": value for number, value in enumerate([np.ones(9, "f4")] * 45)}
    write_checkpoint(family.home / "wide", base)
    for place in range(9):
        tuned = {name: value + np.float32(number * (place + 1)) for number, (name, value) in enumerate(base.items())}
        write_checkpoint(family.home / f"tuned-{place}", tuned)
    models = [{"model": f"tuned-{place}", "parameters": {"weight": 0.1}} for place in range(9)]
    recipe = {"merge_method": "task_arithmetic", "base_model": "wide", "models": models, "dtype": "float32"}
    family.recipe_path.write_text(yaml.safe_dump(recipe))
    merge(family.recipe_path, family.out, WITH)
    shares = [(place + 1) ** 2 for place in range(9)]
    rest = 100 * sum(shares[:2]) / sum(shares)
    assert f"{rest:.1f}% of the whole: 2 others" in texts(family.out / PICTURE_NAMES[0])
    changes = texts(family.out / PICTURE_NAMES[1])
    assert "the 40 kinds of tensors with the largest changes, of 45" in changes
    assert "*.x4.weight" not in changes
    assert "*.x5.weight" in changes


def test_interrupted_merges(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted merge that goes on has the same pictures."""
    commit_often(monkeypatch)
    options = replace(OPTIONS, card_pictures=True)
    merge(family.recipe_path, family.home / "whole", options)
    interrupt(family, options=options)
    merge(family.recipe_path, family.out, options)
    for name in PICTURE_NAMES:
        assert (family.home / "whole" / name).read_bytes() == (family.out / name).read_bytes()


def test_an_empty_tensor(family: Family) -> None:
    """A kind of tensor that has no elements does not keep the merge from its end."""
    for seed, folder in enumerate((family.base, family.math, family.code)):
        shutil.rmtree(folder)
        tensors = llama_tensors(0) if seed == 0 else llama_tensors(seed, llama_tensors(0))
        write_checkpoint(folder, {**tensors, "model.layers.0.empty.weight": np.zeros(0, np.float32)})
    merge(family.recipe_path, family.out, WITH)
    assert set(PICTURE_NAMES) <= {path.name for path in family.out.iterdir()}


def test_models_of_one_name_are_told_apart(family: Family) -> None:
    """The legend tells models apart whose folders have the same name."""
    folders = [family.home / name / "final" for name in ("one", "two")]
    for folder, model in zip(folders, (family.math, family.code), strict=True):
        shutil.copytree(model, folder)
    merge(family.recipe(models=[{"model": str(folder)} for folder in folders]), family.out, WITH)
    shown = texts(family.out / PICTURE_NAMES[0])
    assert all(any(text.endswith(str(folder)[-40:]) for text in shown) for folder in folders)


def test_pictures_without_a_card(family: Family) -> None:
    """Pictures of a card that is not wanted are refused, from Python too."""
    with pytest.raises(RecipeError, match="card_pictures is asked for without model_card"):
        PlanOptions(card_pictures=True, model_card=False)
