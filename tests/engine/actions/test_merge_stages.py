"""Recipes of several documents: stages in turn, resumable, removed or kept, and described in the manifest."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dovetail.engine import RunOptions, events, merge, plan_stages
from dovetail.engine.actions import forecasts, merge_stages
from dovetail.engine.actions.forecasts import prepare_stages
from dovetail.engine.actions.recompute import recompute
from dovetail.engine.actions.verify import read_manifest, verify
from dovetail.engine.errors import DiskSpaceError, MemoryLimitError, OutputError, RecipeError, VerificationError
from dovetail.engine.planning.builder import make_plan
from dovetail.io.errors import ChangedFileError, MissingFileError
from tests.checkpoints import folder_bytes, read_output, write_recipe
from tests.engine.command import COMMAND, dovetail
from tests.engine.conftest import Family


def average(name: str | None, *models: Any, **changes: Any) -> dict[str, Any]:
    """One document: the mean of some models."""
    content = {"merge_method": "linear", "models": [{"model": str(m)} for m in models], "parameters": {"weight": 1}}
    return {**({"name": name} if name else {}), **content, "dtype": "float32", **changes}


def write_stages(family: Family, *documents: dict[str, Any]) -> Path:
    """Write a recipe of several documents."""
    family.recipe_path.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    return family.recipe_path


def two(family: Family) -> Path:
    """Write a recipe whose final merge stands before the stage that it needs."""
    return write_stages(family, average(None, "mean", family.base), average("mean", family.math, family.code))


def stages_folder(family: Family) -> Path:
    """Where results of stages are while the merge goes on."""
    return family.home / ".out.dovetail-stages"


def test_result_is_that_of_merges_by_hand(family: Family) -> None:
    """A stage's result is the same as that of a single merge, and at the end only the output is left."""
    merge(two(family), family.out)
    assert not stages_folder(family).exists()
    staged = read_output(family.out)
    first = write_recipe(family.home / "1.yml", **average(None, family.math, family.code))
    merge(first, family.home / "first")
    second = write_recipe(family.home / "2.yml", **average(None, family.home / "first", family.base))
    merge(second, family.home / "second")
    by_hand = read_output(family.home / "second")
    assert by_hand.keys() == staged.keys()
    for name, tensor in by_hand.items():
        assert tensor.tobytes() == staged[name].tobytes()


def test_manifest_has_all_stages(family: Family) -> None:
    """The output keeps the text of all stages, its manifest describes each stage, and every byte verifies."""
    recipe = two(family)
    manifest = merge(recipe, family.out)
    (entry,) = manifest["stages"]
    assert "mean" == entry["name"] == read_manifest(family.out)["stages"][0]["name"]
    assert [str(family.math), str(family.code)] == [item["checkpoint"] for item in entry["inputs"]]
    assert "linear" == entry["recipe"]["merge_method"]
    assert ["mean", str(family.base)] == manifest["models"]
    assert recipe.read_text() == (family.out / "dovetail_recipe.yml").read_text()
    assert recipe.read_text().strip() in (family.out / "README.md").read_text()
    assert () == verify(family.out).damage


def test_stages_that_are_kept(family: Family) -> None:
    """With --stages every result is kept, whole and with its recipe, and a later run does not merge it again."""
    kept = family.home / "kept"
    merge(two(family), family.out, stages=kept)
    assert ["mean"] == [path.name for path in kept.iterdir()]
    assert () == verify(kept / "mean").damage
    assert "mean" == yaml.safe_load((kept / "mean" / "dovetail_recipe.yml").read_text())["name"]
    assert 0 < recompute(family.out, 1.0)
    before = folder_bytes(kept / "mean")
    said: list[str] = []
    merge(two(family), family.home / "again", listen=note_into(said), stages=kept)
    assert "Stage 1 of 2: mean is merged already." in said
    assert before == folder_bytes(kept / "mean")
    shutil.rmtree(kept)
    with pytest.raises(VerificationError, match=r"the result of the stage 'mean', .* is gone"):
        recompute(family.out, 1.0)


def note_into(said: list[str]) -> events.Listener:
    """Make a listener that collects the texts of notices."""
    return lambda event: said.append(event.text) if isinstance(event, events.Notice) else None


class Stopped(Exception):
    """An exception that stops a merge."""


@pytest.mark.parametrize("commits", [1, 2, 3])
def test_resume(family: Family, commits: int) -> None:
    """After an interruption in any stage, the same call continues, keeps complete stages, and gives the same output."""
    merge(two(family), family.home / "whole")
    seen = 0

    def stop(event: events.Event) -> None:
        nonlocal seen
        seen += isinstance(event, events.Started | events.Done)
        if seen == commits:
            raise Stopped

    with pytest.raises(Stopped):
        merge(two(family), family.out, listen=stop)
    assert not family.out.exists()
    assert stages_folder(family).exists()
    said: list[str] = []
    merge(two(family), family.out, listen=note_into(said))
    assert ("Stage 1 of 2: mean is merged already." in said) == (commits > 1)
    for name, tensor in read_output(family.home / "whole").items():
        assert tensor.tobytes() == read_output(family.out)[name].tobytes()
    assert not stages_folder(family).exists()


