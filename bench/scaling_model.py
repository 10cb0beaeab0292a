"""A model of merges on many machines: where the time goes, from what is measured and what is assumed.

Machines are alike and begin at the same time. Bytes are divided by the code that real parts use, and a small simulation
moves them. What a real file system does beyond its rates is not in the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.planning.shares import Unit, divide, limit_for
from dovetail.io.output import SafetensorsFormat

FILE_BYTES: Final = 5_000_000_000
"""Bytes of a file of the inputs."""

HEADER_BYTES: Final = 120
"""Bytes of a header for each tensor."""

CHUNK_BYTES: Final = 16 * 2**20
"""Bytes that a chunk moves, of which each has a row in a journal."""

ROW_BYTES: Final = 130

FILE_OPERATIONS: Final = 3
"""What a metadata server is asked for each file of the inputs: its attributes, to open it, to close it.

Further looks at its attributes, with each commit, are answered by the client's cache."""

STORED_OPERATIONS: Final = 6
"""What it is asked by a process that waits for headers which another one stores: two looks, and reading the file."""

FOLDER_OPERATIONS: Final = 60
"""What it is asked for a part in the working folder, by a trace of one (`strace -e trace=%file`)."""

LAST_PARTS: Final = 8
"""Parts that look at all journals when they end."""


