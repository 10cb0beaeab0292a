"""Finding by names, dtypes and shapes which tensors are codes of weights, which are scales, and which are neither.

Configurations get lost, and codes would then be averaged as if they were weights; so only the tensors decide. Two
kinds are codes: a float8 tensor with a scale beside it, and small integers beside float scales, whatever these are
called. Integer tensors alone (positions, masks, indexes) and plain tensors that happen to be called ``scale`` are
neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Final

from dovetail.io.checkpoint import TensorInfo
from dovetail.io.formats.quantised.refused import LAST_PARTS, NAME_MXFP4, format_of_part
from dovetail.io.formats.quantised.settings import Settings
from dovetail.io.formats.quantised.unnamed import is_weight, may_scale

FLOAT8: Final = frozenset(("F8_E4M3", "F8_E5M2"))
_PACKED: Final = frozenset(("F4", "F6_E2M3", "F6_E3M2"))
_INTEGERS: Final = frozenset(("U8", "I8", "U16", "I16", "U32", "I32"))
_BYTES: Final = frozenset(("U8", "I8"))
_EXPONENTS: Final = "F8_E8M0"

CODE_DTYPES: Final = FLOAT8 | _PACKED | _INTEGERS | {_EXPONENTS}
"""Dtypes in which quantised checkpoints store codes; a checkpoint without any is not quantised."""

_COMPANIONS: Final = frozenset((
    "scale", "scales", "_scale", "weight_scale", "weight_scales", "scale_weight", "weight_scale_inv", "weight_scale_2",
    "zero", "zeros", "scb", "absmax", "codebooks", "tables", "tables2", "suh", "svh", "su", "sv", "wscale", "s",
    "q_scale_max", "biases", "qbiases",
))  # fmt: skip
"""Last parts, in lower case, of float tensors that stand beside codes."""

_INTEGER_NAMES: Final = frozenset(("Qidxs", "trellis", "q_weight", "dense_weights", "bitmask"))
"""Last parts of integer tensors that only quantised checkpoints have, whatever stands beside them."""

_BUFFER: Final = re.compile(r"(?:^|_)(?:position|ids?|index|indices|masks?|bias|tracked|lengths?|offsets?|step|steps)$")
"""Ends of the last parts of integer buffers, which are no codes whatever stands beside them."""

_QUANTISER: Final = re.compile(r"_(?:q|qdata|data|packed|int8|int4|blocks)$")

_SCALE: Final = re.compile(r"scal|amax")
"""Part of the name of a tensor of scales, after the name of the codes."""

_AFTER_MODULE: Final = re.compile(r"_(?:weight_)?scales?(?:_inv)?")
"""What follows the module's name in the name of a tensor that scales the module's weight."""

_MODULE_SCALES: Final = ("scale_weight", "scale", "scale_inv", "scales")
"""What scales of ``weight`` are called in the same module, besides ``weight_scale`` and the like."""

_ACTIVATIONS: Final = re.compile(
    r"(?:^|_)(?:input_scale|input_global_scale|activation_scale|act_scale|scale_input|output_scale|input_scale_ub|weight_scale_ub"
    r"|[kvq]_scale|prob_output_scale|scaled_fp8)$"
)
"""Last parts of tensors that scale activations and caches, which mean nothing beside plain weights."""


NVFP4_GROUP: Final = 16
"""Elements that share a scale in NVFP4."""

_NVFP4: Final = {"weight_packed": ("weight_global_scale", True), "weight": ("weight_scale_2", False)}
"""What the scale of a whole tensor is called, and whether it divides, by the last part of the codes' name."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A tensor of codes and that of its scales."""

    codes: str
    """Name of the tensor of codes."""
    scales: str
    """Name of the tensor of scales."""
    name: str
    """Name of the weight in the unquantised model."""
    packed: bool = False
    """Whether the codes are 4-bit floats, two a byte."""
    grouped: bool = False
    """Whether packed rows are cut into groups, one dimension more, each of which has a scale."""
    transposed: bool = False
    """Whether rows of the codes are columns of the weight."""
    whole: str = ""
    """Name of the scale of the whole tensor, beside those of its groups (NVFP4); empty if there is none."""
    divides: bool = False
    """Whether that scale divides the others, and does not multiply them."""


