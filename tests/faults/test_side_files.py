"""A file beside the weights that cannot be read is an error, never a missing file.

Every call by which Python looks at a file fails once, at each of its calls that concern the base model's folder, or at
every third of the many of one kind; ``python -m bench.faults`` lets each call of the system fail.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from dovetail.engine import RunOptions, merge
from dovetail.engine.errors import describe
from tests.checkpoints import folder_bytes
from tests.engine.conftest import Family

CALLS = {"lstat": 1, "stat": 3, "open": 1, "listdir": 1, "readlink": 1}
"""How far those calls of each kind lie apart that fail."""


@pytest.fixture(autouse=True)
def _many_commits() -> None:
    """Leave tensors whole, unlike other tests of faults: files beside them are read whatever the chunks."""


class Failing:
    """Makes the call of a number fail, of those of one kind that concern a folder."""

    def __init__(self, folder: Path, kind: str, number: int) -> None:
        self.folder, self.number, self.count = os.fspath(folder), number, 0
        self.real = getattr(os, kind)
        self.failed = ""

    def __call__(self, path: Any = ".", *arguments: Any, **options: Any) -> Any:
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.folder):
            self.count += 1
            if self.count == self.number:
                self.failed = os.fspath(path)
                raise OSError(errno.EIO, os.strerror(errno.EIO), self.failed)
        return self.real(path, *arguments, **options)


def run(family: Family, output: Path) -> tuple[str, int]:
    """Merge; give what the command would say, and its exit code."""
    try:
        merge(family.recipe(), output, run=RunOptions(workers=1))
    except Exception as error:
        return describe(error)
    return "", 0


@pytest.mark.parametrize("kind", CALLS)
def test_every_look_at_the_base_model(
    family: Family, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each failure ends with exit code 3 and names the base model, or the output has all its files."""
    (family.base / "generation_config.json").write_text("{}")
    (family.base / "tokenizer_config.json").write_text("{}")
    assert ("", 0) == run(family, tmp_path / "reference")
    expected = folder_bytes(tmp_path / "reference")
    for number in range(1, 200, CALLS[kind]):
        failing = Failing(family.base, kind, number)
        with monkeypatch.context() as patched:
            patched.setattr(os, kind, failing)
            text, code = run(family, tmp_path / "out")
        if not failing.failed:
            break
        told = f"{kind} {number} at {failing.failed}: {text}"
        if code == 0:
            assert expected == folder_bytes(tmp_path / "out"), told
        else:
            assert 3 == code, told
            assert os.fspath(family.base) in text, told
            assert ("", 0) == run(family, tmp_path / "out"), told
            assert expected == folder_bytes(tmp_path / "out"), told
        (tmp_path / "out").rename(tmp_path / f"done{number}")
    else:
        raise AssertionError(f"{kind} is called 200 times and more")
    assert number > 1 or kind == "readlink", "some call concerned the folder"


@pytest.mark.parametrize(("fault", "code"), [(errno.EIO, 5), (errno.ENOSPC, 4)])
def test_side_files_of_the_output(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int, code: int
) -> None:
    """A side file that cannot be written is the output's failure: exit code 5, or 4 for a full disk."""
    opened = os.open

    def failing(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_CREAT and os.fspath(path).endswith("/config.json"):
            raise OSError(fault, os.strerror(fault), os.fspath(path))
        return opened(path, flags, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", failing)
        text, found = run(family, tmp_path / "out")
    assert code == found, text
    assert f"{family.staging}/config.json" in text
    assert ("", 0) == run(family, tmp_path / "out")
