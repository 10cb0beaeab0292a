"""LoRA of parameters that are not weights of modules (``target_parameters`` of peft), such as a layer's fused experts.

peft wraps a module once for each of its targeted parameters, one wrapper around the other, and does not store which
wrapper is for which parameter: this module finds it from the shapes. The shapes also show how the factors are packed:
up to 0.19.0 peft took every expert's matrix for inputs by outputs, and since 0.19.1 it packs by how they are stored. A
checkpoint may store every expert by itself although the model fuses them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dovetail.io.adapters.config import MERGE_FIRST, AdapterConfig
from dovetail.io.adapters.experts import Experts
from dovetail.io.adapters.matrices import Matrix
from dovetail.io.adapters.names import AdapterTensors
from dovetail.io.adapters.source import changed_tensor
from dovetail.io.checkpoint import TensorInfo
from dovetail.io.errors import AdapterError, UnsupportedError

_SPLIT: Final = (("{parent}", "gate_proj", "up_proj", "down_proj"), ("{parent}", "w1", "w3", "w2"),
                 ("block_sparse_moe", "w1", "w3", "w2"))  # fmt: skip
"""How checkpoints name single experts: the module around them, and their three matrices."""

_FUSED: Final = ("gate_up_proj", "down_proj")
"""The two parameters of fused experts that checkpoints store split, in the order in which modules define them."""

_MOST_WRAPPERS: Final = 4

_OWN_PACKING: Final = (0, 19, 1)
"""The first version of peft that packs factors by how matrices are stored."""


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A module that has parameters which the adapter changes."""

    module: str
    """Name of the module."""
    wrappers: tuple[Mapping[str, TensorInfo], ...]
    """The parts of each wrapper, from the innermost to the outermost."""
    parameters: tuple[str, ...]
    """Last components of the names of parameters that the configuration may mean."""


@dataclass(frozen=True, slots=True)
class Place:
    """A parameter of a wrapped module in a checkpoint."""

    parameter: str
    """Name of the parameter in the adapter."""
    pieces: tuple[tuple[str, int, int], ...]
    """The tensors that hold it by the adapter's names, with the expert that each is of and its number among those."""
    split: bool
    """Whether every expert is stored by itself."""


@dataclass(frozen=True, slots=True)
class _Fit:
    """A wrapper that fits a parameter."""

    rank: int
    ways: frozenset[bool]
    """Whether matrices are taken for inputs by outputs."""


def split_parameters(
    label: str, config: AdapterConfig, parts: AdapterTensors, available: Collection[str]
) -> tuple[AdapterTensors, list[Wrapped]]:
    """Take the modules of which parameters are changed from an adapter's modules.

    A module with one wrapper is left to be changed as usual if the model, which has the tensors `available`, has its
    weight and none of the parameters that the configuration may mean.

    Raises
    ------
    UnsupportedError
        A module is wrapped in a way that the configuration does not explain.

    """
    if not config.parameters:
        return parts, []
    endings = {_tail(name) for name in available}
    levels: dict[str, dict[int, str]] = {}
    for name in parts.modules:
        components = name.split(".")
        module = ".".join(each for each in components if each != "base_layer")
        levels.setdefault(module, {})[components.count("base_layer")] = name
    modules, wrapped = {}, []
    for module, names in levels.items():
        inward = tuple(parts.modules[names[depth]] for depth in sorted(names, reverse=True))
        targets = [each.rpartition(".") for each in config.parameters]
        fitting = [leaf for owner, _, leaf in targets if not owner or f".{module}".endswith(f".{owner}")]
        stored = [each for each in ("weight", *fitting) if _tail(f"{module}.{each}") in endings]
        if len(inward) == 1 and (not fitting or set(stored) == {"weight"}):
            modules[module] = inward[0]
            continue
        if not fitting or len(inward) > _MOST_WRAPPERS or config.dora or any(set(p) != {"A", "B"} for p in inward):
            raise UnsupportedError(
                f"{label} changes module {module!r} by {len(inward)} wrappers",
                "a plain LoRA for each of its parameters that target_parameters names",
                MERGE_FIRST,
            )
        wrapped.append(Wrapped(module, inward, tuple(sorted(set(fitting)))))
    return replace(parts, modules=modules), wrapped