@dataclass(slots=True)
class Findings:
    """What of a checkpoint is quantised."""

    pairs: list[Pair] = field(default_factory=list)
    """What can be read."""
    dropped: list[str] = field(default_factory=list)
    """Tensors that mean nothing beside plain weights."""
    refusal: str = ""
    """Why the checkpoint cannot be read, as far as names and dtypes tell; empty if it can."""
    action: str = ""
    """What would make it readable, if anything."""


def recognise(tensors: Mapping[str, TensorInfo], settings: Settings) -> Findings:
    """Find the codes among a checkpoint's tensors; see `Findings`."""
    found = Findings()
    siblings = _siblings(tensors)
    taken: set[str] = set()
    unscaled: list[str] = []
    harmless: set[str] = set()  # last parts of names, of which there are few
    for name, info in tensors.items() if siblings else ():
        if info.dtype.name not in CODE_DTYPES:
            continue
        if info.dtype.name in FLOAT8:
            pair = _float8_pair(name, tensors, settings)
        else:
            pair = _float4_pair(name, tensors, settings) or _nvfp4_pair(name, tensors)
        if pair is not None:
            found.pairs.append(pair)
            taken |= {pair.codes, pair.scales, pair.whole}
        elif info.dtype.name in FLOAT8 and len(info.shape) > 1:
            unscaled.append(name)
    modules = {pair.codes.rpartition(".")[0] for pair in found.pairs}
    for name, info in tensors.items():
        # Of plain numbers, nothing but the last part of the name counts.
        plain = info.dtype.kernel_code >= 0 and info.dtype.name not in CODE_DTYPES
        last = name.rpartition(".")[2]
        if name in taken or (plain and not found.pairs and last in harmless):
            continue
        if found.pairs and _scales_activations(name, info, modules):
            found.dropped.append(name)
        elif not found.refusal:
            found.refusal = _refusal(name, tensors, settings, siblings, taken)
            if plain and not found.refusal:
                harmless.add(last)
            blocks = bool(found.refusal) and name.endswith(("_blocks", ".blocks")) and "mxfp4" not in settings.methods
            found.action = NAME_MXFP4 if blocks else ""
    # Float8 without any scale is stored as it is; among scaled tensors, a scale must have got lost.
    lost = next((name for name in unscaled if name not in taken), "")
    if lost and not found.refusal and (found.pairs or settings.places):
        found.refusal = f"tensor {lost!r} of {tensors[lost].dtype} has no scale"
    return found


def _scale_names(name: str) -> Iterator[tuple[str, str]]:
    """Give what the scales of a tensor of codes may be called, and the weight's name."""
    stem, dot, last = name.rpartition(".")
    if last.startswith("_") and last.endswith("_qdata"):
        own = last.removeprefix("_").removesuffix("_qdata")
        yield f"{stem}{dot}_{own}_scale", f"{stem}{dot}{own}"
        return
    if last == "weight_packed":
        yield f"{stem}{dot}weight_scale", f"{stem}{dot}weight"
        return
    for suffix in ("_scale_inv", "_scale"):
        yield name + suffix, name
    if last == "weight":
        for other in _MODULE_SCALES:
            yield f"{stem}{dot}{other}", name


def _float8_pair(name: str, tensors: Mapping[str, TensorInfo], settings: Settings) -> Pair | None:
    """Find the scales of a float8 tensor."""
    if name.rpartition(".")[2].endswith("_qdata") and "torchao" not in settings.methods:
        return None  # without its configuration nobody says what kind of tensor these parts make up
    for scales, weight in _scale_names(name):
        info = tensors.get(scales)
        if info is None:
            continue
        dtype = info.dtype.name
        if dtype == _EXPONENTS or (dtype == "U8" and settings.places) or (info.dtype.mergeable and dtype not in FLOAT8):
            return Pair(name, scales, weight)
    return None


def _float4_pair(name: str, tensors: Mapping[str, TensorInfo], settings: Settings) -> Pair | None:
    """Find the scales of 4-bit floats, two a byte, with a power of two for every 32."""
    info = tensors[name]
    if info.shape and (info.dtype.name == "F4" or info.dtype.name in _BYTES):
        for scales, weight in _scale_names(name):
            other = tensors.get(scales)
            if other is None or not other.shape or not _are_exponents(other, settings):
                continue
            width = info.shape[-1:] if info.dtype.name == "F4" else (2 * info.shape[-1],)
            if other.shape[:-1] == info.shape[:-1] and (32 * other.shape[-1],) == width:
                return Pair(name, scales, weight, packed=True)
    if info.dtype.name != "U8" or "mxfp4" not in settings.methods:
        return None
    for end, scales_end, transposed in (("_blocks", "_scales", True), (".blocks", ".scales", False)):
        other = tensors.get(name.removesuffix(end) + scales_end) if name.endswith(end) else None
        if other is None or other.dtype.name not in ("U8", _EXPONENTS):
            continue
        if info.shape == (*other.shape, 16) and len(info.shape) == (4 if transposed else max(3, len(info.shape))):
            weight = name.removesuffix(end)
            return Pair(name, weight + scales_end, weight, packed=True, grouped=True, transposed=transposed)
    return None


