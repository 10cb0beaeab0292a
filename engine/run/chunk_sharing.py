"""Choosing how much memory there is for decoded chunks that several tasks use.

Where the chunks of a Zarr input do not hold whole rows, neighbouring tasks need parts of the same chunks. The memory
that the limit leaves over goes to a pool that keeps decoded chunks, so that each is decoded less often.
"""

from __future__ import annotations

from collections.abc import Iterable

from dovetail.engine import events
from dovetail.engine.planning.plan import Plan
from dovetail.engine.planning.planned_tensor import PlannedTensor
from dovetail.engine.run.budget import Budget
from dovetail.engine.text import format_size
from dovetail.io.source import Decoding, Source
from dovetail.io.zarr.chunk_pool import DEFAULT_POOL_BYTES

MOST_DECODINGS = 1.5
"""Average number of times that chunks may be decoded without a warning."""


def pool_bytes(sources: Iterable[Source], budget: Budget) -> int:
    """Give the bytes of a pool for tasks that read sources: what is left, at most the usual; 0 if none has chunks."""
    if all(source.decoding(0, 0) is None for source in sources):
        return 0
    return max(0, min(DEFAULT_POOL_BYTES, budget.allowed_bytes - budget.projected_bytes))


def share_memory(plan: Plan, budget: Budget, listen: events.Listener) -> int:
    """Choose the size of a run's pool of decoded chunks, and warn if it is too small.

    Parameters
    ----------
    plan
        The plan that will be run.
    budget
        The memory that the run may use, without the pool.
    listen
        Receives a warning that names a tensor with chunks that will be decoded several times.

    Returns
    -------
    int
        Bytes of the pool; 0 if no input of the plan is stored in chunks.

    """
    chunked = [
        tensor for tensor in plan.tensors if any(item.source.decoding(0, 0) is not None for item in tensor.inputs)
    ]
    if not chunked:
        return 0
    spare = max(0, budget.allowed_bytes - budget.projected_bytes)
    wanted = [_shared_bytes(tensor) * (budget.workers + 1) for tensor in chunked]
    most = max(wanted)
    limit = min(spare, max(most, DEFAULT_POOL_BYTES))
    worst, decodings = max(
        ((tensor, _decodings(tensor)) for tensor, size in zip(chunked, wanted, strict=True) if size > limit),
        key=lambda item: item[1],
        default=(None, 0.0),
    )
    if worst is not None and decodings > MOST_DECODINGS:
        needed = budget.allowed_bytes - spare + most
        listen(
            events.Notice(
                "warning",
                f"Chunks of {worst.name} do not hold whole rows: each is decoded about {decodings:.0f} times. "
                f"A memory limit of {format_size(needed)} would spare that.",
            )
        )
    return limit


def _window(tensor: PlannedTensor) -> tuple[int, int]:
    """Give the elements ``[start, stop)`` that a task in the middle of a tensor reads."""
    return tensor.program.window(*tensor.chunk_range(tensor.chunk_count // 2))


def _decoded(tensor: PlannedTensor) -> list[Decoding]:
    """List what a task in the middle of a tensor decodes of each input; inputs not stored in chunks are left out."""
    low, high = _window(tensor)
    found = [item.source.decoding(low, high) for item in tensor.inputs]
    return [decoding for decoding in found if decoding is not None]


def _shared_bytes(tensor: PlannedTensor) -> int:
    """Give the bytes of the decoded chunks that one task shares with others; 0 if one task does the whole tensor."""
    return 0 if tensor.chunk_count == 1 else sum(decoding.shared_bytes for decoding in _decoded(tensor))


def _decodings(tensor: PlannedTensor) -> float:
    """Compute how often an element of the worst input is decoded, on the average, if no decoded chunk is kept."""
    low, high = _window(tensor)
    return tensor.passes * max(decoding.elements for decoding in _decoded(tensor)) / max(1, high - low)