def find_places(label: str, wrapped: Wrapped, available: Collection[str]) -> list[Place]:
    """Find how a checkpoint stores the parameters of a wrapped module, by the adapter's names.

    Raises
    ------
    UnsupportedError
        It has neither the parameters nor single experts in a known layout.

    """
    endings = {_tail(name) for name in available}
    module = wrapped.module
    fused = [each for each in wrapped.parameters if _tail(f"{module}.{each}") in endings]
    if len(fused) == len(wrapped.wrappers):
        return [Place(f"{module}.{each}", ((f"{module}.{each}", 0, 0),), False) for each in fused]
    owner, _, experts = module.rpartition(".")
    above, _, parent = owner.rpartition(".")
    names = [each for each in _FUSED if each in wrapped.parameters]
    for around, gate, up, down in _SPLIT if not fused and len(names) == len(wrapped.wrappers) else ():
        base = ".".join(each for each in (above, around.format(parent=parent), experts) if each)
        count = next(e for e in itertools.count() if _tail(f"{base}.{e}.{gate}.weight") not in endings)
        if count:
            matrices = {"gate_up_proj": (gate, up), "down_proj": (down,)}
            return [
                Place(
                    f"{module}.{each}",
                    tuple(
                        (f"{base}.{e}.{matrix}.weight", e, number)
                        for e in range(count)
                        for number, matrix in enumerate(matrices[each])
                    ),
                    True,
                )
                for each in names
            ]
    raise UnsupportedError(
        f"{label} changes parameters {', '.join(wrapped.parameters)} of {module!r}, which the model does not store so",
        "fused experts, or single ones with gate_proj, up_proj and down_proj or w1, w2 and w3",
        MERGE_FIRST,
    )


def change_parameters(
    label: str,
    config: AdapterConfig,
    modules: Sequence[tuple[Wrapped, Sequence[Place]]],
    names: Mapping[str, str],
    tensors: Mapping[str, TensorInfo],
) -> tuple[list[TensorInfo], tuple[str, ...]]:
    """Make the changed tensors of all wrapped modules.

    Parameters
    ----------
    label
        The adapter, for messages.
    config
        Its configuration.
    modules
        Wrapped modules, and where their parameters are.
    names
        The model's names of tensors, by the adapter's.
    tensors
        The tensors of the model.

    Returns
    -------
    tuple
        The changed tensors, and what a person should know of them, one sentence each.

    Raises
    ------
    AdapterError
        Wrappers do not fit the parameters.
    UnsupportedError
        Wrappers fit the parameters in several ways.

    """
    matched = []
    for wrapped, places in modules:
        stored = [(place, [tensors[names[name]] for name, _, _ in place.pieces]) for place in places]
        matched += _match(label, config, wrapped, stored)
    told = {way for *_, fit in matched if len(fit.ways) == 1 for way in fit.ways}
    guess = next(iter(told)) if len(told) == 1 else _version(config.version) < _OWN_PACKING
    guessed = len(told) != 1 and any(len(fit.ways) == 2 for *_, fit in matched)
    changed: list[TensorInfo] = []
    for place, infos, parts, fit in matched:
        turned = guess if len(fit.ways) == 2 else next(iter(fit.ways))
        changed += _changed(config, place, infos, parts, fit.rank, turned=turned)
    return changed, tuple(_notes(label, config, guessed=guessed))


def _notes(label: str, config: AdapterConfig, *, guessed: bool) -> Iterator[str]:
    if guessed:
        version = f"peft {config.version}" if config.version else "peft before 0.18"
        yield (
            f"{label} changes experts of square matrices, so that shapes do not tell how its factors are packed: they "
            f"are read as {version} packs those of experts that are stored outputs by inputs"
        )
    if config.unsloth:
        yield (
            f"{label} was trained by Unsloth, which until September 2026 ordered the columns of lora_B of fused "
            "experts otherwise than peft: they are read in the order of peft"
        )


