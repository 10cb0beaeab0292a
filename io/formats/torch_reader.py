"""Reading PyTorch checkpoints: one ``.bin``, ``.pt`` or ``.pth`` file, or shards with an index.

PyTorch, in a child process, lists the tensors of a file: see `dovetail.io.formats.torch_catalogue`. The archive's
directory says where the storages lie, and the two must agree. The bytes are then mapped like those of safetensors,
without a copy and without PyTorch.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import xxhash

from dovetail.io.checkpoint import Checkpoint, FileFingerprint, TensorInfo
from dovetail.io.dtypes import DTYPES, QUANTISED_DTYPES
from dovetail.io.errors import IndexFileError, MissingFileError, TorchFileError, UnsupportedError
from dovetail.io.extras import require
from dovetail.io.files.collector import collector_paused
from dovetail.io.files.mapping import MappedSource
from dovetail.io.files.smallfile import is_named
from dovetail.io.files.strict_json import brief
from dovetail.io.files.strided import StridedSource
from dovetail.io.formats.header import check_name, open_regular
from dovetail.io.formats.index import check_index, read_index, refuse_part, resolve_in_folder
from dovetail.io.formats.torch_zip import TorchArchive, read_archive
from dovetail.io.source import Source

SUFFIXES: Final = (".bin", ".pt", ".pth")
"""Suffixes of PyTorch files."""

SINGLE_NAME: Final = "pytorch_model.bin"
INDEX_NAME: Final = "pytorch_model.bin.index.json"

LOOKED_FOR: Final = f"{SINGLE_NAME}, {INDEX_NAME} with its shards, or exactly one .bin, .pt or .pth file"
"""The files that make a folder a PyTorch checkpoint, for error messages."""

NOT_WEIGHTS: Final = ("training_args", "optimizer", "scheduler", "rng_state", "scaler", "adapter_model")
"""Beginnings of file names that training programs give to files without weights, despite a suffix of `SUFFIXES`."""

_BY_TORCH_NAME: Final = {dtype.torch_name: dtype for dtype in (*DTYPES.values(), QUANTISED_DTYPES["F8_E8M0"])}
_MAX_SIZE: Final = 2**63 - 1
_CHILD_SECONDS: Final = 3_600


def is_there(folder: Path) -> bool:
    """Whether a folder holds PyTorch weights or an index of such files."""
    return is_named(folder / INDEX_NAME) or bool(_candidates(folder))


def usual_file(folder: Path) -> str | None:
    """Name the file that makes a folder a PyTorch checkpoint by its usual name; None if there is none."""
    return next((name for name in (SINGLE_NAME, INDEX_NAME) if is_named(folder / name)), None)


def read_file(path: Path) -> Checkpoint:
    """Read one PyTorch file; raises as `dovetail.io.read_checkpoint` does."""
    return _read_files(path, None, [path])


def read_folder(path: Path) -> Checkpoint:
    """Read a folder in the Hugging Face layout; raises as `dovetail.io.read_checkpoint` does."""
    if not is_named(path / SINGLE_NAME) and is_named(path / INDEX_NAME):
        index = path / INDEX_NAME
        weight_map = read_index(index, ".bin")
        shards = [resolve_in_folder(path, name, index.name) for name in sorted(set(weight_map.values()))]
        checkpoint = _read_files(path, path, shards)
        check_index(index, weight_map, _file_names(checkpoint))
        return checkpoint
    found = _candidates(path)
    if SINGLE_NAME not in found and len(found) > 1:
        raise MissingFileError(
            f"{path} has {len(found)} PyTorch files and no index ({found[0]}, {found[1]}, ...)",
            LOOKED_FOR,
            "add the index, or give the path of one file",
        )
    name = SINGLE_NAME if SINGLE_NAME in found else found[0]
    refuse_part(path, name)
    return _read_files(path, path, [resolve_in_folder(path, name, "its folder")])


def _candidates(folder: Path) -> list[str]:
    """List the files of a folder that may be weights."""
    return sorted(
        entry.name for entry in folder.iterdir() if entry.suffix in SUFFIXES and not entry.name.startswith(NOT_WEIGHTS)
    )


@collector_paused()
def _read_files(path: Path, folder: Path | None, files: Sequence[Path]) -> Checkpoint:
    """Read the descriptions of a checkpoint's files into one catalogue."""
    require("torch", "torch", "PyTorch files")
    archives = [_read_archive(file) for file in files]  # before PyTorch reads any of the files
    tensors: dict[str, TensorInfo] = {}
    fingerprints, ignored = [], []
    catalogues = list_tensors([str(file) for file in files])
    for file, (archive, status), found in zip(files, archives, catalogues, strict=True):
        if "error" in found:
            raise TorchFileError(
                f"{file} cannot be read ({found['error'][:500]})",
                "tensors by name, and nothing else that PyTorch's weights-only loader refuses",
                "save the model's state_dict() alone, or convert it to safetensors where you trust it",
            )
        header_hash = xxhash.xxh3_128_hexdigest(archive.pickle + json.dumps(found["tensors"]).encode())
        fingerprints.append(FileFingerprint(file.name, status.st_size, status.st_mtime_ns, header_hash))
        ignored += found["ignored"]
        for entry in found["tensors"]:
            info = _tensor(file, entry, archive, status)
            if info.name in tensors:
                raise IndexFileError(
                    f"tensor {info.name!r} is twice in {path}", "each tensor once", "download or export it again"
                )
            tensors[info.name] = info
    notes = (_note(path, ignored),) if ignored else ()
    return Checkpoint(path, folder, tensors, {}, tuple(fingerprints), notes=notes)


