"""Check finished output shards against the definition of CABS and against the checksums of the merge.

Of every tensor, whole blocks at random places are computed again from the inputs, from the definition and with nothing
of Dovetail's arithmetic, and compared bit by bit; and chunks of it are read back and compared with the checksums that
the merge reports.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import xxhash
from numpy.typing import NDArray

from dovetail.engine.planning.grid import chunk_elements

ITEM_BYTES = 2
"""The checkpoints are bfloat16."""


class WrongOutputError(RuntimeError):
    """The output is not what it should be."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies."""

    path: Path
    start: int
    """First byte in the file."""
    length: int
    """Elements."""

    def read(self, first: int, count: int) -> bytes:
        """Read elements as stored."""
        with self.path.open("rb") as file:
            file.seek(self.start + first * ITEM_BYTES)
            return file.read(count * ITEM_BYTES)


def tensors_of(path: Path) -> dict[str, Place]:
    """Find the tensors of one shard."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {
        name: Place(path, 8 + size + entry["data_offsets"][0], int(np.prod(entry["shape"], dtype=np.int64)))
        for name, entry in header.items()
    }


def data_start(path: Path) -> int:
    """Give the first byte after a shard's header."""
    with path.open("rb") as file:
        return 8 + int(struct.unpack("<Q", file.read(8))[0])


def cabs_blocks(base: NDArray[Any], models: Sequence[NDArray[Any]], n: int, m: int, weight: float) -> NDArray[Any]:
    """Merge whole blocks by the definition; arrays have one block a row."""
    origin = base.astype(np.float32)
    merged, claimed = np.zeros_like(origin), np.zeros(origin.shape, bool)
    for model in models:
        tau = model.astype(np.float32) - origin
        candidate = (tau != 0) & ~claimed
        strength = np.where(candidate, np.abs(tau), np.float32(-1))
        best = np.argsort(-strength, axis=1, kind="stable")[:, :n]
        keep = np.zeros_like(claimed)
        np.put_along_axis(keep, best, True, axis=1)
        keep &= candidate
        claimed |= keep
        merged += np.where(keep, np.float32(weight) * tau, np.float32(0))
    return np.where(merged == 0, origin, origin + merged).astype(base.dtype)


@dataclass(slots=True)
class Checker:
    """Checks the shards of one merge."""

    inputs: list[dict[str, Place]]
    """Tensors of the base model, then of the fine-tunes."""
    n: int
    m: int
    weight: float
    blocks: int
    """Blocks of every tensor to compute again."""
    full: bool
    """Whether all chunks are compared with their checksums, or one of every tensor."""
    tensors: int = 0
    """Tensors checked."""
    compared_bytes: int = 0
    """Bytes computed again."""
    hashed_bytes: int = 0
    """Bytes read back and compared with checksums."""

    def check(self, shard: Path, checksums: dict[str, list[str]]) -> None:
        """Check one finished shard.

        Raises
        ------
        WrongOutputError
            It differs.

        """
        for name, output in tensors_of(shard).items():
            random = np.random.default_rng(output.start)
            self._check_values(name, output, random)
            self._check_sums(name, output, checksums[name], random)
            self.tensors += 1

    def _check_values(self, name: str, output: Place, random: np.random.Generator) -> None:
        count = output.length // self.m
        for block in {0, count - 1, *random.integers(count, size=self.blocks).tolist()}:
            stored = [place.read(block * self.m, self.m) for place in (output, *(one[name] for one in self.inputs))]
            found, base, *models = (np.frombuffer(one, ml_dtypes.bfloat16).reshape(1, -1) for one in stored)
            expected = cabs_blocks(base, models, self.n, self.m, self.weight)
            if expected.tobytes() != found.tobytes():
                raise WrongOutputError(f"{output.path}: tensor {name}, block {block} differs from the definition")
            self.compared_bytes += len(stored[0])

    def _check_sums(self, name: str, output: Place, sums: Sequence[str], random: np.random.Generator) -> None:
        size = chunk_elements(ITEM_BYTES * (len(self.inputs) + 1))
        if len(sums) != max(1, -(-output.length // size)):
            raise WrongOutputError(f"{output.path}: tensor {name} has {len(sums)} checksums; its chunks are others")
        for chunk in range(len(sums)) if self.full else [int(random.integers(len(sums)))]:
            data = output.read(chunk * size, min(size, output.length - chunk * size))
            if f"{xxhash.xxh3_64_intdigest(data):016x}" != sums[chunk]:
                raise WrongOutputError(f"{output.path}: tensor {name}, chunk {chunk} differs from its checksum")
            self.hashed_bytes += len(data)
