"""The journal of a search: what it holds survives, and it is continued by the same search alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dovetail.engine.errors import OutputError
from dovetail.engine.searching.evaluations import Evaluation, failed
from dovetail.engine.searching.journal import SearchJournal
from dovetail.engine.searching.space import Values

IDENTITY: dict[str, Any] = {"recipe": "a: 1\n", "evaluate": "cmd", "seed": 0, "plan": ["x"]}
ENTRIES: list[tuple[Values, Evaluation]] = [
    ((0.1, 3, True, "word", ("b", "a")), Evaluation(0.30000000000000004)),
    ((5e-324, -4, False, "ü \n", ("a", "b")), Evaluation({"a": 1e300, "b": 2.0})),
    ((1.0, 0, True, "x y", ("a",)), failed("it ended with exit code 1: no\nidea")),
]


def write(path: Path) -> None:
    journal = SearchJournal(path, IDENTITY)
    for number, (values, evaluation) in enumerate(ENTRIES):
        journal.append(number, values, evaluation)
    journal.close()


def read(path: Path) -> list[tuple[Values, Evaluation]]:
    journal = SearchJournal(path, IDENTITY)
    journal.close()
    assert list(range(len(journal.found))) == sorted(journal.found)
    return [journal.found[number] for number in sorted(journal.found)]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Values of every kind and every outcome come back as they were."""
    write(tmp_path / "journal")
    assert ENTRIES == read(tmp_path / "journal")


def test_torn_anywhere(tmp_path: Path) -> None:
    """Wherever the file is cut off, the whole entries before the cut count, and the next one is appended soundly."""
    path = tmp_path / "journal"
    write(path)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for size in sorted({*range(0, len(whole), 7), *ends[:-1], *(end - 1 for end in ends)}):
        path.write_bytes(whole[:size])
        count = max(0, sum(end <= size for end in ends) - 1)
        assert ENTRIES[:count] == read(path), size
    assert 0 == count - 2
    journal = SearchJournal(path, IDENTITY)
    journal.append(2, *ENTRIES[2])
    journal.close()
    assert whole == path.read_bytes()


def test_damage(tmp_path: Path) -> None:
    """A byte that has changed costs its entry and those after it."""
    path = tmp_path / "journal"
    write(path)
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"\n", whole.index(b"\n") + 1) - 30] ^= 1
    path.write_bytes(whole)
    assert [] == read(path)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("seed", 1, "seed was 0 and is 1"),
        ("evaluate", "other", "evaluate was 'cmd' and is 'other'"),
        ("recipe", "b", "the recipe has changed since"),
        ("plan", ["y"], "an input or the version of Dovetail has changed since"),
    ],
)
def test_another_search(tmp_path: Path, key: str, value: Any, text: str) -> None:
    """Another search is refused, with the first difference, and the journal stays as it was."""
    path = tmp_path / "journal"
    write(path)
    with pytest.raises(OutputError, match=f"cannot be continued: {text}; expected the same recipe"):
        SearchJournal(path, IDENTITY | {key: value})
    assert ENTRIES == read(path)


def test_journals_of_merges(tmp_path: Path) -> None:
    """The journal of an unfinished merge is left alone."""
    path = tmp_path / "journal"
    path.write_bytes(b'{"format": "dovetail-journal"}\n' + bytes(100))
    with pytest.raises(OutputError, match="it holds something else than an unfinished search"):
        SearchJournal(path, IDENTITY)


def test_a_journal_without_candidates_is_no_hindrance(tmp_path: Path) -> None:
    """Before anything was evaluated, another search may begin."""
    path = tmp_path / "journal"
    SearchJournal(path, IDENTITY | {"seed": 9}).close()
    write(path)
    assert ENTRIES == read(path)
