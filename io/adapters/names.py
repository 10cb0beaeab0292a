"""The names of an adapter's tensors: which part of which module a tensor is, and how the model names that module."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from dovetail.io.adapters.config import MERGE_FIRST
from dovetail.io.checkpoint import TensorInfo
from dovetail.io.errors import AdapterError, UnsupportedError

_PARTS: Final[Mapping[str, Mapping[str, str]]] = {
    "lora_A": {"weight": "A"},
    "lora_B": {"weight": "B", "bias": "bias"},
    "lora_embedding_A": {"": "embedding_A"},
    "lora_embedding_B": {"": "embedding_B"},
    "lora_magnitude_vector": {"": "magnitude", "weight": "magnitude"},
    "ia3_l": {"": "ia3"},
    "hada_w1_a": {"": "hada_w1_a"},
    "hada_w1_b": {"": "hada_w1_b"},
    "hada_w2_a": {"": "hada_w2_a"},
    "hada_w2_b": {"": "hada_w2_b"},
    "trainable_tokens_delta": {"": "tokens"},
}
"""Part of a module, by the component of the tensor's name that tells it and by the last component of the name."""

_STRANGE: Final = ("lora_", "hada_", "lokr_", "ia3_", "trainable_tokens_", "adalora_", "vera_", "oft_", "boft_")

_WRAPPERS: Final = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))

_PREFIXES: Final = ("base_model.model.", "base_model.")

_MOST_CANDIDATES: Final = 1000


@dataclass(slots=True)
class AdapterTensors:
    """The tensors of an adapter, sorted into parts of modules and whole tensors."""

    modules: dict[str, dict[str, TensorInfo]] = field(default_factory=dict)
    """The parts of each changed module, by the name of the module and that of the part."""
    whole: dict[str, TensorInfo] = field(default_factory=dict)
    """Tensors that replace tensors of the model, by name."""


def sort_tensors(adapter: str, tensors: Mapping[str, TensorInfo]) -> AdapterTensors:
    """Sort the tensors of an adapter by their names.

    Parameters
    ----------
    adapter
        The adapter, for error messages.
    tensors
        Tensors of the adapter, by the names that peft gives them.

    Raises
    ------
    AdapterError
        A tensor occurs twice, or the file holds several adapters.
    UnsupportedError
        A tensor belongs to an unknown kind of adapter.

    """
    found = AdapterTensors()
    adapters: set[str] = set()
    beside: dict[str, TensorInfo] = {}
    for stored_name, info in tensors.items():
        name = stored_name
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                name = name.removeprefix(prefix)
                break
        components = [each for each in name.split(".") if each not in _WRAPPERS]
        place = next((index for index, each in enumerate(components) if each in _PARTS), None)
        if place is None:
            if (whole := _whole_name(adapter, stored_name, components)) is None:
                continue
            # With "bias: all", peft saves the bias of a module that is saved whole under two names; the plain one
            # counts.
            place_of = beside if "modules_to_save" in components else found.whole
            if whole in place_of:
                raise AdapterError(f"{adapter} has tensor {whole!r} twice", "each tensor once", "repair the adapter")
            place_of[whole] = info
            continue
        module = [each for each in components[:place] if each not in ("base_layer", "token_adapter")]
        part, adapter_name = _part(adapter, stored_name, components[place], components[place + 1 :])
        adapters.update(adapter_name)
        parts = found.modules.setdefault(".".join(module), {})
        if part in parts or not module:
            raise AdapterError(
                f"tensor {stored_name!r} of {adapter} is the second {part} of its module, or has no module",
                "at most one tensor for each part of a module",
                "repair the adapter",
            )
        parts[part] = info
    found.whole = beside | found.whole
    if len(adapters) > 1:
        raise AdapterError(
            f"{adapter} holds several adapters ({', '.join(sorted(adapters)[:3])})",
            "one adapter in a file",
            "save them one by one",
        )
    return found


def _part(adapter: str, name: str, kind: str, rest: list[str]) -> tuple[str, list[str]]:
    """Find which part a tensor is, and the adapter's name if the tensor's name contains it."""
    last = rest[-1] if rest and rest[-1] in _PARTS[kind] else ""
    between = rest[:-1] if last else rest
    if last not in _PARTS[kind] or len(between) > 1:
        raise UnsupportedError(
            f"tensor {name!r} of {adapter} is not understood", "a part of a LoRA as peft names it", MERGE_FIRST
        )
    return _PARTS[kind][last], between


