"""Checking every byte of a finished output against its manifest.

A shard's header and a side file have one checksum each. Tensor data has a checksum for every chunk, so that damage is
reported with the tensor and the range of elements that it hits.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from dovetail.engine import events
from dovetail.engine.errors import VerificationError
from dovetail.engine.facts import cut, listed
from dovetail.engine.output.document import Manifest
from dovetail.engine.output.inputs import INPUTS_NAME, read_record
from dovetail.engine.output.manifest import FORMAT_VERSION, MANIFEST_NAME, SELF_CHECKSUM, is_intact
from dovetail.engine.planning.grid import chunk_count, chunk_range
from dovetail.engine.progress import shows_progress
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.run.reading import reading_budget
from dovetail.engine.text import counted
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.errors import CheckpointError, DovetailError, ZarrError
from dovetail.io.files.checksum import READ_BYTES, check_start
from dovetail.io.files.home import expand_home
from dovetail.io.files.interrupts import held
from dovetail.io.files.kinds import MISSING, unlike_a_file
from dovetail.io.files.machine import resident_bytes
from dovetail.io.files.mapping import forget_files
from dovetail.io.files.smallfile import is_named, read_at_most
from dovetail.io.files.strict_json import brief
from dovetail.io.files.threads import Threads, in_order
from dovetail.io.output import format_of
from dovetail.io.source import Source
from dovetail.io.zarr.chunk_pool import ChunkPool, sharing_chunks

MAX_MANIFEST_BYTES = 2**29
"""Longest manifest that is read: one of a hundred thousand tensors has about a fifth of it."""

MAX_MANIFEST_VALUES = 10_000_000
"""Most values in a manifest that is read; one of a hundred thousand tensors has about a third of them."""

DEFECTS = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""Errors that Python raises when a manifest is valid JSON, but lacks a key or has a value of the wrong type."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification found."""

    damage: tuple[str, ...]
    """One sentence for each part of the output that is not as the manifest says; empty if nothing is damaged."""
    unlisted: tuple[str, ...]
    """Names of files in the folder that the manifest does not list, and which therefore are not checked.

    Where one is no regular file, what it is follows in brackets.
    """
    checked_bytes: int
    """Bytes that were read and checked."""

    def __repr__(self) -> str:
        found = f"damaged in {counted(len(self.damage), 'place')}: {cut(self.damage[0])}" if self.damage else "whole"
        return f"Verdict({found}, unlisted: {listed(self.unlisted) or 'none'}, checked_bytes={self.checked_bytes:,})"


