"""Settings by which models compute otherwise with weights of the same names and shapes.

The output has the configuration of one model. If another was trained with other positions (``rope_theta``), heads,
activations or labels, its weights mean something else there, and nothing in their names or shapes shows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dovetail.engine.planning.model_config import language_parts
from dovetail.engine.text import counted

_DECIDES: Final = re.compile(
    r"^model_type$|rope|rotary|alibi|^position_embedding_type$|"
    r"heads?$|^head_dim$|^(?!.*loss).*(?:softcap|soft_cap|multiplier$|scal(?:e|ing|ar|ing_factor)$)|(?:^|_)eps(?:ilon)?$|"
    r"^(?:hidden_)?act(?:ivation)?(?:_function|_fn)?$|parallel_(?:attn|residual)$|^qk_norm$|sliding_window|"
    r"attention_(?:window|chunk)|^window_size$|^layer_types$|^no_rope_layers$|"
    r"^num_experts_per_tok$|^moe_k$|^top_?k(?:_group|_method)?$|^n_group$|^norm_topk_prob$|^scoring_func$|^id2label$"
)
"""Keys of settings that decide what a model computes with its weights. Sizes are not among them, as shapes show them,
nor are settings of training, generation and storage."""

_ROPE: Final = ("rope_scaling", "rope_parameters")
"""Keys of what newer configurations say of rotary positions, together or beside the top's ``rope_theta``."""

_MOST_SHOWN: Final = 4


def config_differences(configs: Sequence[Mapping[str, Any] | None], labels: Sequence[str]) -> list[str]:
    """Name the models whose configurations say something else than the first one's of how weights are used.

    Only what both configurations say is compared, in the language model's part: elsewhere, the default of a class of
    transformers may be the same.

    Parameters
    ----------
    configs
        Configurations of all checkpoints; the output has the first one's.
    labels
        The checkpoints' names for people.

    Returns
    -------
    list
        A sentence for each model.

    """
    if not configs or configs[0] is None:
        return []
    ours, texts = _settings(configs[0]), []
    for config, label in zip(configs[1:], labels[1:], strict=True):
        theirs = _settings(config or {})
        found = [key for key, value in ours.items() if key in theirs and not _alike(value, theirs[key])]
        # A language model within another has a type of its own.
        if _depth(config or {}) != _depth(configs[0]) and "model_type" in found:
            found.remove("model_type")
        if found:
            named = ", ".join(f"{key} ({_brief(theirs[key], ours[key])})" for key in found[:_MOST_SHOWN])
            more = f" and {counted(len(found) - _MOST_SHOWN, 'other')}" if len(found) > _MOST_SHOWN else ""
            texts.append(
                f"{label} uses its weights otherwise than {labels[0]}, whose config.json the output has, by {named}"
                f"{more}: check that the two belong together"
            )
    return texts


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give the settings that decide, of the language model's part before those of the top."""
    found: dict[str, Any] = {}
    for _, part in language_parts(config):
        for key, value in part.items():
            if key in _ROPE:
                found |= dict(_rope(value if isinstance(value, dict) else {}))
            elif _DECIDES.search(key) and not (isinstance(value, dict) and key != "id2label"):
                found[key] = value
    return found


def _rope(value: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Give the settings of rotary positions one by one; where there are none, positions are plain."""
    if not any(isinstance(each, dict) for each in value.values()):
        yield f"{within}rope_type", value.get("rope_type", value.get("type", "default"))
    for key, each in value.items():
        if isinstance(each, dict):
            yield from _rope(each, f"{key}.")
        elif key not in ("rope_type", "type"):
            yield f"{within}{key}" if key.startswith("rope") else f"{within}rope {key}", each


def _alike(one: Any, other: Any) -> bool:
    """Whether two settings say the same, or are lists for models of other depths."""
    if isinstance(one, list) and isinstance(other, list) and len(one) != len(other):
        return True
    return bool(one == other)


def _depth(config: Mapping[str, Any]) -> int:
    return sum(1 for _ in language_parts(config))


def _brief(theirs: Any, ours: Any) -> str:
    """Write two values, if they are short."""
    if any(isinstance(value, (dict, list)) for value in (theirs, ours)):
        return "not alike"
    return f"{theirs} for {ours}"
