"""What the data of a merge turned out to hold that a person should know, known only when all chunks are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from dovetail.engine.methods.convert import Recode
from dovetail.engine.planning.plan import Plan
from dovetail.engine.run.records import RecordTable
from dovetail.engine.text import counted

_MOST_NAMES: Final = 5
"""Tensors that a warning names."""


def findings(plan: Plan, table: RecordTable, totals: Mapping[str, Any]) -> list[str]:
    """Say what a person should know, one sentence each.

    Parameters
    ----------
    plan, table
        The merge, and the records of all its chunks.
    totals
        ``totals`` of its manifest.

    """
    found = []
    if differing := totals["copied_differing"]:
        found.append(_differing(plan, differing))
    if overflowed := overflowed_tensors(plan, table):
        found.append(_overflow(plan, overflowed))
    if totals["nonfinite"]:
        found.append(f"{counted(totals['nonfinite'], 'NaN or infinite input value')} passed through.")
    return found


def _differing(plan: Plan, differing: Sequence[str]) -> str:
    """Name the integers that the models do not agree on, and what those of weights may be."""
    names = ", ".join(map(repr, differing[:_MOST_NAMES])) + (", ..." if len(differing) > _MOST_NAMES else "")
    text = (
        f"{counted(len(differing), 'integer tensor')} not alike in all models, and taken from the base model, as "
        f"integers are not merged: {names}"
    )
    shapes = {tensor.name: tensor.shape for tensor in plan.tensors}
    if any(len(shapes[name]) > 1 and name.endswith("weight") for name in differing):
        text += "; if these are weights of quantised models, merge the unquantised originals instead"
    return text


def overflowed_tensors(plan: Plan, table: RecordTable) -> dict[str, int]:
    """Count the values of each output tensor that were finite in the inputs and are not in the output, most first.

    Merges do not tell these from the NaN and infinite values that pass through, so tensors with such inputs are left
    out; conversions do.
    """
    sums = table.tensor_sums()
    found = {}
    for tensor, overflowed, nonfinite in zip(plan.tensors, sums["overflowed"], sums["nonfinite"], strict=True):
        if overflowed and (isinstance(tensor.program, Recode) or not nonfinite.any()):
            found[tensor.name] = int(overflowed)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _overflow(plan: Plan, overflowed: Mapping[str, int]) -> str:
    """Name the tensors with values that are too large."""
    some = list(overflowed.items())[:_MOST_NAMES]
    names = ", ".join(f"{name!r} ({count:,})" for name, count in some) + (
        ", ..." if len(overflowed) > len(some) else ""
    )
    values = f"{counted(sum(overflowed.values()), 'value')} in {counted(len(overflowed), 'tensor')}"
    if plan.is_conversion:
        return f"{values} too large for {plan.options.dtype}, and infinite or NaN now: {names}"
    return f"{values} too large for float32 or for the output dtype, and infinite or NaN now: {names}"