def _nvfp4_pair(name: str, tensors: Mapping[str, TensorInfo]) -> Pair | None:
    """Find the scales of 4-bit floats, two a byte, with a float8 for every 16 and a float32 for the tensor.

    compressed-tensors divides by the latter, Model Optimizer multiplies by it.
    """
    info = tensors[name]
    stem, dot, last = name.rpartition(".")
    if last not in _NVFP4 or not (info.dtype.name in ("F4", "U8") and info.shape):
        return None
    whole_last, divides = _NVFP4[last]
    scales, whole = f"{stem}{dot}weight_scale", f"{stem}{dot}{whole_last}"
    groups, one = tensors.get(scales), tensors.get(whole)
    if groups is None or one is None or groups.dtype.name != "F8_E4M3" or one.dtype.name != "F32" or one.length != 1:
        return None
    width = info.shape[-1] if info.dtype.name == "F4" else 2 * info.shape[-1]
    if not groups.shape or (*groups.shape[:-1], NVFP4_GROUP * groups.shape[-1]) != (*info.shape[:-1], width):
        return None
    return Pair(name, scales, f"{stem}{dot}weight", packed=True, whole=whole, divides=divides)


def _are_exponents(scales: TensorInfo, settings: Settings) -> bool:
    """Whether scales are exponents: by their dtype, or by a format in the configuration that stores them as bytes."""
    if scales.dtype.name == _EXPONENTS:
        return True
    return scales.dtype.name == "U8" and any("mxfp4" in each for each in settings.formats | settings.methods)


def _scales_activations(name: str, info: TensorInfo, modules: set[str]) -> bool:
    """Whether a tensor scales activations or a cache of a model of which weights are quantised."""
    stem, _, last = name.rpartition(".")
    small = info.length <= 2 or (stem in modules and info.dtype.mergeable)
    return small and info.dtype.name not in _INTEGERS and bool(_ACTIVATIONS.search(last))


def _refusal(
    name: str,
    tensors: Mapping[str, TensorInfo],
    settings: Settings,
    siblings: Mapping[str, Sequence[str]],
    taken: Set[str],
) -> str:
    """Say why a tensor that is no part of a pair shows a checkpoint to be quantised; empty if it does not."""
    info = tensors[name]
    stem, _, last = name.rpartition(".")
    if last in LAST_PARTS or last.startswith("bitsandbytes__"):
        return f"it has tensor {name!r} ({LAST_PARTS.get(last, 'bitsandbytes')})"
    dtype = info.dtype.name
    if dtype in _PACKED or dtype == _EXPONENTS:
        return f"tensor {name!r} of {dtype} is part of no format that is read"
    if last in _INTEGER_NAMES and dtype in (*_INTEGERS, "I64"):
        return f"it has tensor {name!r} ({format_of_part(last)})"
    if (
        last == "indices"
        and dtype in (*_INTEGERS, "I64")
        and {f"{stem}.centroids.weight", f"{stem}.centroids"} & tensors.keys()
    ):
        return f"it has tensor {name!r} ({format_of_part(last)})"
    if dtype not in _INTEGERS | FLOAT8 or (dtype in _INTEGERS and _BUFFER.search(last)):
        return ""
    if other := _scale_of(name, tensors, siblings):
        return f"tensor {other!r} scales {name!r} of {info.dtype}{_named(last, other.rpartition('.')[2])}"
    if other := next((each for each in _near(name, siblings) if each not in taken and _fits(tensors[each], info)), ""):
        return f"tensor {name!r} is of {info.dtype}, and {other!r} beside it has the shape of scales"
    if dtype in _INTEGERS and (
        last.startswith("qweight") or (settings.places and last in ("weight", "W_q", "_packed"))
    ):
        return f"tensor {name!r} is of {info.dtype}"
    return ""


