"""Checking a finished output, byte for byte, against its manifest.

Every byte of every file is covered: shard headers and side files by one checksum each, tensor data chunk by chunk,
so that damage is traced to a tensor and a range of its elements.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from dovetail.engine import events
from dovetail.engine.errors import VerificationError
from dovetail.engine.manifest import FORMAT_VERSION, MANIFEST_NAME, hex_checksum, is_intact
from dovetail.engine.memory import resident_bytes, usable_cores
from dovetail.io.checkpoint import Checkpoint, read_checkpoint
from dovetail.io.errors import CheckpointError


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
            f"there is no {MANIFEST_NAME} in {output}", "a folder that dovetail merge has written", "check the path"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VerificationError(
            f"{path} is damaged ({type(error).__name__}: {error})",
            f"a manifest of format version {FORMAT_VERSION}",
            "merge again",
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
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VerificationError(
            f"{output / MANIFEST_NAME} is damaged ({type(error).__name__}: {error})", "a whole manifest", "merge again"
        ) from None


class _Verification:
    """One run over an output."""

    def __init__(self, output: Path, manifest: dict[str, Any], listen: events.Listener, started: float) -> None:
        self.output, self.manifest, self.listen, self.started = output, manifest, listen, started
        self.damage: list[str] = []
        self.checked_bytes = 0
        self.total_bytes = sum(entry["size_bytes"] for entry in (*manifest["shards"], *manifest["side_files"].values()))

    def run(self) -> Verdict:
        """Check the small files, then the tensors on all cores."""
        self._check_side_files()
        if self._check_shards():
            try:
                checkpoint = read_checkpoint(self.output)
            except CheckpointError as error:
                self.damage.append(str(error))
            else:
                self._check_tensors(checkpoint)
        return Verdict(tuple(self.damage), self._unlisted(), self.checked_bytes)

    def _check_side_files(self) -> None:
        for name, entry in self.manifest["side_files"].items():
            path = self.output / name
            if not path.is_file():
                self.damage.append(f"file {name} is missing")
                continue
            data = path.read_bytes()
            self.checked_bytes += len(data)
            if (len(data), hex_checksum(data)) != (entry["size_bytes"], entry["checksum"]):
                self.damage.append(f"file {name} has changed")

    def _check_shards(self) -> bool:
        """Check sizes and headers; tensors can be found only if these are right."""
        before = len(self.damage)
        for shard in self.manifest["shards"]:
            path = self.output / shard["name"]
            if not path.is_file():
                self.damage.append(f"shard {shard['name']} is missing")
                continue
            size = path.stat().st_size
            if size != shard["size_bytes"]:
                self.damage.append(f"shard {shard['name']} has {size} bytes instead of {shard['size_bytes']}")
                continue
            with path.open("rb") as file:
                header = file.read(shard["header_bytes"])
            self.checked_bytes += len(header)
            if hex_checksum(header) != shard["header_checksum"]:
                self.damage.append(f"shard {shard['name']} has a damaged header")
        return len(self.damage) == before

    def _check_tensors(self, checkpoint: Checkpoint) -> None:
        names = set(self.manifest["tensors"])
        for name in sorted(names ^ set(checkpoint.tensors)):
            self.damage.append(f"tensor {name!r} is {'missing' if name in names else 'not in the manifest'}")
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
        chunk, damage = entry["chunk_elements"], []
        starts = range(0, max(1, info.length), chunk)
        if len(starts) != len(entry["checksums"]):
            return [f"tensor {name!r} has {len(entry['checksums'])} checksums instead of {len(starts)}"], 0
        for start, expected in zip(starts, entry["checksums"], strict=True):
            stop = min(info.length, start + chunk)
            info.source.prefetch(stop, min(info.length, stop + chunk))  # the disk reads while this chunk is hashed
            view = info.source.read(start, stop)
            found = f"{xxhash.xxh3_64_intdigest(np.ascontiguousarray(view).data):016x}"
            del view
            info.source.release(start, stop)
            if found != expected:
                damage.append(f"tensor {name!r} in {entry['file']} is damaged between elements {start} and {stop}")
        return damage, info.nbytes

    def _unlisted(self) -> tuple[str, ...]:
        known = {MANIFEST_NAME, *self.manifest["side_files"], *(shard["name"] for shard in self.manifest["shards"])}
        return tuple(sorted(path.name for path in self.output.iterdir() if path.name not in known))


def _call(check: Callable[[], tuple[list[str], int]]) -> tuple[list[str], int]:
    return check()
