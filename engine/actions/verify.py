"""Checking a finished output, byte for byte, against its manifest.

Every byte of every file is covered: shard headers and side files by one checksum each, tensor data chunk by chunk,
so that damage is traced to a tensor and a range of its elements.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from dovetail.engine import events
from dovetail.engine.actions.verify_zarr import check_document, check_objects, tensor_bytes
from dovetail.engine.errors import VerificationError
from dovetail.engine.output.manifest import FORMAT_VERSION, MANIFEST_NAME, is_intact
from dovetail.engine.planning.grid import TASK_BYTES, chunk_count, chunk_range
from dovetail.io.adapters.reading import WEIGHTS_NAME as ADAPTER_NAME
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.errors import CheckpointError, DovetailError, ZarrError
from dovetail.io.files.machine import resident_bytes, usable_cores
from dovetail.io.files.strict_json import brief
from dovetail.io.opening import read_checkpoint
from dovetail.io.source import Source
from dovetail.io.zarr.chunk_pool import POOL

_CHANGED = "has changed"

READ_BYTES = 4 * 2**20
"""Bytes read at a time, so that no claim of a manifest decides how much memory is taken."""

DEFECTS = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""What comes of using a manifest that is sound JSON and yet not what a merge writes."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification found."""

    damage: tuple[str, ...]
    """One sentence for everything that is not as the manifest says; empty if all is well."""
    unlisted: tuple[str, ...]
    """Files in the folder that the manifest does not know, which are not checked."""
    checked_bytes: int
    """Bytes read and compared."""


