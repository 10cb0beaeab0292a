"""Parts that were stopped, damaged, or meet another merge: nothing is lost, and nothing half-made passes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dovetail.engine import RunOptions, convert, events, make_vectors, merge, read_manifest
from dovetail.engine.actions import carry_out, carry_out_part, parts
from dovetail.engine.actions.recompute import recompute
from dovetail.engine.actions.verify import verify
from dovetail.engine.cli.report.tables import made_now
from dovetail.engine.errors import InterruptedMergeError, OutputError, RecipeError
from dovetail.engine.output import target
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.run.parts.part import Part
from tests.engine.actions.making_parts import ZARR, in_one_piece, make, make_all
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.engine.interrupt import Interrupter, commit_often
from tests.engine.outputs import contents


@pytest.fixture(autouse=True)
def _many_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut merges into many tasks and commit them in small groups."""
    commit_often(monkeypatch)


def test_an_interrupted_part_continues(family: Family) -> None:
    """After Ctrl-C, the same part does only what is left of it."""
    with pytest.raises(InterruptedMergeError) as caught:
        make(family, "1/2", listen=Interrupter(5))
    assert str(caught.value).startswith("part 1/2 of the merge interrupted; ")
    (whole,) = (event for event in make(family, "2/2") if isinstance(event, events.PartDone))
    (rest,) = (event for event in make(family, "1/2") if isinstance(event, events.Done))
    assert 0 < rest.written_bytes < whole.written_bytes
    assert in_one_piece(family) == contents(family.out)


@pytest.mark.parametrize("part", [None, "1/1", "1/2"])
def test_a_continued_merge_says_what_the_whole_has(family: Family, part: str | None) -> None:
    """Whoever publishes names the size of all data, and how much of it this run has made."""
    (fresh,) = (event for event in make(family, "1/1") if isinstance(event, events.Done))
    assert (74_880, 74_880, 1.0) == (fresh.output_bytes, fresh.written_bytes, fresh.share_made)
    shutil.rmtree(family.out)
    if part == "1/2":
        make(family, "2/2")
    else:
        with pytest.raises(InterruptedMergeError):
            make(family, part, listen=Interrupter(5))
    (rest,) = (event for event in make(family, part) if isinstance(event, events.Done))
    assert (74_880, True) == (rest.output_bytes, 0 < rest.share_made < 1)
    assert 0 < rest.written_bytes < 74_880
    assert {"This run"} == made_now(rest).keys()
    assert {} == made_now(fresh)


@pytest.mark.parametrize("options", [None, ZARR], ids=["safetensors", "zarr"])
@pytest.mark.parametrize("count", [2, 5])
def test_another_number_of_parts_continues(family: Family, options: PlanOptions | None, count: int) -> None:
    """What three parts have left, any other number shares: nothing that is done is computed again."""
    with pytest.raises(InterruptedMergeError):
        make(family, "1/3", options, Interrupter(5))
    make(family, "2/3", options)
    done = contents(family.staging)
    written = sum(
        event.written_bytes
        for number in range(1, count + 1)
        for event in make(family, f"{number}/{count}", options)
        if isinstance(event, events.PartDone) or (isinstance(event, events.Done) and not event.already)
    )
    assert written < 74_880 * 2 // 3
    found = contents(family.out)
    assert {name for name in done if "dovetail" not in name} <= found.keys()
    assert in_one_piece(family, options) == found


def test_one_process_continues_what_parts_have_begun(family: Family) -> None:
    """Without a part, the command does all that is left, and publishes."""
    make(family, "2/3")
    (report,) = (event for event in make(family, None) if isinstance(event, events.Done))
    assert 0 < report.written_bytes < 74_880
    assert in_one_piece(family) == contents(family.out)


def test_parts_continue_what_one_process_has_begun(family: Family) -> None:
    """What a process has done that began alone is not done again; its shards keep their size."""
    with pytest.raises(InterruptedMergeError):
        make(family, None, listen=Interrupter(5))
    written = 0
    for number in (1, 2):
        written += sum(
            event.written_bytes
            for event in make(family, f"{number}/2")
            if isinstance(event, events.PartDone | events.Done)
        )
    assert 0 < written < 74_880
    assert 5 * 10**9 == read_manifest(family.out)["options"]["shard_size_bytes"]
    assert in_one_piece(family) == contents(family.out)


def test_another_recipe_is_refused(family: Family) -> None:
    """Parts of two merges never come into one output: the second is told what differs."""
    make(family, "1/2")
    before = contents(family.staging)
    family.recipe(dtype="float32")
    with pytest.raises(OutputError, match="cannot be continued: the recipe is not the same"):
        make(family, "2/2")
    assert before == contents(family.staging)


def test_another_kind_of_output_is_refused(family: Family) -> None:
    """Nor do other formats, conversions and stores go on in the folder of a merge's parts, which stays as it is."""
    make(family, "1/2")
    before = contents(family.staging)
    with pytest.raises(OutputError, match="cannot be continued: "):
        make(family, None, ZARR)
    with pytest.raises(OutputError, match="cannot be continued: "):
        convert(family.math, family.out)
    with pytest.raises(OutputError, match="cannot be continued: "):
        make_vectors(family.recipe_path, family.out)
    assert before == contents(family.staging)


