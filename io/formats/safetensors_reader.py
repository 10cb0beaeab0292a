"""Reading safetensors checkpoints, one file or shards with an index, as memory-mapped sources."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

import xxhash

from dovetail.io.checkpoint import Checkpoint, FileFingerprint, TensorInfo
from dovetail.io.errors import CheckpointError, IndexFileError, MissingFileError, UnsupportedError
from dovetail.io.files.collector import collector_paused
from dovetail.io.files.mapping import MappedSource
from dovetail.io.files.smallfile import is_named
from dovetail.io.formats.header import read_header
from dovetail.io.formats.index import check_index, read_index, refuse_part, resolve_in_folder
from dovetail.io.formats.safetensors_layout import INDEX_NAME, SINGLE_NAME

LOOKED_FOR: Final = f"{SINGLE_NAME}, {INDEX_NAME} with its shards, or exactly one .safetensors file"
"""The files that make a folder a safetensors checkpoint, for error messages."""

MAX_TENSORS: Final = 1_000_000
"""Most tensors of a checkpoint, over all of its files, which take about 1.7 GB of memory; a header holds a quarter."""

ADAPTER_NAME: Final = "adapter_model.safetensors"


def is_there(folder: Path) -> bool:
    """Whether a folder holds a safetensors file or an index of such files."""
    return any(entry.name.endswith((".safetensors", ".safetensors.index.json")) for entry in folder.iterdir())


def read_file(path: Path) -> Checkpoint:
    """Read one ``.safetensors`` file; raises as `dovetail.io.read_checkpoint` does."""
    return _read_files(path, None, [path])


def read_folder(path: Path) -> Checkpoint:
    """Read a folder in the Hugging Face layout; raises as `dovetail.io.read_checkpoint` does."""
    single = path / SINGLE_NAME
    if not is_named(single) and (index := _find_index(path)):
        weight_map = read_index(index)
        shards = [resolve_in_folder(path, name, index.name) for name in sorted(set(weight_map.values()))]
        found_in: dict[str, str] = {}
        checkpoint = _read_files(path, path, shards, found_in)
        check_index(index, weight_map, found_in)
        return checkpoint
    if not is_named(single):
        name = _find_single(path)
        refuse_part(path, name)
        return _read_files(path, path, [resolve_in_folder(path, name, "its folder")])
    checkpoint = _read_files(path, path, [resolve_in_folder(path, SINGLE_NAME, "its folder")])
    return replace(checkpoint, notes=_passed_over(path))


def _passed_over(folder: Path) -> tuple[str, ...]:
    """Say that a folder has the files of an index too, if it has, which are not read: one of the two may be stale."""
    index = folder / INDEX_NAME
    try:
        names = set(read_index(index).values()) - {SINGLE_NAME} if is_named(index) else set()
    except CheckpointError:
        return ()  # which is of no account, as the index is not needed
    there = sorted(name for name in names if is_named(folder / name))
    if not there:
        return ()
    return (
        f"{folder} has {SINGLE_NAME} as well as {INDEX_NAME} with {there[0]}: {SINGLE_NAME} is read, as transformers "
        "does. Remove the one that is out of date",
    )


def odd_file(folder: Path) -> str | None:
    """Name the only safetensors file of a folder without index where it is not called as models are; else None."""
    if is_named(folder / SINGLE_NAME) or _find_index(folder) is not None:
        return None
    found = [entry.name for entry in folder.iterdir() if entry.name.endswith(".safetensors")]
    return found[0] if len(found) == 1 else None


def is_adapter(folder: Path) -> bool:
    """Whether a folder's only safetensors file has the name that peft gives to adapters."""
    if _find_index(folder) is not None:
        return False
    return [entry.name for entry in folder.iterdir() if entry.name.endswith(".safetensors")] == [ADAPTER_NAME]


def _find_index(folder: Path) -> Path | None:
    """Find the shard index: the file with the usual name, or else the only index with another name."""
    if is_named(folder / INDEX_NAME):
        return folder / INDEX_NAME
    found = sorted(folder.glob("*.safetensors.index.json"))
    return found[0] if len(found) == 1 else None


def _find_single(folder: Path) -> str:
    """Find the only safetensors file of a folder, or raise an error that says how many there are."""
    names = sorted(entry.name for entry in folder.iterdir())
    found = [name for name in names if name.endswith(".safetensors")]
    if len(found) == 1:
        return found[0]
    if found:
        raise MissingFileError(
            f"{folder} has {len(found)} .safetensors files and no index ({found[0]}, {found[1]}, ...)",
            LOOKED_FOR,
            "add the index, or give the path of one file",
        )
    raise MissingFileError(f"{folder} has no .safetensors file", LOOKED_FOR, "check the path")


@collector_paused()
def _read_files(
    path: Path, folder: Path | None, files: Iterable[Path], found_in: dict[str, str] | None = None
) -> Checkpoint:
    """Read the headers of a checkpoint's files into one catalogue; `found_in` receives the file of each tensor."""
    tensors: dict[str, TensorInfo] = {}
    metadata: dict[str, str] = {}
    fingerprints = []
    for file in files:
        header, size_bytes, mtime_ns = read_header(file)
        fingerprints.append(FileFingerprint(file.name, size_bytes, mtime_ns, xxhash.xxh3_128_hexdigest(header.raw)))
        if len(tensors) + len(header.entries) > MAX_TENSORS:
            raise UnsupportedError(
                f"{path} has more than {MAX_TENSORS:,} tensors", "at most that many", "store equal parts as one tensor"
            )
        metadata = {**header.metadata, **metadata}
        if found_in is not None:
            found_in.update(dict.fromkeys([entry.name for entry in header.entries], file.name))
        file_path, data_start = str(file), header.data_start_bytes
        for name, dtype, shape, begin, end in header.entries:
            if name in tensors:
                raise IndexFileError(
                    f"tensor {name!r} is in {file.name} and in an earlier file of {path}",
                    "each tensor in one file",
                    "download or export the checkpoint again",
                )
            itemsize = dtype.itemsize
            length = (end - begin) // itemsize
            source = MappedSource(file_path, data_start + begin, length, itemsize, size_bytes, mtime_ns)
            tensors[name] = TensorInfo(name, dtype, shape, source)
    return Checkpoint(path, folder, tensors, metadata, tuple(fingerprints))