def read_manifest(output: str | Path) -> dict[str, Any]:
    """Read an output's manifest.

    Raises
    ------
    VerificationError
        There is none, or it is not one.

    """
    path = Path(output) / MANIFEST_NAME
    try:
        text = path.read_bytes()
        manifest = json.loads(text)
        if manifest["format"] != "dovetail-manifest" or manifest["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format {manifest['format']!r} version {manifest['format_version']!r}")
        if not is_intact(text):
            raise ValueError("its own checksum does not match")
        return dict(manifest)
    except FileNotFoundError:
        raise VerificationError(
            f"there is no {MANIFEST_NAME} in {output}", "a folder that dovetail has written", "check the path"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VerificationError(
            f"{path} is damaged ({type(error).__name__}: {error})",
            f"a manifest of format version {FORMAT_VERSION}",
            "make it again",
        ) from None


def verify(output: str | Path, listen: events.Listener = events.ignore) -> Verdict:
    """Compare every byte of an output with its manifest.

    Parameters
    ----------
    output
        A folder that `merge` has written.
    listen
        Receives progress.

    Raises
    ------
    VerificationError
        The manifest is missing or damaged.

    """
    output, started = Path(output), time.monotonic()
    manifest = read_manifest(output)
    try:
        return _Verification(output, manifest, listen, started).run()
    except DovetailError:
        raise
    except DEFECTS as error:
        raise manifest_error(output, error) from None


def manifest_error(output: Path, error: Exception) -> VerificationError:
    """Word one of `DEFECTS`."""
    return VerificationError(
        f"{output / MANIFEST_NAME} is damaged ({type(error).__name__}: {brief(str(error))})",
        "a manifest as dovetail writes it",
        "make it again",
    )


class _Verification:
    """One run over an output."""

    def __init__(self, output: Path, manifest: dict[str, Any], listen: events.Listener, started: float) -> None:
        self.output, self.manifest, self.listen, self.started = output, manifest, listen, started
        self.damage: list[str] = []
        self.checked_bytes = 0
        self.arrays = manifest.get("output_format") == "zarr"
        entries = (*manifest["shards"], *manifest["side_files"].values())
        self.total_bytes = sum(entry["size_bytes"] for entry in entries)
        if self.arrays:
            self.total_bytes += sum(map(tensor_bytes, manifest["tensors"].values()))
        for name in self._names():
            if "/" in name or "\0" in name or name in ("", ".", ".."):
                raise ValueError(f"{name!r} is no file name")

    def run(self) -> Verdict:
        """Check the small files, then the tensors on all cores."""
        self._check_side_files()
        if self._check_documents() if self.arrays else self._check_shards():
            try:
                checkpoint = read_checkpoint(self._place())
            except CheckpointError as error:
                self.damage.append(str(error))
            else:
                self._check_tensors(checkpoint)
        return Verdict(tuple(self.damage), self._unlisted(), self.checked_bytes)

    def _place(self) -> Path:
        """Give what holds the tensors: the folder, or the one file of an adapter, which by itself is no checkpoint."""
        names = [shard["name"] for shard in self.manifest["shards"]]
        return self.output / ADAPTER_NAME if names == [ADAPTER_NAME] else self.output

    def _check_side_files(self) -> None:
        for name, entry in self.manifest["side_files"].items():
            damage = self._check_start(name, entry["size_bytes"], entry["size_bytes"], entry["checksum"])
            if damage:
                self.damage.append(f"file {name} {damage}")

    def _check_shards(self) -> bool:
        """Check sizes and headers; tensors can be found only if these are right."""
        before = len(self.damage)
        for shard in self.manifest["shards"]:
            name, size_bytes = shard["name"], shard["size_bytes"]
            damage = self._check_start(name, size_bytes, shard["header_bytes"], shard["header_checksum"])
            if damage == _CHANGED:
                size = (self.output / name).stat().st_size
                damage = "has a damaged header" if size == size_bytes else f"has {size} bytes instead of {size_bytes}"
            if damage:
                self.damage.append(f"shard {name} {damage}")
        return len(self.damage) == before

    def _check_documents(self) -> bool:
        """Check the metadata of every array; tensors can be found only if it is right."""
        before = len(self.damage)
        for entry in self.manifest["tensors"].values():
            self.damage += check_document(self.output / entry["file"], entry["document_checksum"])
        return len(self.damage) == before

    def _names(self) -> Iterator[str]:
        """List everything that the manifest says is in the folder, but for itself."""
        yield from self.manifest["side_files"]
        yield from (shard["name"] for shard in self.manifest["shards"])
        if self.arrays:
            yield from (entry["file"] for entry in self.manifest["tensors"].values())

    def _check_start(self, name: str, size_bytes: int, checked_bytes: int, checksum: str) -> str:
        """Check a file's size and the checksum of its first bytes; say what is wrong, or nothing."""
        path, digest, left = self.output / name, xxhash.xxh3_64(), checked_bytes
        if not path.is_file():
            return "is missing"
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size != size_bytes:
                    return _CHANGED
                while left > 0 and (data := file.read(min(left, READ_BYTES))):
                    digest.update(data)
                    left -= len(data)
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        self.checked_bytes += checked_bytes - left
        return "" if (left, digest.hexdigest()) == (0, checksum) else _CHANGED

    def _check_tensors(self, checkpoint: Checkpoint) -> None:
        names = set(self.manifest["tensors"])
        for name in sorted(names ^ set(checkpoint.tensors)):
            self.damage.append(f"tensor {name!r} is {'missing' if name in names else 'not in the manifest'}")
        if self.arrays:  # objects are read in several steps, as many at a time as there are cores
            POOL.limit_bytes = max(POOL.limit_bytes, usable_cores() * TASK_BYTES)
        with ThreadPoolExecutor(usable_cores()) as pool:
            checks = [
                lambda name=name: self._check_tensor(checkpoint, name) for name in checkpoint.tensors if name in names
            ]
            for damage, size in pool.map(_call, checks):
                self.damage += damage
                self.checked_bytes += size
                self.listen(
                    events.Progress(
                        done_bytes=self.checked_bytes,
                        total_bytes=self.total_bytes,
                        seconds=time.monotonic() - self.started,
                        resident_bytes=resident_bytes(),
                    )
                )

    def _check_tensor(self, checkpoint: Checkpoint, name: str) -> tuple[list[str], int]:
        """Check one tensor's chunks; give what is damaged and the bytes read."""
        info, entry = checkpoint.tensors[name], self.manifest["tensors"][name]
        if (info.dtype.name, list(info.shape)) != (entry["dtype"], entry["shape"]):
            return [f"tensor {name!r} is not of the dtype and shape in the manifest"], 0
        chunk, period = entry["chunk_elements"], entry.get("chunk_period", 0)
        if type(chunk) is not int or type(period) is not int or chunk < 1 or period < 0:
            raise ValueError(f"tensor {name!r} has chunks of {chunk!r} elements")
        count = chunk_count(info.length, chunk, period)
        if count != len(entry["checksums"]):
            return [f"tensor {name!r} has {len(entry['checksums'])} checksums instead of {count}"], 0
        damage = check_objects(self.output / entry["file"], info.source) if self.arrays else []
        for index, expected in enumerate(entry["checksums"]):
            start, stop = chunk_range(info.length, chunk, period, index)
            try:
                info.source.prefetch(stop, min(info.length, stop + chunk))  # the disk reads while this chunk is hashed
                sound, fault = _checksum(info.source, start, stop) == expected, "is damaged"
            except ZarrError:  # its compression or its own checksum told
                sound, fault = False, "is damaged"
            except CheckpointError:  # touching pages that cannot be read would have killed the process
                sound, fault = False, "cannot be read"
            if not sound:
                damage.append(f"tensor {name!r} in {entry['file']} {fault} between elements {start} and {stop}")
        return damage, info.nbytes

    def _unlisted(self) -> tuple[str, ...]:
        known = {MANIFEST_NAME, *self._names()}
        return tuple(sorted(path.name for path in self.output.iterdir() if path.name not in known))


def _checksum(source: Source, start: int, stop: int) -> str:
    """Give the checksum of a range of elements as the manifest writes it."""
    digest, step = xxhash.xxh3_64(), READ_BYTES // source.itemsize
    for begin in range(start, stop, step):
        end = min(stop, begin + step)
        source.populate(begin, end)
        digest.update(np.ascontiguousarray(source.read(begin, end)).data)
        source.release(begin, end)
    return digest.hexdigest()


def _call(check: Callable[[], tuple[list[str], int]]) -> tuple[list[str], int]:
    return check()