def test_another_recipe_begun_by_one_process_is_refused(family: Family) -> None:
    """Nor do parts continue what one process has begun by another recipe."""
    with pytest.raises(InterruptedMergeError):
        make(family, None, listen=Interrupter(5))
    family.recipe(dtype="float32")
    with pytest.raises(OutputError, match="cannot be continued: the recipe is not the same"):
        make(family, "1/2")


def test_a_file_that_is_gone_is_not_taken_for_zeros(family: Family) -> None:
    """A file with chunks that are done must be there when its part, or the last, comes again."""
    make(family, "1/2")
    (path,) = sorted(family.staging.glob("*.safetensors"))[:1]
    path.unlink()
    with pytest.raises(OutputError, match=r"cannot be continued: No such file or directory .*model-00001"):
        make(family, "1/2")
    with pytest.raises(OutputError, match=r"cannot be continued: No such file or directory .*model-00001"):
        make(family, "2/2")
    assert not family.out.exists()


def test_beginning_anew_spares_a_former_output(family: Family) -> None:
    """What a damaged folder of parts is told to do gives a former output that was moved into it its name back."""
    merge(family.recipe_path, family.out)
    before = contents(family.out)
    family.recipe(parameters={"n": 2, "m": 16, "weight": 0.8})
    make(family, "1/2", overwrite=True)
    family.out.rename(family.staging / "dovetail_parts" / "former")  # as by a process that is killed then
    (family.staging / "dovetail_parts" / "layout" / "decided").write_bytes(b"torn")
    with pytest.raises(OutputError, match=r"is damaged; .*; run the command with --restart, and without --part, to"):
        make(family, "2/2", overwrite=True)
    with pytest.raises(OutputError, match="is not empty"):
        make(family, None, restart=True)
    assert before == contents(family.out)
    make(family, None, restart=True, overwrite=True)
    assert in_one_piece(family) == contents(family.out)


def test_overwrite(family: Family) -> None:
    """A former output stays whole until the last part replaces it; a part that comes late leaves the new one alone."""
    merge(family.recipe_path, family.out)
    before = contents(family.out)
    family.recipe(parameters={"n": 2, "m": 16, "weight": 0.8})
    with pytest.raises(OutputError, match="is not empty"):
        make(family, "1/2")
    make(family, "1/2", overwrite=True)
    assert before == contents(family.out)
    make(family, "2/2", overwrite=True)
    found = contents(family.out)
    assert in_one_piece(family) == found
    (report,) = (event for event in make(family, "1/2", overwrite=True) if isinstance(event, events.Done))
    assert report.already
    assert found == contents(family.out)
    assert {".out.dovetail-partial", ".out.dovetail-old"}.isdisjoint(path.name for path in family.home.iterdir())


def _cut_a_shard(family: Family) -> None:
    path = next(family.out.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-8])


def _change_a_side_file(family: Family) -> None:
    (family.base / "generation_config.json").write_text('{"top_k": 7}')


@pytest.mark.parametrize("damage", [_cut_a_shard, _change_a_side_file])
def test_a_damaged_output_is_made_again(family: Family, damage: Callable[[Family], None]) -> None:
    """An output that lacks bytes, or has other side files than it would get now, is not taken for a finished one."""
    make_all(family, 2)
    damage(family)
    before = contents(family.out)
    with pytest.raises(OutputError, match="pass --overwrite to make the output again"):
        make(family, "1/2")
    assert [] == [event for event in make(family, "1/2", overwrite=True) if isinstance(event, events.Done)]
    assert before == contents(family.out)
    (report,) = (event for event in make(family, "2/2", overwrite=True) if isinstance(event, events.Done))
    assert not report.already
    assert in_one_piece(family) == contents(family.out)


