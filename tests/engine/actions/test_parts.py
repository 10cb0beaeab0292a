"""A merge in parts gives the files of a merge in one piece with shards of the same size, however it is divided."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dovetail.engine import events
from dovetail.engine.actions import carry_out_part, parts
from dovetail.engine.methods.registry import METHODS
from dovetail.engine.planning import grid
from dovetail.engine.planning.plan import PlanOptions
from tests.engine.actions.making_parts import ZARR, in_one_piece, make, make_all, told
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.engine.interrupt import commit_often
from tests.engine.outputs import contents, unreadable
from tests.part_methods import FORMATS, VARIANTS, Trial, by_parts


@pytest.fixture(autouse=True)
def _many_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut merges into many tasks and commit them in small groups."""
    commit_often(monkeypatch)


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("options", [None, ZARR], ids=["safetensors", "zarr"])
def test_any_number_of_parts(family: Family, count: int, options: PlanOptions | None) -> None:
    """The last part publishes, and the output is that of one piece, manifest, card and side files included."""
    for number in range(1, count + 1):
        (report, *_) = [
            event
            for event in make(family, f"{number}/{count}", options)
            if isinstance(event, events.Done | events.PartDone)
        ]
        assert isinstance(report, events.Done) == family.out.exists()
    assert family.out.exists()
    assert not family.staging.exists()
    assert in_one_piece(family, options) == contents(family.out)


SAMPLE = {variant.method: variant for variant in VARIANTS}
"""For each method the last of its variants; ``python -m bench.parts --methods`` tries them all, in more parts."""


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """Make the models that all methods merge."""
    return Trial(tmp_path_factory.mktemp("methods"), layers=1)


@pytest.mark.parametrize("place", range(len(METHODS)), ids=METHODS)
def test_every_method(trial: Trial, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    """Whatever a method looks at, parts give the bytes of one piece: safetensors by one method, Zarr by the next."""
    monkeypatch.setattr(grid, "CHUNK_STEP", 3000)
    form = sorted(FORMATS)[place % 2]
    assert [] == trial.differing(
        SAMPLE[list(METHODS)[place]], form, {"parts": by_parts(2 + place % 2, 2)}, workers=(2,)
    )


def test_no_file_is_written_by_two_parts(family: Family) -> None:
    """Each output file belongs to one part: it is there once that part has begun, and complete when it is done."""
    make(family, "2/3")
    layout = {path.name: path.read_bytes() for path in family.staging.glob("*.safetensors")}
    make(family, "1/3")
    assert layout.items() <= {path.name: path.read_bytes() for path in family.staging.glob("*.safetensors")}.items()
    make(family, "3/3")
    assert layout.items() <= contents(family.out).items()


def test_a_part_without_files_says_so(family: Family) -> None:
    """There are nine tensors: of 40 parts most have nothing to make, say so, end well, and are not left to be made."""
    seen = make(family, "40/40")
    assert [
        "Part 40/40 has nothing to make: the other parts have all that there is.",
        "Part 40/40 is done; 9 parts of 40 left: 1-9.",
    ] == told(seen)
    (report,) = (event for event in seen if isinstance(event, events.PartDone))
    assert (40, 40, "1-9", 0) == (report.part, report.parts, report.left, report.written_bytes)


def test_what_parts_agree_on_may_go_while_it_is_read(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that publishes just when this one looks takes the folder away: the output is there then."""
    make(family, "1/2")
    read = parts.read_layout

    def read_late(staging: Path) -> Any:
        monkeypatch.setattr(parts, "read_layout", read)
        make(family, "2/2")
        return read(staging)

    monkeypatch.setattr(parts, "read_layout", read_late)
    (report,) = (event for event in make(family, "1/2") if isinstance(event, events.Done))
    assert report.already
    assert not family.staging.exists()


def test_many_parts(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more parts than are looked at closely, the last publishes, and so does one that finds nothing to make."""
    monkeypatch.setattr(carry_out_part, "_FEW_PARTS", 1)
    for number in range(2, 6):
        make(family, f"{number}/5")
    for path in family.staging.glob("dovetail_parts/of-5/*.done"):
        path.unlink()  # as if all had been killed at their very ends
    assert [] == [event for event in make(family, "1/5") if isinstance(event, events.Done)]
    assert 1 == len([event for event in make(family, "3/5") if isinstance(event, events.Done)])
    assert in_one_piece(family) == contents(family.out)


def test_the_command_says_what_is_left(family: Family) -> None:
    """The command ends with 0 while parts are left, and names them as SLURM does; the last prints the summary."""
    first = dovetail("merge", family.recipe_path, family.out, "--part", "2/3")
    assert (0, "") == (first.code, first.out[:0])
    assert "Part 2/3 is done; 2 parts of 3 left: 1,3.\n" in first.err
    as_json = dovetail("merge", family.recipe_path, family.out, "--part", "1/3", "--json")
    assert [("part", "3")] == [(each["event"], each["left"]) for each in as_json.events if each["event"] == "part"]
    last = dovetail("merge", family.recipe_path, family.out, "--part", "3/3")
    assert (0, True) == (last.code, "density" in last.out)
    assert re.search(rf"Output +{family.out} \(73\.1 KiB in ", last.out)
    assert re.search(r"This run +3[0-9]\.[0-9]% of the chunks, [0-9.]+ KiB read and written; earlier runs or", last.out)
    again = dovetail("merge", family.recipe_path, family.out, "--part", "1/3")
    assert (0, f"{family.out} is this merge already, verified by its plan; nothing to do.\n") == (again.code, again.err)


def test_a_finished_output_is_known_by_any_number_of_parts(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another number of parts would have other shards, but the output is there; nothing is read."""
    make_all(family, 3)
    before = contents(family.out)
    unreadable(monkeypatch)
    (report,) = (event for event in make(family, "7/8") if isinstance(event, events.Done))
    assert report.already
    assert before == contents(family.out)
