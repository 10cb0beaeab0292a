"""Tensors that stay in float32 although the output is asked for in fewer bits.

Some tensors are stored in float32 among narrower ones because they do not survive rounding: the biases by which a
router picks its experts differ by less than one step of bfloat16, and the decay of a state is an exponent. A plan
reads no tensor data for this: whether the inputs survive rounding does not tell whether the merged values do, and
keeping a tensor that would have survived costs its bytes and nothing else. The headers suffice. If most elements of a
model are narrower, its authors kept whatever is in float32 so on purpose. If all elements are float32, only the names
can show it, so this module lists the few tensors that the models' own code keeps in float32.

It is one rule for every dtype of the output, asked for or the base model's: what all models keep stays, and what only
some keep is rounded, with a warning. Where no dtype is asked for, the base model's tensors say what stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dovetail.engine.recipe import TensorSpec
from dovetail.engine.text import counted
from dovetail.io.checkpoint import Checkpoint, TensorInfo
from dovetail.io.dtypes import DTYPES, DType

_KEPT: Final = re.compile(r"(?:^|\.)(?:e_score_correction_bias|expert_bias|A_log|dt_bias)$")
"""Names of router biases, and of decays and time steps of state space models: transformers keeps the biases in float32
(``_keep_in_fp32_modules_strict``), mamba_ssm and vLLM the others."""

_WIDE_BYTES: Final = 4

Stored = tuple[TensorInfo, str, Sequence[tuple[int, TensorInfo]]]
"""The tensor that an output tensor takes after, its name, and what it is made from: positions of checkpoints, and
their tensors."""


@dataclass(frozen=True, slots=True)
class Islands:
    """Tensors that are stored in float32 among narrower ones."""

    kept: frozenset[str] = frozenset()
    """Names of output tensors that stay in float32."""
    warnings: tuple[str, ...] = ()
    """What a person should know of them, and of those that are rounded."""

    def dtype(self, name: str, wanted: DType | None, own: DType) -> DType:
        """Choose the dtype of an output tensor.

        Parameters
        ----------
        name
            Its name.
        wanted
            The dtype asked for, if any.
        own
            That of the tensor that it takes after.

        """
        if wanted is None:
            return own
        return DTYPES["F32"] if name in self.kept else wanted


def spec_sources(specs: Iterable[TensorSpec], checkpoints: Sequence[Checkpoint]) -> Iterable[Stored]:
    """Find the stored tensors that each output tensor is made from."""
    for spec in specs:
        items = spec.inputs if spec.base is None else (spec.base, *spec.inputs)
        found = [(i.checkpoint, checkpoints[i.checkpoint].tensors[i.name]) for i in items or (spec.reference,)]
        yield checkpoints[spec.reference.checkpoint].tensors[spec.reference.name], spec.name, found


def find_islands(
    tensors: Iterable[Stored], checkpoints: Sequence[Checkpoint], wanted: DType | None, *, rounded: bool
) -> Islands:
    """Find the tensors that stay in float32.

    Parameters
    ----------
    tensors
        The output's tensors.
    checkpoints
        Every checkpoint.
    wanted
        The dtype asked for, if any.
    rounded
        Whether all are to be rounded: nothing is kept, and nothing said, as that was asked for.

    """
    if rounded or (wanted is not None and wanted.itemsize >= _WIDE_BYTES):
        return Islands()
    sizes = [_sizes(checkpoint) for checkpoint in checkpoints]
    if not any(wide for wide, _ in sizes):
        return Islands()  # as of most models, of which many thousand tensors need not be looked at one by one
    narrow = {index for index, (wide, others) in enumerate(sizes) if sum(others) > sum(wide)}
    kept: list[str] = []
    lost: list[str] = []
    target = wanted
    for reference, name, found in tensors:
        own = reference.output_dtype
        if wanted is None and own.itemsize >= _WIDE_BYTES:
            continue
        wide = [index for index, info in found if info.dtype.mergeable and info.output_dtype.itemsize >= _WIDE_BYTES]
        if not wide:
            continue
        listed = _KEPT.search(name) is not None
        if len(wide) == len(found) and (listed or narrow.issuperset(wide)):
            kept.append(name)
        elif listed or not narrow.isdisjoint(wide):
            lost.append(name)
            target = target or own
    return Islands(frozenset(kept), tuple(_warnings(kept, lost, target)) if target else ())


def _sizes(checkpoint: Checkpoint) -> tuple[list[int], list[int]]:
    """Count the elements of each dtype of a checkpoint: those of float32 and wider ones, then those of others."""
    lengths: dict[str, int] = {}
    for info in checkpoint.tensors.values():
        if info.dtype.kernel_code >= 0:
            name = (info.own_dtype or info.dtype).name
            lengths[name] = lengths.get(name, 0) + info.source.length
    wide = [length for name, length in lengths.items() if DTYPES[name].itemsize >= _WIDE_BYTES]
    return wide, [length for name, length in lengths.items() if DTYPES[name].itemsize < _WIDE_BYTES]


def _warnings(kept: Sequence[str], lost: Sequence[str], wanted: DType) -> Iterable[str]:
    if kept:
        yield (
            f"{counted(len(kept), 'tensor')} kept in float32 as in all models, not rounded to {wanted} (such as "
            f"{kept[0]!r}); pass --round-float32 to round them"
        )
    if lost:
        yield (
            f"{counted(len(lost), 'tensor')} rounded to {wanted} that only some models keep in float32 (such as "
            f"{lost[0]!r}); ask for dtype float32 to lose nothing"
        )
