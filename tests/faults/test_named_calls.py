"""Calls of the operating system that once failed with the wrong exit code or without a name, each by itself."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dovetail.engine.actions.recompute import recompute
from dovetail.engine.errors import VerificationError
from dovetail.io.files import mapping
from tests.adapters import lora_tensors, write_adapter
from tests.checkpoints import folder_bytes, llama_tensors
from tests.engine.command import dovetail
from tests.engine.conftest import Family


def _path_of(given: Any) -> str:
    """Give the path that a call concerns: its own, or that of a descriptor."""
    return os.readlink(f"/proc/self/fd/{given}") if isinstance(given, int) else os.path.abspath(os.fspath(given))


class Failing:
    """Lets the N-th call of a function that concerns certain files fail."""

    def __init__(self, real: Callable[..., Any], concerns: Callable[[str], bool], number: int, error: int) -> None:
        self.real, self.concerns, self.left, self.error = real, concerns, number, error

    def __call__(self, given: Any, *arguments: Any, **options: Any) -> Any:
        if self.left and options.get("dir_fd") is None and self.concerns(path := _path_of(given)):
            self.left -= 1
            if not self.left:
                raise OSError(self.error, os.strerror(self.error), *([] if isinstance(given, int) else [path]))
        return self.real(given, *arguments, **options)


def test_a_look_at_the_output_that_fails(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever look at the place of the output fails, that is the output's error, and a link stays a link."""
    (family.home / "elsewhere").mkdir()
    family.out.symlink_to("elsewhere")
    for number in range(1, 100):
        failing = Failing(os.lstat, lambda path: path == str(family.out), number, errno.EIO)
        with monkeypatch.context() as patched:
            patched.setattr(os, "lstat", failing)
            outcome = dovetail("merge", family.recipe_path, family.out, "--restart")
        if failing.left:
            break
        assert 5 == outcome.code, (number, outcome.err)
        assert f"Input/output error at {family.out}; " in outcome.err, number
        assert family.out.is_symlink()
    assert number > 3
    assert 0 == outcome.code
    assert "dovetail_manifest.json" in folder_bytes(family.home / "elsewhere")


def test_an_input_that_cannot_be_mapped(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no addresses left for a file, the error names it and the limit to raise; exit code 4."""

    class Full(mmap.mmap):
        def __new__(cls, *_: Any, **__: Any) -> Any:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as patched:
        patched.setattr(mapping.mmap, "mmap", Full)
        mapping._open_files.clear()
        outcome = dovetail("merge", family.recipe_path, family.out)
    assert 4 == outcome.code, outcome.err
    assert f"error: the system has no memory for this process to open {family.home}/" in outcome.err
    assert (
        "; raise the limit on memory (ulimit -v, or the container's), or close other programs, and run" in outcome.err
    )
    assert 0 == dovetail("merge", family.recipe_path, family.out).code


def test_an_adapter_that_cannot_be_looked_at(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing look at an open file of an adapter is the adapter's error, with exit code 3."""
    tensors = lora_tensors(3, llama_tensors(0), ["model.layers.0.self_attn.q_proj"])
    folder = write_adapter(family.home / "adapter", tensors, target_modules=["q_proj"])
    family.recipe(models=[{"model": f"{family.math}+{folder}"}, {"model": str(family.code)}])
    failing = Failing(os.fstat, lambda path: path == f"{folder}/adapter_model.safetensors", 1, errno.EIO)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", failing)
        outcome = dovetail("merge", family.recipe_path, family.out)
    assert 0 == failing.left
    assert (3, f"error: cannot read {folder} (Input/output error)") == (outcome.code, outcome.err.partition(";")[0])
    assert 0 == dovetail("merge", family.recipe_path, family.out).code


def _opens(family: Family, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, VerificationError | None]]:
    for number in range(1, 100):
        failing = Failing(os.open, lambda path: path.startswith(f"{family.out}/"), number, errno.EIO)
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", failing)
            mapping._open_files.clear()
            try:
                recompute(family.out, 1.0)
                caught = None
            except VerificationError as error:
                caught = error
        if failing.left:
            return
        yield number, caught