def test_changed_stage_is_merged_again(family: Family) -> None:
    """A stage is merged again if its recipe or its inputs have changed."""
    merge(two(family), family.home / "whole")

    def stop(event: events.Event) -> None:
        if isinstance(event, events.Done):
            raise Stopped

    changed = average("mean", family.math, family.code, parameters={"weight": 2, "normalize": False})
    write_stages(family, changed, average(None, "mean", family.base))
    with pytest.raises(Stopped):
        merge(family.recipe_path, family.out, listen=stop)
    merge(two(family), family.out)
    for name, tensor in read_output(family.home / "whole").items():
        assert tensor.tobytes() == read_output(family.out)[name].tobytes()
    write_stages(family, changed, average(None, "mean", family.base))
    kept = family.home / "kept"
    merge(family.recipe_path, family.home / "other", stages=kept)
    with pytest.raises(OutputError, match="kept/mean is not empty"):
        merge(two(family), family.home / "third", stages=kept)
    assert not (family.home / "third").exists()


def test_an_input_that_changes_after_its_stage(family: Family) -> None:
    """An input that changes once its stage has read it ends the merge, so that no output is known by what it became."""
    recipe, path = two(family), next(family.math.glob("*.safetensors"))

    def change(event: events.Event) -> None:
        if isinstance(event, events.Notice) and event.text.endswith("the final merge."):
            path.write_bytes(path.read_bytes()[:-1] + b"\x01")

    with pytest.raises(ChangedFileError, match=f"{path} changed while it was in use"):
        merge(recipe, family.out, listen=change)
    assert not family.out.exists()
    merge(recipe, family.out)
    merge(recipe, family.home / "anew")
    assert read_output(family.home / "anew").keys() == read_output(family.out).keys()
    for name, tensor in read_output(family.home / "anew").items():
        assert tensor.tobytes() == read_output(family.out)[name].tobytes()


