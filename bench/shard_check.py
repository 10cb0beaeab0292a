"""Check finished output shards against the definition of the method and against the checksums of the merge.

By CABS, blocks at random places of every tensor are computed again from the inputs, from the definition and with
nothing of Dovetail's arithmetic, and compared bit by bit. By TIES, the same is done with one tensor of every shard,
because what it keeps depends on the whole tensor, which numpy sorts in part. Chunks of every tensor are read back and
compared with the checksums that the merge reports.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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


def _values(place: Place, first: int, count: int) -> NDArray[Any]:
    return np.frombuffer(place.read(first, count), ml_dtypes.bfloat16)


class Definition(Protocol):
    """What a merge should give, computed from its inputs."""

    block: int
    """Elements that are computed at once."""

    def chosen(self, tensors: Mapping[str, Place], random: np.random.Generator) -> Sequence[str]:
        """Choose the tensors of a shard that are computed again."""
        ...

    def expected(self, inputs: Sequence[Place], blocks: Sequence[int]) -> list[NDArray[Any]]:
        """Compute blocks of a tensor from its places in the base model and in the fine-tunes."""
        ...


@dataclass(frozen=True, slots=True)
class Cabs:
    """CABS, https://arxiv.org/abs/2503.01874, with the same n:m and weight for all models."""

    n: int
    block: int
    weight: float

    def chosen(self, tensors: Mapping[str, Place], random: np.random.Generator) -> Sequence[str]:
        """Choose all tensors: blocks do not depend on each other."""
        return list(tensors)

    def expected(self, inputs: Sequence[Place], blocks: Sequence[int]) -> list[NDArray[Any]]:
        """Compute blocks by the definition."""
        found = []
        for block in blocks:
            base, *models = (_values(place, block * self.block, self.block).reshape(1, -1) for place in inputs)
            found.append(cabs_blocks(base, models, self.n, self.block, self.weight).ravel())
        return found


@dataclass(frozen=True, slots=True)
class Ties:
    """TIES, https://arxiv.org/abs/2306.01708, with the same density and weight for all models, normalised."""

    density: float
    weight: float
    block: int = 256
    most: int = 1 << 27
    """Elements of the largest tensor that is computed again: it takes 12 bytes of memory an element."""

    def chosen(self, tensors: Mapping[str, Place], random: np.random.Generator) -> Sequence[str]:
        """Choose one tensor, none too large, and a matrix if there is one."""
        fitting = [name for name, place in tensors.items() if place.length <= self.most]
        large = [name for name in fitting if tensors[name].length > 1 << 20] or fitting
        return [large[int(random.integers(len(large)))]] if large else []

    def expected(self, inputs: Sequence[Place], blocks: Sequence[int]) -> list[NDArray[Any]]:
        """Compute blocks by the definition: of equal magnitudes, the first are kept."""
        base, *models = inputs
        kept = [self._kept(base, model) for model in models]
        found = []
        for block in blocks:
            first, count = block * self.block, min(self.block, base.length - block * self.block)
            origin, weight = _values(base, first, count).astype(np.float32), np.float32(self.weight)
            index = np.arange(first, first + count)
            shares = []
            for model, (threshold, last) in zip(models, kept, strict=True):
                tau = _values(model, first, count).astype(np.float32) - origin
                magnitude = np.abs(tau)
                keep = (magnitude > threshold) | ((magnitude == threshold) & (index <= last))
                shares.append(weight * np.where(keep, tau, np.float32(0)))
            positive = np.add.reduce(shares) >= 0
            agree = [np.where(positive, share > 0, share < 0) for share in shares]
            change = np.add.reduce(
                [np.where(yes, share, np.float32(0)) for yes, share in zip(agree, shares, strict=True)]
            )
            divisor = np.add.reduce([np.where(yes, weight, np.float32(0)) for yes in agree])
            change = change / np.where(divisor == 0, np.float32(1), divisor)
            found.append(np.where(change == 0, origin, origin + change).astype(ml_dtypes.bfloat16))
        return found

    def _kept(self, base: Place, model: Place) -> tuple[np.float32, int]:
        """Give the least magnitude that is kept, and the index of the last element of this magnitude that is."""
        length = base.length
        magnitudes = np.abs(_values(model, 0, length).astype(np.float32) - _values(base, 0, length))
        count = max(1, int(self.density * length))
        threshold = np.partition(magnitudes, length - count)[length - count]
        equal = np.flatnonzero(magnitudes == threshold)
        return threshold, int(equal[count - int(np.count_nonzero(magnitudes > threshold)) - 1])


@dataclass(slots=True)
class Checker:
    """Checks the shards of one merge."""

    inputs: list[dict[str, Place]]
    """Tensors of the base model, then of the fine-tunes."""
    definition: Definition
    """What the merge should give."""
    blocks: int
    """Blocks of a tensor to compute again."""
    full: bool
    """Whether all chunks are compared with their checksums, or one of every tensor."""
    tensors: int = 0
    """Tensors of which checksums were compared."""
    computed: int = 0
    """Tensors of which blocks were computed again."""
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
        tensors = tensors_of(shard)
        again = set(self.definition.chosen(tensors, np.random.default_rng(len(tensors))))
        for name, output in tensors.items():
            random = np.random.default_rng(output.start)
            if name in again:
                self._check_values(name, output, random)
                self.computed += 1
            self._check_sums(name, output, checksums[name], random)
            self.tensors += 1

    def _check_values(self, name: str, output: Place, random: np.random.Generator) -> None:
        size = self.definition.block
        count = max(1, output.length // size)
        blocks = sorted({0, count - 1, *random.integers(count, size=self.blocks).tolist()})
        for block, expected in zip(
            blocks, self.definition.expected([one[name] for one in self.inputs], blocks), strict=True
        ):
            found = output.read(block * size, len(expected))
            if expected.tobytes() != found:
                raise WrongOutputError(f"{output.path}: tensor {name}, block {block} differs from the definition")
            self.compared_bytes += len(found)

    def _check_sums(self, name: str, output: Place, sums: Sequence[str], random: np.random.Generator) -> None:
        size = chunk_elements(ITEM_BYTES * (len(self.inputs) + 1))
        if len(sums) != max(1, -(-output.length // size)):
            raise WrongOutputError(f"{output.path}: tensor {name} has {len(sums)} checksums; its chunks are others")
        for chunk in range(len(sums)) if self.full else [int(random.integers(len(sums)))]:
            data = output.read(chunk * size, min(size, output.length - chunk * size))
            if f"{xxhash.xxh3_64_intdigest(data):016x}" != sums[chunk]:
                raise WrongOutputError(f"{output.path}: tensor {name}, chunk {chunk} differs from its checksum")
            self.hashed_bytes += len(data)