def _whole_name(adapter: str, name: str, components: list[str]) -> str | None:
    """Name the tensor that this one replaces; None if it is a copy of the model's tensor, saved beside the new one."""
    if "original_module" in components or "trainable_tokens_original" in components:
        return None
    if any(each.startswith(_STRANGE) or each == "ranknum" for each in components):
        raise UnsupportedError(
            f"tensor {name!r} of {adapter} is not understood", "a LoRA as peft names it", MERGE_FIRST
        )
    plain = []
    for index, each in enumerate(components):
        if each in ("base_layer", "token_adapter", "modules_to_save"):
            continue
        if each == "default" and index and components[index - 1] == "modules_to_save":
            continue
        plain.append(each)
    return ".".join(plain)


def find_names(
    adapter: str, model: str, needed: Iterable[str], available: Collection[str], optional: Collection[str] = ()
) -> dict[str, str]:
    """Find the names that a model gives to the tensors that an adapter changes.

    Checkpoints and adapters differ in the prefix before the layers (``model.``, ``transformer.``,
    ``model.language_model.``). Names that start with the same two components are handled as a group. A group is found
    unchanged, or by replacing the prefix of all its names by another. If several other prefixes find all names of the
    group, the one that keeps the most components is taken; if several keep as many, that is an error.

    Parameters
    ----------
    adapter, model
        The adapter and the model, for error messages.
    needed
        Names of the changed tensors in the adapter.
    available
        Names of the tensors of the model.
    optional
        Names in `needed` that the model may lack.

    Returns
    -------
    dict
        The name in the model by the name in the adapter; without optional names that the model lacks.

    Raises
    ------
    AdapterError
        A required name is not found, or several names of the model fit.

    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in needed:
        groups.setdefault(tuple(name.split(".")[:2]), []).append(name)
    endings: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    for names in groups.values():
        same = [name for name in names if name in available]
        found.update(zip(same, same, strict=True))
        missing = [name for name in names if name not in available]
        required = [name for name in missing if name not in optional]
        if not missing or (same and not required):
            continue
        if not endings:
            for name in available:
                endings.setdefault(_ending(name), []).append(name)
        change = None if same else _common_change(adapter, required or missing, endings, available)
        if change is None:
            if required:
                raise _not_found(adapter, model, required[0], available)
            continue
        stripped, added = change
        for name in missing:
            other = added + name.removeprefix(stripped)
            if name.startswith(stripped) and other in available:
                found[name] = other
            elif name in required:
                raise _not_found(adapter, model, name, available)
    if len(set(found.values())) != len(found):
        raise AdapterError(
            f"{adapter} changes a tensor of {model} under two names", "each tensor once", "repair the adapter"
        )
    return found


def _common_change(
    adapter: str, names: list[str], endings: Mapping[str, list[str]], available: Collection[str]
) -> tuple[str, str] | None:
    """Find the prefix to take away from all names, and the prefix to put in its place; None if no prefix fits."""
    components = names[0].split(".")
    for cut in range(len(components) - 1):
        if any(each.isdecimal() for each in components[:cut]):
            return None  # layers are never renumbered
        stripped = "".join(each + "." for each in components[:cut])
        tail = names[0].removeprefix(stripped)
        candidates = [name for name in endings.get(_ending(tail), ()) if name == tail or name.endswith("." + tail)]
        if len(candidates) > _MOST_CANDIDATES:
            return None
        changes = [
            added
            for added in (name.removesuffix(tail) for name in candidates)
            if all(name.startswith(stripped) and added + name.removeprefix(stripped) in available for name in names)
        ]
        if len(changes) > 1:  # the components of vision models were reordered at some time: prefer those that stay
            alike = [len(set(added.split(".")[:-1]) & set(components[:cut])) for added in changes]
            changes = [added for added, count in zip(changes, alike, strict=True) if count == max(alike)]
        if len(changes) > 1:
            raise AdapterError(
                f"{adapter} changes {names[0]!r}, which could be {candidates[0]!r} or {candidates[1]!r}",
                "names that leave no choice",
                "rename the adapter's tensors to the model's names",
            )
        if changes:
            return stripped, changes[0]
    return None


def _ending(name: str) -> str:
    """Cut a name to its last two components."""
    return ".".join(name.rsplit(".", 2)[-2:])


def _not_found(adapter: str, model: str, name: str, available: Collection[str]) -> AdapterError:
    alike = [each for each in available if _ending(each) == _ending(name)][:1000] or list(available)[:1000]
    near = difflib.get_close_matches(name, alike, n=2, cutoff=0.0)
    tied = ", or the embedding it may be tied to" if name.startswith("lm_head") else ""
    return AdapterError(
        f"{adapter} changes {name!r}, which {model} does not have",
        f"a tensor of the model{tied}; the nearest are {' and '.join(map(repr, near))}",
        "use the model that the adapter was trained on",
    )
