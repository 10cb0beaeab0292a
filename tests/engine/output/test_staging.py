"""Publishing a staging folder as the output, whatever happens on the way, and the side files that are copied."""

from __future__ import annotations

import os
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from dovetail import engine
from dovetail.engine import events
from dovetail.engine.actions.merge import merge
from dovetail.engine.errors import DiskSpaceError
from dovetail.engine.output import staging
from dovetail.engine.output.side_files import copied_files
from dovetail.engine.output.staging import staging_path
from dovetail.engine.output.target import check_disk_space
from dovetail.engine.planning import grid
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.run.prepare import RunOptions
from dovetail.io.files.durable import write_durably
from dovetail.io.output import SafetensorsFormat
from tests.checkpoints import folder_bytes
from tests.engine.command import dovetail
from tests.engine.conftest import Family


def test_the_staging_folder_lies_beside_the_output(tmp_path: Path) -> None:
    """It is on the same file system, also where the output is a link to another place."""
    assert tmp_path / ".merged.dovetail-partial" == staging_path(tmp_path / "merged")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "merged")
    assert tmp_path / "elsewhere" / ".merged.dovetail-partial" == staging_path(tmp_path / "link")


@pytest.mark.parametrize("renames", [1, 2, 3])
def test_a_crash_while_an_output_is_replaced(family: Family, monkeypatch: pytest.MonkeyPatch, renames: int) -> None:
    """If it dies before, between or after the renamings, an output is whole, and the same command ends the work."""
    family.out.mkdir()
    (family.out / "old.txt").write_text("the only copy")
    rename, left = Path.rename, [renames]

    def crash(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return rename(self, target)

    command = ("merge", family.recipe_path, family.out, "--overwrite")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", crash)
        assert 130 == dovetail(*command).code
    copies = [path for path in (family.out, family.home / ".out.dovetail-old") if (path / "old.txt").exists()]
    assert ["the only copy"] == [(path / "old.txt").read_text() for path in copies]
    assert (family.staging / "dovetail_manifest.json").exists()
    outcome = dovetail(*command, "--json")
    assert (0, 0) == (outcome.code, outcome.events[-1]["written_bytes"])
    assert ["base", "code", "math", "out", "recipe.yml"] == sorted(os.listdir(family.home))
    assert 0 == dovetail("verify", family.out).code
    assert not (family.out / "old.txt").exists()


def test_room_on_the_disk(tmp_path: Path) -> None:
    """An output that does not fit is refused, even if its folder does not exist yet."""
    check_disk_space(tmp_path / "not" / "yet", 0)
    with pytest.raises(DiskSpaceError, match=f"^disk space free at {tmp_path} is "):
        check_disk_space(tmp_path / "not" / "yet", 2**60)


def test_files_are_written_whole_or_in_parts(tmp_path: Path) -> None:
    """A file written at once or in parts has the same bytes, and replaces an older one."""
    for data in (b"one two", iter([b"one", b" ", b"two"])):
        (tmp_path / "file").write_bytes(b"something longer than that")
        write_durably(tmp_path / "file", data)
        assert b"one two" == (tmp_path / "file").read_bytes()


def test_which_files_go_along(tmp_path: Path) -> None:
    """Small plain files are copied by name, but no weights, indexes, hidden files, folders, pipes or replaced files."""
    for name in (
        "tokenizer.model", "vocab.txt", "merges.txt", "chat_template.jinja", "modeling_custom.py", "LICENSE",
        "model.safetensors", "pytorch_model.bin", "model.gguf", "optimizer.pt", "tf_model.h5", "flax.msgpack",
        "model.safetensors.index.json", "pytorch_model.bin.index.json", "README.md", "readme.md", "config.json",
        "dovetail_manifest.json", "dovetail_recipe.yml", "dovetail_journal", "dovetail_lock", ".gitattributes",
    ):  # fmt: skip
        (tmp_path / name).write_text("x")
    (tmp_path / "1_Pooling").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(64 * 2**20 + 1)
    assert [
        "LICENSE", "chat_template.jinja", "merges.txt", "modeling_custom.py", "tokenizer.model", "vocab.txt",
    ] == [path.name for path in copied_files(tmp_path)]  # fmt: skip


class Inline(Executor):
    """An executor that runs a task as soon as it is submitted."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def test_an_input_cut_short_while_it_is_read(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a mapped file is cut short, an error names it, and the process is not killed."""
    monkeypatch.setattr(grid, "CHUNK_STEP", 1000)
    monkeypatch.setattr(grid, "TASK_BYTES", 1)
    path = family.math / "model.safetensors"

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Progress) and path.stat().st_size > 4096:
            os.truncate(path, 4096)

    with pytest.raises(
        ValueError,
        match=rf"^{path} (can no longer be read at bytes .*; check that the file was not cut|changed while it was)",
    ):
        merge(family.recipe_path, family.out, PlanOptions(), RunOptions(workers=1, executor=Inline()), listen)
    assert not family.out.exists()


def test_the_public_names(family: Family) -> None:
    """The package itself gives a plan, a merge and its manifest; an unknown name is an error."""
    made = engine.plan(family.recipe_path, engine.PlanOptions(SafetensorsFormat(20_000)))
    assert isinstance(made, engine.Plan)
    assert 5 == len(made.layout.shards)
    manifest = engine.merge(str(family.recipe_path), str(family.out), run=engine.RunOptions(workers=1))
    whole = engine.read_manifest(family.out)
    assert manifest == {key: value for key, value in whole.items() if key not in ("tensors", "self_checksum")}
    assert {path.name for path in family.out.iterdir()} == set(folder_bytes(family.out))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = engine.nothing


def test_a_working_folder_that_another_process_removes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several processes that remove an unused working folder at the same time, none fails."""
    unlocked = staging.if_unlocked

    def be_late(folder: Path) -> Any:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        return unlocked(folder)

    monkeypatch.setattr(staging, "if_unlocked", be_late)
    folder = staging_path(tmp_path / "out")
    folder.mkdir()
    assert staging.is_bare(folder)
    staging.discard_unused(folder)
    assert [] == [*tmp_path.iterdir()]
    assert not staging.is_bare(folder)


def test_a_removal_that_another_process_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that comes to a file which another one has removed goes on, so that nothing is left."""
    remove, found = staging.remove_folder, []

    def be_disturbed(folder: Path) -> None:
        found.append(folder)
        if len(found) < 3:
            raise FileNotFoundError(folder / "a file")
        remove(folder)

    monkeypatch.setattr(staging, "remove_folder", be_disturbed)
    folder = staging_path(tmp_path / "out")
    (folder / "parts").mkdir(parents=True)
    staging.discard_unused(folder)
    assert [] == [*tmp_path.iterdir()]
    assert 3 == len(found)
