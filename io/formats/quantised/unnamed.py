"""Scales whose names say nothing: known by their place beside integers, and by a shape that is a coarser grid of these.

New formats call their scales what they like. What all have in common is that a float tensor of the codes' own module
has one number for every row, column or group of codes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

_CODES_A_BYTE: Final = (1, 2, 4, 8)
_GROUPS: Final = tuple(2**power for power in range(3, 13))
"""How many codes may share a scale where codes or scales are stored flat: 8 to 4096."""

_NO_SCALE: Final = re.compile(r"(?:^|_)(?:weight|bias|embed|embedding|mean|var|logit_scale)$")
"""Ends of the last parts of float tensors that scale nothing, whatever their shapes."""

_WEIGHT: Final = re.compile(r"weight|proj|kernel|qdata|^w[0-9]*$", re.IGNORECASE)


def is_weight(last: str) -> bool:
    """Tell whether a tensor is a weight by the last part of its name."""
    return bool(_WEIGHT.search(last))


def may_scale(last: str, scales: Sequence[int], codes: Sequence[int], itemsize: int) -> bool:
    """Tell whether a float tensor of several elements can have the scales of codes of its module.

    Parameters
    ----------
    last
        The last part of the float tensor's name.
    scales, codes
        The shapes of both.
    itemsize
        Bytes of an element of the codes, each of which may have several of them.

    """
    if _NO_SCALE.search(last) or math.prod(scales) < 2:
        return False
    packs = {1, *(itemsize * each for each in _CODES_A_BYTE)}
    counts = [side for side in scales if side > 1]
    sides = [side for side in codes if side > 1]
    if len(counts) == 1:
        groups = {pack * math.prod(codes) for pack in packs} & {group * counts[0] for group in _GROUPS}
        return bool(groups) or (len(sides) > 1 and any(pack * side == counts[0] for side in sides for pack in packs))
    return _is_coarser(counts, sides, packs) or _is_coarser(counts[::-1], sides, packs)


def _is_coarser(counts: Sequence[int], sides: Sequence[int], packs: set[int]) -> bool:
    """Whether scales lie over codes as a coarser grid: one for each along one side, and along none more than one."""
    if not len(counts) <= len(sides) <= len(counts) + 1:
        return False
    pairs = list(zip(counts, sides, strict=False))
    divide = all(any(pack * side % count == 0 for pack in packs) for count, side in pairs)
    return (
        divide
        and any(count in {pack * side for pack in packs} for count, side in pairs)
        and (2 * math.prod(counts) <= max(packs) * math.prod(sides))
    )
