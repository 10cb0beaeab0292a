"""The names of an adapter's tensors: which part of which module each tensor is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from dovetail.io.adapters.config import MERGE_FIRST
from dovetail.io.checkpoint import TensorInfo
from dovetail.io.errors import AdapterError, UnsupportedError

LOKR: Final = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
"""Parts of a module that LoKr changes."""

_PARTS: Final[Mapping[str, Mapping[str, str]]] = {
    "lora_A": {"": "A", "weight": "A"},
    "lora_B": {"": "B", "weight": "B", "bias": "bias"},
    "lora_E": {"": "singular"},
    "lora_embedding_A": {"": "embedding_A"},
    "lora_embedding_B": {"": "embedding_B"},
    "lora_magnitude_vector": {"": "magnitude", "weight": "magnitude"},
    "ia3_l": {"": "ia3"},
    "hada_w1_a": {"": "hada_w1_a"},
    "hada_w1_b": {"": "hada_w1_b"},
    "hada_w2_a": {"": "hada_w2_a"},
    "hada_w2_b": {"": "hada_w2_b"},
    **{part: {"": part} for part in LOKR},
    "trainable_tokens_delta": {"": "tokens"},
}
"""Part of a module, by the component of the tensor's name that tells it and by the last component of the name."""

_STRANGE: Final = ("lora_", "hada_", "lokr_", "ia3_", "trainable_tokens_", "adalora_", "vera_", "oft_", "boft_")

_WRAPPERS: Final = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))

_PREFIXES: Final = ("base_model.model.", "base_model.")


@dataclass(slots=True)
class AdapterTensors:
    """The tensors of an adapter, sorted into parts of modules and whole tensors."""

    modules: dict[str, dict[str, TensorInfo]] = field(default_factory=dict)
    """The parts of each changed module, by the name of the module and that of the part."""
    whole: dict[str, TensorInfo] = field(default_factory=dict)
    """Tensors that replace tensors of the model, by name."""


def sort_tensors(adapter: str, tensors: Mapping[str, TensorInfo], *, nested: bool = False) -> AdapterTensors:
    """Sort the tensors of an adapter by their names.

    Parameters
    ----------
    adapter
        The adapter, for error messages.
    tensors
        Tensors of the adapter, by the names that peft gives them.
    nested
        Whether a module may have several adapters, one around the other, because peft wraps a module once for each
        parameter that it targets. The names of such modules keep their components ``base_layer``.

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
        inner = nested and components[place] in ("lora_A", "lora_B")
        plain = ("token_adapter",) if inner else ("base_layer", "token_adapter")
        module = [each for each in components[:place] if each not in plain]
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
