"""Which part a process makes: as people write it, and as SLURM and MPI tell their processes."""

from __future__ import annotations

import pytest

from dovetail.engine import RunOptions
from dovetail.engine.errors import RecipeError
from dovetail.engine.run.parts.part import Part, ranges


@pytest.mark.parametrize(("text", "expected"), [("3/16", (3, 16)), (" 1 / 1 ", (1, 1)), ("1000/1000", (1000, 1000))])
def test_a_part_as_people_write_it(text: str, expected: tuple[int, int]) -> None:
    """Parts count from 1."""
    found = Part.parse(text)
    assert expected == (found.number, found.count)


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "1/0", "-1/4", "a/b", "1/2/3", "1/9999999", "3 of 16"])
def test_what_is_no_part(text: str) -> None:
    """Anything else is an error that says what is expected."""
    with pytest.raises(RecipeError, match=r"^part is .*expected I/N.*; correct the part$"):
        Part.parse(text)


def array(task: int, count: int, first: int, last: int) -> dict[str, str]:
    """Give the variables of a task of an array."""
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX")
    return dict(zip(names, map(str, (task, count, first, last)), strict=True))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (array(1, 16, 1, 16), "1/16"),
        (array(0, 16, 0, 15), "1/16"),
        (array(9, 3, 7, 9), "3/3"),
        (array(10, 4, 0, 15) | {"SLURM_ARRAY_TASK_STEP": "5"}, "3/4"),
        (array(5, 1, 5, 5), "1/1"),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "8"}, "3/8"),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "4"}, "3/4"),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"}, "1/4"),
        ({"PMI_RANK": "3", "PMI_SIZE": "4"}, "4/4"),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, "2/4"),
        ({"PMI_RANK": "0", "PMI_SIZE": "1", "SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "8"}, "3/8"),
        ({"PMI_RANK": "5", "PMI_SIZE": "8", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, "6/8"),
        ({"PMI_RANK": "5", "PMI_SIZE": "8", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "8"}, "6/8"),
        (array(2, 3, 1, 3) | {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, "4/6"),
        (array(2, 3, 1, 3) | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, "2/3"),
    ],
)
def test_a_part_from_the_environment(environment: dict[str, str], expected: str) -> None:
    """An array's tasks count from its first one, ranks from 0, and ranks of an array's tasks are all different."""
    assert expected == str(Part.parse("auto", environment))


def test_every_process_gets_a_part_of_its_own() -> None:
    """The ranks of all tasks of an array together are the parts, each once."""
    found = [
        Part.parse("auto", array(task, 4, 3, 6) | {"PMI_RANK": str(rank), "PMI_SIZE": "3"})
        for task in range(3, 7)
        for rank in range(3)
    ]
    assert [f"{number}/12" for number in range(1, 13)] == [str(part) for part in found]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "no variable of SLURM or MPI is set"),
        (array(7, 4, 3, 9), r"has 4 tasks from 3 to 9 with gaps; .*submit --array=1-4"),
        (array(7, 2, 3, 4), "with gaps"),
        ({"PMI_RANK": "x", "PMI_SIZE": "4"}, "PMI_RANK is x"),
        ({"PMI_RANK": "4", "PMI_SIZE": "4"}, "part is 5/4"),
        ({"SLURM_ARRAY_TASK_ID": "7"}, "SLURM_ARRAY_TASK_COUNT is not set"),
    ],
)
def test_an_environment_that_does_not_tell(environment: dict[str, str], expected: str) -> None:
    """Where a process cannot know which part it is, it does not guess."""
    with pytest.raises(RecipeError, match=expected):
        Part.parse("auto", environment)


def test_options_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`RunOptions` takes text, and ``auto`` reads the process's own environment."""
    assert Part(3, 16) == RunOptions(part="3/16").part
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("PMI_SIZE", "2")
    for name in ("OMPI_COMM_WORLD_RANK", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert Part(2, 2) == RunOptions(part="auto").part


@pytest.mark.parametrize(
    ("numbers", "expected"), [([], ""), ([3], "3"), ([1, 2, 3], "1-3"), ([3, 7, 8, 9, 11], "3,7-9,11")]
)
def test_ranges(numbers: list[int], expected: str) -> None:
    """Numbers are written as ``--array`` takes them."""
    assert expected == ranges(numbers)