def _match(
    label: str,
    config: AdapterConfig,
    wrapped: Wrapped,
    stored: Sequence[tuple[Place, list[TensorInfo]]],
) -> list[tuple[Place, list[TensorInfo], Mapping[str, TensorInfo], _Fit]]:
    """Find which wrapper is for which parameter."""
    found = []
    for order in itertools.permutations(stored):
        pairs = list(zip(order, wrapped.wrappers, strict=True))
        fits = [_fit(config, place, infos, parts) for (place, infos), parts in pairs]
        if all(fit is not None for fit in fits):
            found.append(
                [(place, infos, parts, fit) for ((place, infos), parts), fit in zip(pairs, fits, strict=True) if fit]
            )
    if len(found) == 1:
        return found[0]
    if found:
        raise UnsupportedError(
            f"{label} changes several parameters of {wrapped.module!r} that have the same shape",
            "parameters that shapes tell apart",
            MERGE_FIRST,
        )
    every = [info for _, infos in stored for info in infos[:2]] + [i for p in wrapped.wrappers for i in p.values()]
    shapes = ", ".join(f"{info.name!r} {list(info.shape)}" for info in every)
    raise AdapterError(
        f"{label}: tensors have shapes {shapes}",
        "floating-point tensors of shapes that fit one another, and the ranks that the configuration says",
        "use the model that the adapter was trained on",
    )


def _fit(
    config: AdapterConfig, place: Place, infos: Sequence[TensorInfo], parts: Mapping[str, TensorInfo]
) -> _Fit | None:
    """Tell in which ways a wrapper fits a parameter; None if in none."""
    down, up = parts["A"], parts["B"]
    shape = _shape(place, infos)
    numbers = all(info.dtype.mergeable and info.length for info in (*infos, down, up))
    if shape is None or not numbers or len(down.shape) != 2 or len(up.shape) != 2:
        return None
    count, rows, columns = shape
    rank = config.rank_of(place.parameter)
    if down.shape[0] != rank * count or up.shape[1] != rank * count:
        return None
    ways = {False} if (up.shape[0], down.shape[1]) == (rows, columns) else set()
    if count > 1 and (down.shape[1], up.shape[0]) == (rows, columns):
        ways.add(True)
    return _Fit(rank, frozenset(ways)) if ways else None


def _shape(place: Place, infos: Sequence[TensorInfo]) -> tuple[int, int, int] | None:
    """Give the shape of a parameter: experts, rows, columns; None if it cannot be changed."""
    shape = infos[0].shape
    if not place.split:
        return {2: (1, *shape), 3: shape}.get(len(shape))  # type: ignore[return-value]
    count = place.pieces[-1][1] + 1
    if len(shape) != 2 or any(info.shape != shape for info in infos):
        return None
    return count, shape[0] * (len(infos) // count), shape[1]


def _changed(
    config: AdapterConfig,
    place: Place,
    infos: Sequence[TensorInfo],
    parts: Mapping[str, TensorInfo],
    rank: int,
    *,
    turned: bool,
) -> Iterator[TensorInfo]:
    """Make the changed tensors of one parameter."""
    shape = _shape(place, infos)
    assert shape is not None
    count = shape[0]
    down, up = Matrix.of(parts["A"], parts["A"].shape[0]), Matrix.of(parts["B"], parts["B"].shape[0])
    for (_, expert, number), info in zip(place.pieces, infos, strict=True):
        rows, columns = info.shape[-2:]
        scale = config.scale(place.parameter, rank)
        change = Experts(rows, columns, rank, count, down, up, turned, scale, expert, number * rows)
        yield changed_tensor(info, change)


def _tail(name: str) -> str:
    """Cut what stands before the list of layers from a name, because checkpoints and adapters differ in that."""
    components = name.split(".")
    place = next((index for index, each in enumerate(components) if each.isdecimal() and index), 1)
    return ".".join(components[place - 1 :])


def _version(text: str) -> tuple[int, ...]:
    """Read the first three numbers of a version; zeros where there is none."""
    found = re.match(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?", text)
    return tuple(int(each or 0) for each in found.groups()) if found else (0, 0, 0)