def test_an_output_that_cannot_be_read_again(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed again is compared with an output: that cannot be read is exit code 5, not that of an input."""
    assert 0 == dovetail("merge", family.recipe_path, family.out).code
    failed = [(number, error) for number, error in _opens(family, monkeypatch) if error is not None]
    assert len(failed) >= 2
    assert [5] * len(failed) == [error.exit_code for _, error in failed]


def test_a_new_output_that_cannot_take_the_place_of_the_old(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old output goes back to its place, and the same command puts the new one there, computing nothing."""
    family.out.mkdir()
    (family.out / "old").write_text("old")
    rename, left = Path.rename, [3]

    def refuse(path: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] == 0:
            raise PermissionError(errno.EACCES, "Permission denied", str(target))
        return rename(path, target)

    command = ("merge", family.recipe_path, family.out, "--overwrite", "--json")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refuse)
        outcome = dovetail(*command)
    assert (5, {"old": b"old"}) == (outcome.code, folder_bytes(family.out)), outcome.err
    outcome = dovetail(*command)
    assert (0, 0) == (outcome.code, outcome.events[-1]["written_bytes"])
    assert ["base", "code", "math", "out", "recipe.yml"] == sorted(path.name for path in family.home.iterdir())


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
@pytest.mark.parametrize("call", ["stat", "lstat"])
def test_the_first_look_at_an_input(family: Family, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    """Where the system cannot tell whether an input is there, it is not taken for one of another name or on a hub."""
    commands = {"stat": ("merge", family.recipe_path), "lstat": ("convert", family.base)}
    looks = Failing(getattr(os, call), lambda path: path == str(family.base), 1, number)
    with monkeypatch.context() as patched:
        patched.setattr(os, call, looks)
        outcome = dovetail(*commands[call], family.out)
    assert not looks.left
    assert 3 == outcome.code, outcome.err
    assert f"cannot read {family.base} ({os.strerror(number)}); " in outcome.err
    assert 0 == dovetail(*commands[call], family.out, "--quiet").code


@pytest.mark.parametrize(
    ("command", "number"), [("merge", errno.EMFILE), ("verify", errno.EMFILE), ("verify", errno.ENFILE)]
)
def test_no_more_open_files(family: Family, monkeypatch: pytest.MonkeyPatch, command: str, number: int) -> None:
    """Whichever file is the one too many, that is the system's limit, and no file is called damaged or missing."""
    family.recipe()
    if command == "verify":
        assert 0 == dovetail("merge", family.recipe_path, family.out, "--quiet").code
    arguments = {"merge": ("merge", family.recipe_path, family.out), "verify": ("verify", family.out)}[command]
    for count in range(1, 100):
        failing = Failing(os.open, lambda path: str(family.home) in path, count, number)
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", failing)
            outcome = dovetail(*arguments)
        if failing.left:
            break
        assert 4 == outcome.code, (count, outcome.err)
        assert "error: the system has no further open file" in outcome.err, count
        assert "damaged" not in outcome.err
    assert count > 5
    assert 0 == outcome.code


def test_a_model_that_cannot_be_looked_at_is_no_misspelt_stage(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what the disk said, and proposes no stage in the place of the model; exit code 3."""
    recipe = family.recipe_path.read_text()
    first = {"name": "first", "merge_method": "linear", "models": [{"model": str(family.base)}], "dtype": "bfloat16"}
    family.recipe_path.write_text(f"{yaml.safe_dump(first | {'parameters': {'weight': 1.0}})}---\n{recipe}")
    failing = Failing(os.stat, lambda path: path == str(family.math), 1, errno.EIO)
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", failing)
        outcome = dovetail("merge", family.recipe_path, family.out)
    assert 3 == outcome.code, outcome.err
    told = f"cannot read {family.math} (Input/output error); expected a readable folder or file; "
    assert f"error: {told}check its permissions" == outcome.err.splitlines()[-1]
