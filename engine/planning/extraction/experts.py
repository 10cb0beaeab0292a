"""Experts that files store one by one and transformers fuses, so that peft packs their factors when it loads them.

peft joins the factors of all experts of a layer, and of each gate with its up projection. For that, every matrix of the
layer's experts must have factors of the same rank, and the configuration must target the fused parameters.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from dovetail.engine.text import counted
from dovetail.io.adapters.memory_names import names_differ

_RENAMES_TARGETS: Final = frozenset(
    (
        "afmoe", "cohere2_moe", "deepseek_v2", "deepseek_v3", "dots1", "ernie4_5_moe", "exaone_moe",
        "flex_olmo", "glm4_moe", "glm4_moe_lite", "hunyuan_v1_moe", "longcat_flash",
        "minimax", "minimax_m2", "mixtral", "olmoe", "qwen3_moe", "qwen3_next", "solar_open",
    )
)  # fmt: skip
"""Models (``model_type``) for which peft takes targets that are called as an expert's matrix for the fused experts."""

_FUSED: Final = _RENAMES_TARGETS | {"jamba", "lfm2_moe", "phimoe", "qwen2_moe", "qwen3_5_moe_text"}
"""Models of which transformers fuses the experts, and peft packs the factors."""

_MATRIX: Final = re.compile(r"(?P<experts>.*\.experts)\.\d+\.(?P<name>gate_proj|up_proj|down_proj|w1|w2|w3)\.weight")
"""Names of an expert's matrices in the file."""

_SINGLE: Final = re.compile(r"\.experts\.\d+\.")


def packed_experts(tensor: str, config: Mapping[str, Any] | None) -> str | None:
    """Give the module whose experts peft packs with the one that a tensor belongs to; None if it packs none.

    Parameters
    ----------
    tensor
        A name in the model's file.
    config
        The model's config.json, if it has one.

    """
    found = _MATRIX.fullmatch(tensor)
    return found["experts"] if found and (config or {}).get("model_type") in _FUSED else None


def fused_parameters(experts: str) -> tuple[str, str]:
    """Give the names in memory of the two parameters of fused experts."""
    module = experts.replace(".block_sparse_moe.", ".mlp.")
    return f"{module}.gate_up_proj", f"{module}.down_proj"


def is_taken_for_experts(module: str, config: Mapping[str, Any] | None) -> bool:
    """Whether peft would take a module, as a target, for fused experts.

    Dense layers and shared experts have names that peft takes so; their weights are targeted as parameters instead.
    """
    if _SINGLE.search(module):  # an expert itself, which peft is to refuse rather than to leave out
        return False
    names = ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
    return (config or {}).get("model_type") in _RENAMES_TARGETS and module.rpartition(".")[2] in names


def whole_packs(names: Collection[str], factored: Collection[str], config: Mapping[str, Any] | None) -> dict[str, str]:
    """Give the module of each expert's matrix that peft packs, if it can pack that module: if all of it is factored.

    Parameters
    ----------
    names
        All names in the model's file.
    factored
        Those of the matrices that are factored if they changed.
    config
        The model's config.json, if it has one.

    """
    packs = {name: experts for name in names if (experts := packed_experts(name, config)) is not None}
    partial = {experts for name, experts in packs.items() if name not in factored}
    return {name: experts for name, experts in packs.items() if experts not in partial}


def unapplied(changed: Iterable[tuple[str, bool]], config: Mapping[str, Any] | None, base: str) -> list[str]:
    """Say what peft may not apply: sentences for people.

    Parameters
    ----------
    changed
        Names of the tensors that changed, each with whether peft packs it.
    config
        The model's config.json, if it has one.
    base
        What the user calls the base model.

    """
    kind, instead = (config or {}).get("model_type"), f"merge by Dovetail, which takes '{base}+ADAPTER' as a model"
    lost = [name for name, packed in changed if _SINGLE.search(name) and not packed]
    notes = []
    if lost and kind in _FUSED:
        notes.append(
            f"peft with transformers 5 will not apply the changes of {counted(len(lost), 'tensor')} of experts, "
            f"such as {lost[0]}, because it takes experts only if all of a layer have factors of one rank. "
            f"Extract without --energy, and with the same options for all experts, or {instead}."
        )
    elif lost and kind is not None:
        notes.append(
            f"peft with transformers 5 may not apply the changes of {counted(len(lost), 'tensor')} of experts, "
            f"such as {lost[0]}, because it may fuse the experts of {kind}. If it does, {instead}."
        )
    if names_differ(config):
        notes.append(
            f"transformers 5 gives tensors of {kind} other names in memory than the files do, so that peft may not "
            f"apply all of the adapter. Compare its result with the fine-tuned model, or {instead}."
        )
    return notes