def _note(path: Path, ignored: Sequence[str]) -> str:
    shown = ", ".join(brief(name) for name in ignored[:3])
    return f"{len(ignored)} entries of {path} are not tensors and are left out: {shown}"


def _read_archive(path: Path) -> tuple[TorchArchive, os.stat_result]:
    with open_regular(path, TorchFileError, "a PyTorch file") as file:
        status = os.fstat(file.fileno())
        return read_archive(path, file, status.st_size), status


def list_tensors(paths: Iterable[str]) -> list[dict[str, Any]]:
    """Let PyTorch list the tensors of files in a child process.

    Returns
    -------
    list of dict
        For each path, the dictionary that `dovetail.io.formats.torch_catalogue.catalogue` makes.

    Raises
    ------
    TorchFileError
        If the child process dies, for instance because a file takes too much memory.

    """
    wanted = list(paths)
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "dovetail.io.formats.torch_catalogue",
        ],  # -P: nothing in the current folder is imported
        input="".join(json.dumps(path) + "\n" for path in wanted),
        capture_output=True,
        text=True,
        timeout=_CHILD_SECONDS,
        check=False,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if len(answers) < len(wanted):
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise TorchFileError(
            f"PyTorch could not read {wanted[len(answers)]} ({reason})",
            "a file of tensors",
            "check that torch works, and that the file is whole",
        )
    return answers


def _tensor(file: Path, entry: dict[str, Any], archive: TorchArchive, status: os.stat_result) -> TensorInfo:
    """Check one tensor's offsets and sizes, which PyTorch takes from the file unchecked, against the archive."""
    name, shape, strides = entry["name"], tuple(entry["shape"]), tuple(entry["strides"])
    check_name(name, str(file))
    dtype = _BY_TORCH_NAME.get(entry["dtype"])
    if dtype is None:
        raise UnsupportedError(
            f"tensor {name!r} in {file} has dtype {entry['dtype']}",
            "one of " + ", ".join(_BY_TORCH_NAME),
            "convert the checkpoint to bfloat16 or float32 first",
        )
    begin, first = entry["storage_offset_bytes"], entry["first_byte"]
    last = first + sum((size - 1) * step for size, step in zip(shape, strides, strict=True)) * dtype.itemsize
    known = (dtype.itemsize, status.st_size, status.st_mtime_ns)
    if 0 in shape:
        return TensorInfo(name, dtype, shape, MappedSource(str(file), 0, 0, *known))
    held = archive.storages.get(begin)
    outside = held is None or entry["storage_bytes"] > held or last + dtype.itemsize > held
    if outside or min((first, *strides)) < 0 or math.prod(shape) * dtype.itemsize > _MAX_SIZE:
        raise TorchFileError(
            f"tensor {name!r} in {file} lies outside its storage",
            "every element within a storage of the archive",
            "download or export the file again",
        )
    place = (str(file), begin + first)
    source: Source
    if strides == _row_major(shape, strides):
        source = MappedSource(*place, math.prod(shape), *known)
    else:
        source = StridedSource(*place, shape, strides, *known)
    return TensorInfo(name, dtype, shape, source)


def _row_major(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """Compute the strides of a tensor in row-major order; for a dimension of size 1, take the given stride."""
    expected, step = [], 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        expected.append(stride if size == 1 else step)
        step *= size
    return tuple(reversed(expected))


def _file_names(checkpoint: Checkpoint) -> dict[str, str]:
    """Give the name of the file that holds each tensor."""
    return {
        name: os.path.basename(info.source.path)  # noqa: PTH119 - Path objects take too long for many tensors
        for name, info in checkpoint.tensors.items()
        if isinstance(info.source, MappedSource | StridedSource)
    }