def test_a_full_disk_is_no_matter_once_the_output_is_there(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that another process has made, and published, while this one prepared needs no room of its own."""
    make(family, "2/2")
    prepare = carry_out_part.prepare

    def be_late(*arguments: Any) -> Any:
        monkeypatch.setattr(carry_out_part, "prepare", prepare)
        make(family, "1/2")
        monkeypatch.setattr(target, "DISK_MARGIN_BYTES", 2**62)
        return prepare(*arguments)

    monkeypatch.setattr(carry_out_part, "prepare", be_late)
    (report,) = (event for event in make(family, "1/2") if isinstance(event, events.Done))
    assert report.already
    assert not family.staging.exists()


def test_restart_without_parts(family: Family) -> None:
    """One process may throw away what parts have begun; a part may not, since the others would lose what they do."""
    make(family, "1/2")
    wanted = r"thrown away, and part 2/2 to be made; .*; run one process with --restart"  # never to delete the folder
    with pytest.raises(RecipeError, match=wanted):
        make(family, "2/2", restart=True)
    make(family, None, restart=True)
    assert in_one_piece(family) == contents(family.out)
    assert 5 * 10**9 == read_manifest(family.out)["options"]["shard_size_bytes"]


def _late(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Let something happen while the next process without a part prepares its work."""
    prepare = carry_out.prepare

    def be_late(*arguments: Any) -> Any:
        monkeypatch.setattr(carry_out, "prepare", prepare)
        act()
        return prepare(*arguments)

    monkeypatch.setattr(carry_out, "prepare", be_late)


def test_parts_that_end_while_one_process_prepares(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without a part continues what a part has made meanwhile, with shards as the parts have them."""
    _late(monkeypatch, lambda: make(family, "1/3"))
    (report,) = (event for event in make(family, None) if isinstance(event, events.Done))
    assert 0 < report.written_bytes < 74_880
    assert in_one_piece(family) == contents(family.out)


def test_parts_of_another_merge_that_end_while_one_process_prepares(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts that another recipe has made meanwhile stay, and the process is told what differs."""
    recipe = family.recipe_path.read_text()

    def make_another() -> None:
        family.recipe(dtype="float32")
        make(family, "1/3")
        family.recipe_path.write_text(recipe)

    _late(monkeypatch, make_another)
    with pytest.raises(OutputError, match="cannot be continued: the recipe is not the same"):
        make(family, None)
    family.recipe(dtype="float32")
    make(family, "2/3")
    make(family, "3/3")
    assert in_one_piece(family) == contents(family.out)


def test_another_number_of_parts_that_begins_while_a_part_prepares(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that begin at the same time with two numbers of parts agree on the shards of whoever is first."""
    prepare = carry_out_part.prepare

    def be_late(*arguments: Any) -> Any:
        monkeypatch.setattr(carry_out_part, "prepare", prepare)
        make(family, "1/5")
        return prepare(*arguments)

    monkeypatch.setattr(carry_out_part, "prepare", be_late)
    seen = make(family, "1/2")
    assert 1 == len([event for event in seen if isinstance(event, events.PartDone)])
    make(family, "2/2")
    assert in_one_piece(family) == contents(family.out)


def test_parts_are_never_cleared_away(family: Family) -> None:
    """Even a process that has missed that there are parts refuses to begin in their folder."""
    make(family, "1/2")
    before = contents(family.staging)
    with pytest.raises(OutputError, match=r"holds parts of a merge; .*pass --restart to begin anew"):
        carry_out._clear_unused(family.staging, {"dovetail_lock"})
    assert before == contents(family.staging)


def test_stores(family: Family) -> None:
    """A store of task vectors is made in parts, and merged from in parts, to the bytes of one piece."""
    make_vectors(family.recipe_path, family.home / "store")
    for number in (1, 2, 3):
        make_vectors(family.recipe_path, family.home / "parts", run=RunOptions(part=f"{number}/3"))
    assert contents(family.home / "store") == contents(family.home / "parts")
    family.recipe(vectors=str(family.home / "store"))
    make_all(family, 3)
    assert in_one_piece(family) == contents(family.out)


def test_pictures_and_a_recomputed_output(family: Family) -> None:
    """Pictures of the card show all parts; the output is verified and computed again like any other."""
    options = PlanOptions(card_pictures=True)
    make_all(family, 2, options)
    verdict = verify(family.out)
    assert ((), ()) == (verdict.damage, verdict.unlisted)
    assert 74_880 == recompute(family.out, 1.0)
    assert any(path.suffix == ".svg" for path in family.out.iterdir())


def test_what_has_no_parts(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes of several stages, and conversions, refuse a part in one line."""
    with pytest.raises(RecipeError) as caught:
        convert(family.math, tmp_path / "converted", run=RunOptions(part="1/2"))
    assert (
        "part 1/2 of a conversion is asked for; expected a merge, or the store of one recipe; leave the part out"
    ) == str(caught.value)
    stage = {"merge_method": "linear", "models": [{"model": str(family.math)}], "parameters": {"weight": 1}}
    documents = [{"name": "first", **stage}, {**stage, "models": [{"model": "first"}]}]
    family.recipe_path.write_text(yaml.safe_dump_all(documents))
    outcome = dovetail("merge", family.recipe_path, family.out, "--part", "1/2")
    assert (
        2,
        "error: part 1/2 of a recipe of 2 stages is asked for; expected a part of one merge; leave --part out, so that "
        "one process makes all stages; have a cluster make them (--executor); or write each stage into a recipe of its "
        "own, and make one after another in parts\n",
    ) == (outcome.code, outcome.err)
    monkeypatch.setattr(parts, "rank_of_launch", lambda: Part(1, 2))  # as if mpiexec had started this process
    with pytest.raises(RecipeError) as caught:
        merge(family.recipe_path, family.out, run=RunOptions(part=Part(1, 2)))
    assert (
        "MPI has started 2 processes, each of which is to make a part of a recipe of 2 stages; expected one process, "
        "which makes one stage after another, or hands each out; run it without mpiexec, or by mpiexec -n 2 python -m "
        "mpi4py.futures -m dovetail merge ..."
    ) == str(caught.value)