def test_stages_are_planned_once(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage is planned once, and one that uses results of others once more when these are there."""
    planned: list[str] = []

    def count(recipe: Any, *arguments: Any, **options: Any) -> Any:
        planned.append(recipe.models[0].model.path)
        return make_plan(recipe, *arguments, **options)

    for module in (forecasts, merge_stages):
        monkeypatch.setattr(module, "make_plan", count)
    recipe = two(family)
    merge(recipe, family.out)
    assert [str(family.math), "mean", "mean"] == planned
    planned.clear()
    merge(recipe, family.home / "kept-out", stages=family.home / "kept")
    assert [str(family.math), "mean", "mean"] == planned
    planned.clear()
    merge(recipe, family.home / "again", stages=family.home / "kept")
    assert [str(family.math), "mean", "mean", "mean"] == planned  # for the hash, from the result, and to be carried out
    assert folder_bytes(family.home / "kept-out") == folder_bytes(family.home / "again")


def test_chain_and_layers(family: Family) -> None:
    """A stage of slices changes the number of layers, which later stages and the configuration see."""
    stack = {
        "name": "deep",
        "merge_method": "linear",
        "slices": [{"sources": [{"model": str(family.math), "layer_range": [0, 2]}]} for _ in range(2)],
        "parameters": {"weight": 1},
    }
    write_stages(family, stack, average("half", "deep", "deep2"), {**stack, "name": "deep2"}, average(None, "half"))
    forecasts = plan_stages(family.recipe_path)
    assert ["deep", "deep2", "half", None] == [each.stage.name for each in forecasts]
    plans = [each.plan for each in forecasts]
    assert all(plan is not None and len(plan.tensors) == 4 * 3 + 3 for plan in plans)
    merge(family.recipe_path, family.out)
    assert 4 == json.loads((family.out / "config.json").read_text())["num_hidden_layers"]
    assert ["deep", "deep2", "half"] == [entry["name"] for entry in read_manifest(family.out)["stages"]]
    out, source = read_output(family.out), read_output(family.math)
    name = "model.layers.{}.mlp.up_proj.weight"
    assert np.array_equal(source[name.format(1)].astype(np.float32), out[name.format(3)])


def test_stage_that_nothing_uses(family: Family) -> None:
    """A stage that nothing uses is left out with a warning, or merged if results are kept."""
    documents = (average("unused", family.math), average(None, family.code))
    said: list[str] = []
    merge(write_stages(family, *documents), family.out, listen=note_into(said))
    assert "Nothing uses the stage unused: it is not merged." in said
    kept = family.home / "kept"
    merge(family.recipe_path, family.home / "out2", stages=kept)
    assert ["unused"] == [path.name for path in kept.iterdir()]


def test_everything_is_checked_before_the_first_stage(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later stage that cannot be merged stops the first: for its models, memory, disk or output."""
    write_stages(family, average("mean", family.math), average(None, "maen", family.base))
    with pytest.raises(MissingFileError, match=r"or name mean, which is a stage of the recipe; did you mean 'mean'\?"):
        merge(family.recipe_path, family.out)
    write_stages(family, average("mean", "gone"), average(None, "mean", family.base))
    with pytest.raises(MissingFileError, match=r"correct the path in the recipe$"):  # there is no other stage to name
        merge(family.recipe_path, family.out)
    two(family)
    with pytest.raises(MemoryLimitError):
        merge(family.recipe_path, family.out, run=RunOptions(memory_bytes=1))
    family.out.mkdir()
    (family.out / "file").write_text("precious")
    with pytest.raises(OutputError, match="is not empty"):
        merge(family.recipe_path, family.out)
    shutil.rmtree(family.out)
    sizes: list[int] = []

    def no_space(place: Path, size: int) -> None:
        sizes.append(size)
        raise DiskSpaceError("full")

    monkeypatch.setattr("dovetail.engine.actions.merge_stages.check_disk_space", no_space)
    with pytest.raises(DiskSpaceError):
        merge(family.recipe_path, family.out)
    plans = [each.plan for each in plan_stages(family.recipe_path)]
    assert sizes[0] >= sum(plan.write_bytes for plan in plans if plan is not None)
    assert not family.out.exists()
    assert not stages_folder(family).exists()


def test_command_line(family: Family) -> None:
    """The commands plan and merge all stages."""
    two(family)
    shown = dovetail("plan", family.recipe_path)
    assert 0 == shown.code
    assert "Stage 1 of 2: mean\n" in shown.out
    assert "Stage 2 of 2: the final merge, from mean\n" in shown.out
    as_json = json.loads(dovetail("plan", family.recipe_path, "--json").out)
    assert ["mean", None] == [stage["name"] for stage in as_json["stages"]]
    assert all(stage["plan"]["projected_bytes"] > 0 and not stage["complete"] for stage in as_json["stages"])
    kept = family.home / "kept"
    assert 0 == dovetail("merge", family.recipe_path, family.out, "--stages", kept).code
    assert "is merged already" in dovetail("plan", family.recipe_path, "--stages", kept).out
    assert 0 == dovetail("verify", family.out, "--recompute", "1").code


def test_restart(family: Family) -> None:
    """--restart throws unfinished and finished stages of an unfinished merge away."""
    stale = stages_folder(family) / "mean"
    stale.mkdir(parents=True)
    (stale / "rubbish").write_text("")
    merge(two(family), family.out, run=RunOptions(restart=True))
    assert not stages_folder(family).exists()


def test_links_are_not_followed(family: Family) -> None:
    """A link in the place of a folder that would be filled and removed is refused, and what it leads to stays."""
    precious = family.home / "precious"
    precious.mkdir()
    (precious / "file").write_text("")
    two(family)
    stages_folder(family).symlink_to(precious)
    with pytest.raises(OutputError, match="is a link"):
        merge(family.recipe_path, family.out, run=RunOptions(restart=True))
    stages_folder(family).unlink()
    stages_folder(family).mkdir()
    (stages_folder(family) / "mean").symlink_to(precious)
    with pytest.raises(OutputError, match="is a link"):
        merge(family.recipe_path, family.out)
    assert ["file"] == [path.name for path in precious.iterdir()]


@pytest.mark.parametrize("inside", ["", "stages", "a/b"])
def test_stages_inside_the_output(family: Family, inside: str) -> None:
    """A folder that the output would replace is refused before anything is merged."""
    with pytest.raises(OutputError, match="is or lies inside the output folder"):
        merge(two(family), family.out, stages=family.out / inside)
    assert not family.out.exists()


def test_killed_after_the_first_stage(family: Family) -> None:
    """A process killed between two stages leaves a whole result, which the same command continues from."""
    two(family)
    merge(family.recipe_path, family.home / "whole")
    arguments = [*COMMAND, "merge", str(family.recipe_path), str(family.out), "--json"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if '"event": "done"' in line)
        process.kill()
    if not family.out.exists():  # else it was quicker than the signal
        assert () == verify(stages_folder(family) / "mean").damage
        assert 0 == dovetail("merge", family.recipe_path, family.out).code
    assert not stages_folder(family).exists() or family.out.exists()
    for name, tensor in read_output(family.home / "whole").items():
        assert tensor.tobytes() == read_output(family.out)[name].tobytes()


def test_one_document_is_one_stage(family: Family) -> None:
    """A recipe of one document is planned by the same function."""
    (forecast,) = plan_stages(family.recipe_path)
    assert forecast.plan is not None
    assert not forecast.complete
    assert [None] != prepare_stages([forecast], RunOptions())


def test_wrong_stage(family: Family) -> None:
    """An error in a document names its own line."""
    text = two(family).read_text()
    family.recipe_path.write_text(text.replace("name: mean\nmerge_method: linear", "name: mean\nmerge_method: liner"))
    with pytest.raises(RecipeError, match=r"recipe.yml, line 10: merge_method is 'liner'"):
        merge(family.recipe_path, family.out)