def _scale_of(name: str, tensors: Mapping[str, TensorInfo], siblings: Mapping[str, Sequence[str]]) -> str:
    """Find the scales of a tensor that may have codes, by their names; empty if there are none.

    Flat integers are no codes by the mere name of a scale in their module, unless they are called as weights are.
    """
    info = tensors[name]
    stem, _, last = name.rpartition(".")
    flat = len(info.shape) < 2 and info.dtype.name in _INTEGERS
    for other in siblings.get(stem, ()):
        companion = other.rpartition(".")[2]
        alike = is_weight(last) or companion.startswith(f"{last}_")
        if (alike or not flat) and _scales(tensors[other], companion, info, last):
            return other
    for other in _further_scales(name, siblings):
        if tensors[other].dtype.mergeable or tensors[other].dtype.name in (*_BYTES, _EXPONENTS):
            return other
    return ""


def _fits(scales: TensorInfo, codes: TensorInfo) -> bool:
    """Whether a tensor of any name may have the scales of codes.

    A plain copy in float8 may have the like beside matrices that are no weights of linear modules, and so may numbers
    beside counts or indexes of the same shape.
    """
    last, companion = codes.name.rpartition(".")[2], scales.name.rpartition(".")[2]
    if not scales.dtype.mergeable or scales.dtype.name in FLOAT8:
        return False
    if codes.dtype.name in FLOAT8:
        return last == "weight" and len(codes.shape) > 1 and may_scale(companion, scales.shape, codes.shape, 1)
    if scales.length == 1 and len(codes.shape) > 1:
        return is_weight(last) and not companion.endswith(("bias", "logit_scale"))
    if scales.shape == codes.shape and not is_weight(last):
        return False
    return may_scale(companion, scales.shape, codes.shape, codes.dtype.itemsize)


def _near(name: str, siblings: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Give the tensors of the same module, those below a tensor, and those beside the module with its name.

    Tensors without a module are near each other only if one begins as the other does.
    """
    stem, _, last = name.rpartition(".")
    yield from (each for each in siblings.get(stem, ()) if each != name and (stem or each.startswith(last)))
    yield from siblings.get(name, ())
    parent = stem.rpartition(".")[0]
    yield from (each for each in siblings.get(parent, ()) if stem and each.startswith(f"{stem}_"))


def _further_scales(name: str, siblings: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Give the tensors that by their names scale codes from below the codes, from a quantiser, or beside the module."""
    stem, _, last = name.rpartition(".")
    parent = stem.rpartition(".")[0]
    below = (*siblings.get(name, ()), *siblings.get(f"{stem}.{last}_quantizer", ()))
    yield from (other for other in below if _SCALE.search(other.rpartition(".")[2]))
    yield from (other for other in siblings.get(parent, ()) if _AFTER_MODULE.fullmatch(other.removeprefix(stem)))


def _named(last: str, companion: str) -> str:
    """Name the format, in brackets, if the last parts of codes or scales tell of one."""
    name = format_of_part(last) or LAST_PARTS.get(companion, "")
    return f" ({name})" if name else ""


def _scales(scales: TensorInfo, companion: str, codes: TensorInfo, last: str) -> bool:
    """Whether a tensor of the same module, of which `companion` is the last part, has scales of codes.

    A plain copy in float8 has tensors called ``scale`` in float8 too, which scale no weight.
    """
    if companion in (last, "logit_scale") or (companion == "scale" and {scales.dtype.name, codes.dtype.name} <= FLOAT8):
        return False
    own = companion.startswith(_QUANTISER.sub("", last)) and bool(_SCALE.search(companion))
    own |= codes.dtype.name in _INTEGERS and scales.dtype.mergeable and bool(_SCALE.search(companion))
    if scales.dtype.mergeable:
        return own or (companion.lower() in _COMPANIONS and (codes.dtype.name not in FLOAT8 or last == "weight"))
    exponents = scales.dtype.name == _EXPONENTS or scales.dtype.name in _BYTES
    return exponents and codes.dtype.itemsize == 1 and (own or companion in ("scales", "weight_scale"))


def _siblings(tensors: Mapping[str, TensorInfo]) -> dict[str, list[str]]:
    """Give the tensors of each module, by its name, for checkpoints that may have codes."""
    found: dict[str, list[str]] = {}
    if any(info.dtype.name in CODE_DTYPES for info in tensors.values()):
        for name in tensors:
            found.setdefault(name.rpartition(".")[0], []).append(name)
    return found