@dataclass(frozen=True, slots=True)
class Model:
    """The tensors of a model."""

    name: str
    """What people call it."""
    sizes: NDArray[np.int64]
    """Bytes of each tensor in bfloat16, in the order of the files."""

    @property
    def files(self) -> int:
        """Number of its files."""
        return -(-int(self.sizes.sum()) // FILE_BYTES)


@dataclass(frozen=True, slots=True)
class Constants:
    """What is measured."""

    start_s: float
    """Processor time of a part of a model of few tensors, from the prompt to its end."""
    tensor_s: float
    """What a tensor adds to that: planning, which every process does."""
    publish_tensor_s: float
    """What a tensor adds to publishing, which one process does."""
    row_s: float
    """Reading the row of one chunk from a journal."""


@dataclass(frozen=True, slots=True)
class Storage:
    """What is assumed of the storage and of the machines."""

    node_rate: float
    """Bytes a second that one machine reads and writes, if its cores keep up."""
    aggregate_rate: float
    """Bytes a second of all machines together."""
    operations_rate: float
    """Requests a second that the metadata server answers."""
    latency_s: float
    """Time of one request when there are no others."""

    def seconds(self, operations: int, processes: int) -> float:
        """Give the time of so many requests, one after another, of each of so many processes."""
        return max(operations * self.latency_s, operations * processes / self.operations_rate)


@dataclass(frozen=True, slots=True)
class Times:
    """Where the time of a merge goes, in seconds."""

    start: float
    """Starting a process and planning the merge: the same on every machine, at the same time."""
    opening: float
    """Opening the inputs and reading their headers, which all machines do at the same time."""
    moving: float
    """Reading and writing, if any bytes could be divided and the storage gave every machine its rate."""
    shared: float
    """What that takes longer because all machines together ask for more than the storage gives."""
    uneven: float
    """What it takes longer because tensors are not divided."""
    publishing: float
    """Looking at all journals, and writing the manifest: one process, at the end."""

    @property
    def total(self) -> float:
        """All of it."""
        return sum(asdict(self).values())

    @property
    def limit(self) -> str:
        """What takes most of it."""
        found = asdict(self)
        return _LIMITS[max(found, key=lambda name: found[name])]


_LIMITS: Final = {
    "start": "starting, planning",
    "opening": "opening the inputs",
    "moving": "the machines' rate",
    "shared": "the storage's rate",
    "uneven": "the largest tensor",
    "publishing": "publishing",
}


def llama(name: str, layers: int, width: int, hidden: int, kv: int, vocabulary: int) -> Model:
    """Give the tensors of a Llama model."""
    layer = [width * width, kv * width, kv * width, width * width, *[hidden * width] * 3, width, width]
    return Model(name, 2 * np.array([vocabulary * width, *layer * layers, width, vocabulary * width], np.int64))


def mixture(name: str, layers: int, width: int, hidden: int, experts: int, vocabulary: int) -> Model:
    """Give the tensors of a mixture of experts that are stored one by one."""
    attention = [width * 1536, 1536 * width, width * 576, 512 * width, width * width, experts * width, width, width]
    layer = [*attention, *[hidden * width] * (3 * experts)]
    return Model(name, 2 * np.array([vocabulary * width, *layer * layers, width, vocabulary * width], np.int64))


MODELS: Final = (
    llama("70B", 80, 8192, 28_672, 1024, 128_256),
    llama("405B", 126, 16_384, 53_248, 1024, 128_256),
    mixture("1T, 384 experts", 61, 7168, 2048, 384, 163_840),
)


def part_bytes(model: Model, nodes: int, inputs: int, passes: int) -> list[int]:
    """Give what each of so many parts reads and writes, divided as real parts are."""
    costs = model.sizes * (inputs * passes + 1)
    if nodes == 1:
        return [int(costs.sum())]
    limit = limit_for(SafetensorsFormat(), model.sizes, costs, nodes)
    assert limit is not None
    files = np.add.reduceat(costs, SafetensorsFormat(limit).shard_starts(model.sizes)).tolist()
    shares = divide([Unit((number,), size) for number, size in enumerate(files)], nodes)
    return [sum(files[shard] for shard in share) for share in shares]


def moving_seconds(parts: Sequence[int], storage: Storage) -> float:
    """Simulate parts that begin together and share the storage evenly, each up to its rate, until the last ends."""
    now = moved = 0.0
    for place, size in enumerate(sorted(parts)):
        rate = min(storage.node_rate, storage.aggregate_rate / (len(parts) - place))
        now, moved = now + (size - moved) / rate, size
    return now


def opening_seconds(files: int, header_bytes: int, nodes: int, storage: Storage, *, stored: bool = False) -> float:
    """Compute how long so many processes take that open all inputs at the same time.

    Parameters
    ----------
    files, header_bytes
        Files of all inputs, and bytes of their headers.
    nodes, storage
        As for `times`.
    stored
        Whether one process opened the files and stored their headers, while the others waited. Each of these would ask
        about each file nevertheless, since no header of a file may be believed that has changed.

    """
    rate = min(storage.node_rate, storage.aggregate_rate / nodes)
    reading = header_bytes / rate
    if not stored or nodes == 1:
        return storage.seconds(files * FILE_OPERATIONS + FOLDER_OPERATIONS, nodes) + reading
    first = storage.seconds(files * FILE_OPERATIONS, 1) + 2 * header_bytes / storage.node_rate  # reads and writes
    return first + storage.seconds(files + FOLDER_OPERATIONS + STORED_OPERATIONS, nodes) + reading


def times(model: Model, nodes: int, constants: Constants, storage: Storage, inputs: int = 3, passes: int = 1) -> Times:
    """Compute where the time of a merge on so many machines goes.

    Parameters
    ----------
    model
        The base model; the others are like it.
    nodes
        Machines, each of which makes a part.
    constants, storage
        What is measured, and what is assumed.
    inputs
        Models that are read, the base model among them.
    passes
        How often they are read.

    """
    tensors, files = len(model.sizes), inputs * model.files
    moved = int(model.sizes.sum()) * (inputs * passes + 1)
    rate = min(storage.node_rate, storage.aggregate_rate / nodes)
    fair, even = moved / nodes / storage.node_rate, moved / nodes / rate
    rows = moved // CHUNK_BYTES + tensors
    journals = storage.seconds(2 * nodes, min(nodes, LAST_PARTS)) + rows * (ROW_BYTES / rate + constants.row_s)
    return Times(
        start=constants.start_s + tensors * constants.tensor_s,
        opening=opening_seconds(files, inputs * tensors * HEADER_BYTES, nodes, storage),
        moving=fair,
        shared=even - fair,
        uneven=moving_seconds(part_bytes(model, nodes, inputs, passes), storage) - even,
        publishing=journals + tensors * constants.publish_tensor_s + storage.seconds(4 * nodes, 1),
    )