def read_manifest(output: str | os.PathLike[str]) -> Manifest:
    """Read an output's manifest.

    Parameters
    ----------
    output
        A folder that `merge` or `convert` has written.

    Returns
    -------
    Manifest
        A dict: the inputs, options and output files, and under ``tensors`` the statistics and checksums of every
        tensor.

    Raises
    ------
    VerificationError
        There is no manifest, or it is damaged.

    Examples
    --------
    >>> manifest = read_manifest("merged")
    >>> manifest["recipe"]["merge_method"], len(manifest["tensors"])
    ('cabs', 9)

    """
    path = expand_home(output) / MANIFEST_NAME
    try:
        if (fault := unlike_a_file(path)) not in ("", MISSING):
            raise ValueError(f"it {fault}")
        text = read_at_most(path, MAX_MANIFEST_BYTES + 1)
        if len(text) > MAX_MANIFEST_BYTES:
            raise ValueError(f"it has more than {MAX_MANIFEST_BYTES} bytes")
        # Before it is decoded, which would take gigabytes where a hostile one consists of small values.
        if not is_intact(text):
            raise ValueError("the checksum at its end does not match")
        if (count := sum(map(text.count, (b",", b"[", b"{")))) > MAX_MANIFEST_VALUES:
            raise ValueError(f"it has {count} values, and at most {MAX_MANIFEST_VALUES} are read")
        manifest = json.loads(text)
        if manifest["format"] != "dovetail-manifest" or manifest["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format {manifest['format']!r} version {manifest['format_version']!r}")
        return Manifest(manifest, path.parent, read_manifest)
    except (FileNotFoundError, NotADirectoryError):
        raise VerificationError(
            f"there is no {MANIFEST_NAME} in {output}", "a folder that dovetail has written", "check the path"
        ) from None
    except OSError as error:
        raise VerificationError(
            f"{path} cannot be read ({error.strerror})", "a manifest", "check its permissions and the disk"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VerificationError(
            f"{path} is damaged ({type(error).__name__}: {error})",
            f"a manifest of format version {FORMAT_VERSION}",
            "make the output again",
        ) from None


@shows_progress("verifying")
def verify(
    output: str | os.PathLike[str],
    listen: events.Listener = events.ignore,
    run: RunOptions | None = None,
    *,
    progress: bool | events.Listener = False,
) -> Verdict:
    """Compare every byte of an output with its manifest.

    Parameters
    ----------
    output
        A folder that `merge` or `convert` has written.
    listen
        Receives progress, on the calling thread.
    run
        Memory limit and workers.
    progress
        True shows a bar with bytes done, rate and time left, in a terminal or a notebook. A function receives every
        event, as `listen` does.

    Returns
    -------
    Verdict
        Everything that is damaged. Only damage to the manifest raises an error.

    Raises
    ------
    VerificationError
        The manifest is missing or damaged.
    MemoryLimitError
        The memory limit is too small.

    Examples
    --------
    >>> verify("merged").damage
    ()

    """
    output, started = expand_home(output), time.monotonic()
    manifest = read_manifest(output)
    try:
        return _Verification(output, manifest, listen, started).run(run or RunOptions())
    except DovetailError:
        raise
    except DEFECTS as error:
        raise manifest_error(output, error) from None


def check_files(output: Path, manifest: dict[str, Any]) -> tuple[str, ...]:
    """Compare the files of an output with its manifest, but read none of its tensors.

    Parameters
    ----------
    output
        A folder that `merge` or `convert` has written.
    manifest
        Its manifest, as `read_manifest` gives it.

    Returns
    -------
    tuple of str
        One sentence for each file that is missing, has another size or, if it is a side file or a header, other bytes.

    Raises
    ------
    VerificationError
        The manifest is damaged.

    """
    try:
        return _Verification(output, manifest, events.ignore, time.monotonic()).check_files()
    except DovetailError:
        raise
    except DEFECTS as error:
        raise manifest_error(output, error) from None


def manifest_error(output: Path, error: Exception) -> VerificationError:
    """Make the error that reports one of `DEFECTS` as damage to the manifest."""
    return VerificationError(
        f"{output / MANIFEST_NAME} is damaged ({type(error).__name__}: {brief(str(error))})",
        "a manifest as dovetail writes it",
        "make the output again",
    )


class _Verification:
    """One verification of one output."""

    def __init__(self, output: Path, manifest: dict[str, Any], listen: events.Listener, started: float) -> None:
        self.output, self.manifest, self.listen, self.started = output, manifest, listen, started
        self.damage: list[str] = []
        self.checked_bytes = 0
        self.form = format_of(manifest)
        self.check = self.form.check(output, manifest)
        side_files = manifest["side_files"].values()
        self.total_bytes = self.check.size_bytes + sum(entry["size_bytes"] for entry in side_files)
        for name in self._names():
            if "/" in name or "\0" in name or name in ("", ".", ".."):
                raise ValueError(f"{name!r} is no file name")

    def run(self, run: RunOptions) -> Verdict:
        """Check the side files and the metadata, and then the tensors on all cores."""
        if (checkpoint := self._check_metadata()) is not None:
            self._check_tensors(checkpoint, run)
        return Verdict(tuple(self.damage), self._unlisted(), self.checked_bytes)

    def check_files(self) -> tuple[str, ...]:
        """Check all that `run` checks but the elements of tensors."""
        if (checkpoint := self._check_metadata()) is not None:
            self._check_names(checkpoint)
            for name, info in checkpoint.tensors.items():
                if name in self.manifest["tensors"]:
                    self.damage += self.check.check_objects(name, info.source)
        return tuple(self.damage)

    def _check_metadata(self) -> Checkpoint | None:
        """Check the side files and the metadata; give the catalogue if that is whole enough to find tensors by."""
        self._check_side_files()
        self._check_record()
        damage, read_bytes = self.check.check_metadata()
        self.damage += damage
        self.checked_bytes += read_bytes
        if damage:
            return None
        try:
            return self.form.open(self.output)
        except CheckpointError as error:
            self.damage.append(str(error))
            return None

    def _check_names(self, checkpoint: Checkpoint) -> None:
        names = set(self.manifest["tensors"])
        for name in sorted(names ^ set(checkpoint.tensors)):
            self.damage.append(f"tensor {name!r} is {'missing' if name in names else 'not in the manifest'}")

    def _check_side_files(self) -> None:
        for name, entry in self.manifest["side_files"].items():
            path, size_bytes = self.output / name, entry["size_bytes"]
            damage, read_bytes = check_start(path, size_bytes, size_bytes, entry["checksum"])
            self.checked_bytes += read_bytes
            if damage:
                self.damage.append(f"file {name} {damage}")

    def _check_record(self) -> None:
        """Check the record of the inputs, unless somebody has removed it, as one does before an upload."""
        path = self.output / INPUTS_NAME
        if not is_named(path):
            return
        if read_record(self.output, self.manifest[SELF_CHECKSUM]) is None:
            self.damage.append(f"file {INPUTS_NAME} is damaged, or belongs to another output")
        else:
            size_bytes = path.stat().st_size
            self.total_bytes += size_bytes
            self.checked_bytes += size_bytes

    def _names(self) -> Iterator[str]:
        """List the names of all files that the manifest lists; the manifest does not list itself."""
        yield from self.manifest["side_files"]
        yield from self.check.file_names

    def _check_tensors(self, checkpoint: Checkpoint, run: RunOptions) -> None:
        self._check_names(checkpoint)
        names = set(self.manifest["tensors"])
        budget = reading_budget([info.source for info in checkpoint.tensors.values()], run)
        chunks = ChunkPool(budget.shared_bytes)

        def check(name: str) -> tuple[list[str], int]:
            with sharing_chunks(chunks):
                return self._check_tensor(checkpoint, name)

        with held(), Threads(budget.workers, thread_name_prefix="dovetail-verify") as pool:
            for damage, size in in_order(pool, check, [name for name in checkpoint.tensors if name in names]):
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
        forget_files()

    def _check_tensor(self, checkpoint: Checkpoint, name: str) -> tuple[list[str], int]:
        """Check one tensor's chunks; return a sentence for each damaged part, and the bytes read."""
        info, entry = checkpoint.tensors[name], self.manifest["tensors"][name]
        if (info.dtype.name, list(info.shape)) != (entry["dtype"], entry["shape"]):
            return [f"tensor {name!r} is not of the dtype and shape in the manifest"], 0
        count, ranges = _chunk_ranges(name, info.length, entry)
        if count != len(entry["checksums"]):
            return [f"tensor {name!r} has {len(entry['checksums'])} checksums instead of {count}"], 0
        damage = self.check.check_tensor(name, info.source)
        for (start, stop), expected in zip(ranges, entry["checksums"], strict=True):
            try:
                # The disk reads the next chunk while this one is hashed.
                info.source.prefetch(stop, min(info.length, 2 * stop - start))
                sound, fault = _checksum(info.source, start, stop) == expected, "is damaged"
            except ZarrError:  # decompression failed, or a checksum inside the chunk does not match
                sound, fault = False, "is damaged"
            except CheckpointError:  # the file is shorter than before, or the disk fails
                sound, fault = False, "cannot be read"
            if not sound:
                damage.append(f"tensor {name!r} in {entry['file']} {fault} between elements {start} and {stop}")
        return damage, info.nbytes

    def _unlisted(self) -> tuple[str, ...]:
        known = {MANIFEST_NAME, INPUTS_NAME, *self._names()}
        others = sorted(path for path in self.output.iterdir() if path.name not in known)
        return tuple(_described(path) for path in others)


def _described(path: Path) -> str:
    """Name a file that does not belong to an output, and say what it is if it is no regular file."""
    fault = unlike_a_file(path)
    return f"{path.name} ({fault.removeprefix('is ')})" if fault else path.name


def _chunk_ranges(name: str, length: int, entry: dict[str, Any]) -> tuple[int, Iterator[tuple[int, int]]]:
    """Read from a tensor's entry in the manifest how many chunks it has, and the elements ``[start, stop)`` of each.

    Raises
    ------
    ValueError
        The chunks of the entry do not cover the tensor exactly once.

    """
    if (edges := entry.get("chunk_edges")) is not None:  # chunks of a method with several outputs have any length
        sound = bool(edges) and all(type(edge) is int for edge in edges)
        if not sound or [*sorted(edges), 0, length] != [*edges, edges[0], edges[-1]]:
            raise ValueError(f"tensor {name!r} has chunks that do not cover it exactly once")
        return len(edges) - 1, pairwise(edges)
    chunk, period = entry["chunk_elements"], entry.get("chunk_period", 0)
    if type(chunk) is not int or type(period) is not int or chunk < 1 or period < 0:
        raise ValueError(f"tensor {name!r} has chunks of {chunk!r} elements")
    count = chunk_count(length, chunk, period)
    return count, (chunk_range(length, chunk, period, index) for index in range(count))


def _checksum(source: Source, start: int, stop: int) -> str:
    """Compute the checksum of a range of elements, in the manifest's hexadecimal."""
    digest, step = xxhash.xxh3_64(), READ_BYTES // source.itemsize
    for begin in range(start, stop, step):
        end = min(stop, begin + step)
        source.populate(begin, end)
        digest.update(np.ascontiguousarray(source.read(begin, end)).data)
        source.release(begin, end)
    return digest.hexdigest()
