"""The adapter that an extraction gives: its tensors under peft's names, and its adapter_config.json."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dovetail.engine.planning.extraction.experts import fused_parameters, is_taken_for_experts
from dovetail.engine.planning.extraction.modules import PREFIX, Kind, module_of
from dovetail.engine.planning.extraction.pairing import TensorPair
from dovetail.engine.planning.extraction.plan import Extraction, module_contents
from dovetail.io.checkpoint import TensorInfo

_NO_TARGET = "dummy-target-modules"
"""What peft takes for an adapter without low-rank changes."""

_TASKS = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}
"""peft's names of tasks by how the names of architectures end."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What an adapter has besides factors."""

    modules: tuple[str, ...]
    """Modules that it has a whole copy of."""
    tensors: Mapping[str, TensorInfo]
    """All tensors that are kept whole, by their names in the adapter."""
    biases: bool
    """Whether biases are among them that do not belong to such a module."""


def kept_whole(plan: Extraction, changed: Iterable[TensorPair], factored: Collection[str]) -> Kept:
    """Decide how the adapter stores the tensors that changed and are not factored.

    Parameters
    ----------
    plan
        The extraction.
    changed
        Of `Extraction.others`, those that changed.
    factored
        Modules of which the weights are factored.

    """
    changed = list(changed)
    modules = list(dict.fromkeys(module_of(pair.name) for pair in changed if pair.name not in plan.by_name))
    contents = module_contents(plan.base)
    modules = _told_apart(modules, contents)
    tensors: dict[str, TensorInfo] = {}
    for module in modules:
        for leaf in sorted(contents[module], reverse=True):  # weight, then bias
            name = f"{module}.{leaf}"
            tensors[PREFIX + name] = plan.tuned.tensors.get(name) or plan.base.tensors[name]
    plain = [pair for pair in changed if module_of(pair.name) not in modules]
    for pair in plain:
        module, _, leaf = pair.name.rpartition(".")
        inside = f"{module}.base_layer.{leaf}" if module in factored else pair.loaded
        tensors[PREFIX + inside] = pair.tuned
    return Kept(tuple(modules), tensors, any(pair.name.endswith(".bias") for pair in plain))


def _told_apart(modules: list[str], everything: Collection[str]) -> list[str]:
    """Leave out modules that peft cannot save alone, because it reads a name as all modules with names that end in it.

    The adapter stores the tensors of these modules one by one.
    """
    left = [name for name in modules if all(each in modules for each in everything if each.endswith(name))]
    return left if len(left) == len(modules) else _told_apart(left, everything)


def adapter_config(plan: Extraction, ranks: Mapping[str, int], kept: Kept) -> dict[str, Any]:
    """Give the adapter_config.json.

    Parameters
    ----------
    plan
        The extraction.
    ranks
        The rank of each factored module.
    kept
        What the adapter has besides factors.

    """
    rank, modules = plan.options.most_rank, list(module_contents(plan.base))
    alpha = plan.options.alpha or rank
    targets, parameters = _targets(plan, ranks)
    patterns = {module: found for module, found in ranks.items() if found != rank}
    patterns |= {f"{each}.weight": patterns[each] for each in patterns if f"{each}.weight" in parameters}
    fused = {"experts.gate_up_proj": 2} if any(each.endswith("experts.gate_up_proj") for each in parameters) else {}
    kinds = {module_of(pair.loaded): pair.kind for pair in plan.matrices}
    return {
        "peft_type": "LORA",
        "task_type": task_of(plan.config),
        "base_model_name_or_path": plan.names[1],
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "rank_pattern": {**patterns, **{name: times * rank for name, times in fused.items()}},
        "alpha_pattern": {name: times * alpha for name, times in fused.items()},
        "target_modules": _shortened(targets, modules, ".") or ([] if parameters else _NO_TARGET),
        **({"target_parameters": parameters} if parameters else {}),
        "modules_to_save": _shortened(kept.modules, modules, "") or None,
        "bias": "all" if kept.biases else "none",
        "fan_in_fan_out": any(kinds[module] is Kind.TRANSPOSED for module in ranks),
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }


def _targets(plan: Extraction, ranks: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """Give the modules that peft wraps, and the parameters: fused experts, and weights that it takes for those."""
    changed = [pair for pair in plan.matrices if module_of(pair.loaded) in ranks]
    experts = dict.fromkeys(pair.packed for pair in changed if pair.packed)
    single = {module_of(pair.loaded) for pair in changed if pair.packed}
    others = [module for module in ranks if module not in single]
    taken = [module for module in others if is_taken_for_experts(module, plan.config)]
    fused = [name for each in experts for name in fused_parameters(each)]
    return [each for each in others if each not in taken], [*fused, *(f"{module}.weight" for module in taken)]


def task_of(config: Mapping[str, Any] | None) -> str | None:
    """Give peft's name for the task of a model; None for one without a head."""
    names = (config or {}).get("architectures")
    names = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return next((task for name in names for ending, task in _TASKS.items() if name.endswith(ending)), None)


def _shortened(chosen: Sequence[str], modules: Sequence[str], before: str) -> list[str]:
    """Name modules as briefly as peft allows, which takes a name for all modules that end in it.

    Parameters
    ----------
    chosen
        The modules.
    modules
        All modules.
    before
        What has to stand before the end that peft compares.

    """
    parts: dict[str, set[str]] = {}
    for module in chosen:
        parts.setdefault(module.rpartition(".")[2], set()).add(module)
    names: list[str] = []
    for last, those in parts.items():
        found = {module for module in modules if module == last or module.endswith(before + last)}
        names += [last] if found == those else [module for module in chosen if module in those]
    return names
