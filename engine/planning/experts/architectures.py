"""The mixtures of experts that can be made: from which models, under which names, and with which configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dovetail.engine.errors import RecipeError

Config = dict[str, Any]

_DENSE: Final[Mapping[str, Config]] = {
    "llama": {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6},
    "mistral": {
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "num_key_value_heads": 8, "sliding_window": 4096
    },
    "qwen2": {
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "num_key_value_heads": 32, "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "qwen3": {
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "num_key_value_heads": 32, "sliding_window": 4096,
        "max_window_layers": 28, "head_dim": 128,
    },
}  # fmt: skip
"""What a configuration that leaves a key out means, where the mixture's configuration means something else by that."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """One kind of mixture."""

    name: str
    """Its name, of which recipes may give the beginning."""
    sources: tuple[str, ...]
    """``model_type`` of the models that it can be made of."""
    mlp: str
    """What the feed-forward module is called in a layer."""
    parts: Mapping[str, str]
    """What an expert calls its matrices, by the dense model's names."""
    shared: bool
    """Whether it has one shared expert, or else none."""
    biases: str
    """Which of the attention's projections may have biases, by their letters: q, k, v and o."""
    fills_biases: bool
    """Whether queries, keys and values must have biases, which are zero where the models have none."""
    configure: Callable[[Config, int, int], Config]
    """Gives what is set in the configuration, of the dense one, the number of experts and that of each token."""

    def gate(self, layer: str) -> str:
        """Give the name of the router's weight in a layer such as ``model.layers.0``."""
        return f"{layer}.{self.mlp}.gate.weight"

    def expert(self, layer: str, expert: int, part: str) -> str:
        """Give the name of an expert's matrix, by the dense model's name of it, such as ``up_proj``."""
        return f"{layer}.{self.mlp}.experts.{expert}.{self.parts[part]}.weight"

    def shared_gate(self, layer: str) -> str:
        """Give the name of the weight that says how much the shared expert counts."""
        return f"{layer}.{self.mlp}.shared_expert_gate.weight"

    def shared_expert(self, layer: str, part: str) -> str:
        """Give the name of the shared expert's matrix."""
        return f"{layer}.{self.mlp}.shared_expert.{part}.weight"


def _mixtral(config: Config, experts: int, per_token: int) -> Config:
    windows = _windows(config)
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": experts,
        "num_experts_per_tok": per_token,
        "sliding_window": config["sliding_window"] if any(windows) else None,
    }


def _qwen2(config: Config, experts: int, per_token: int) -> Config:
    windows = _windows(config)
    return {
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        "shared_expert_intermediate_size": config.get("intermediate_size"),
        "sliding_window": config["sliding_window"] if any(windows) else None,
        "use_sliding_window": any(windows),
        # Without this list, Qwen2-MoE has its windows in other layers than Qwen2.
        "layer_types": ["sliding_attention" if each else "full_attention" for each in windows],
        **_qwen(config, experts, per_token),
    }


def _qwen3(config: Config, experts: int, per_token: int) -> Config:
    windows = _windows(config)
    if any(windows) and not all(windows):
        raise RecipeError(
            f"a sliding window of {config['sliding_window']} tokens in {sum(windows)} of {len(windows)} layers",
            "one in all layers or in none, as in Qwen3-MoE",
            "set use_sliding_window to false in the base model's config.json, if it computes the same without",
        )
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "sliding_window": config["sliding_window"] if any(windows) else None,
        "use_sliding_window": any(windows),
        "layer_types": None,
        **_qwen(config, experts, per_token),
    }


def _windows(config: Config) -> list[bool]:
    """Tell for each layer of a dense model whether its attention is confined to a sliding window."""
    kind, layers = config.get("model_type"), int(config.get("num_hidden_layers") or 0)
    if kind == "llama" or not config.get("sliding_window"):
        return [False] * layers
    if kind == "mistral":
        return [True] * layers
    if not config.get("use_sliding_window"):
        return [False] * layers
    named = config.get("layer_types")
    if isinstance(named, list) and len(named) == layers:
        return [each == "sliding_attention" for each in named]
    return [layer >= config["max_window_layers"] for layer in range(layers)]


def _qwen(config: Config, experts: int, per_token: int) -> Config:
    return {
        "num_experts": experts,
        "num_experts_per_tok": per_token,
        "moe_intermediate_size": config.get("intermediate_size"),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
    }


_SAME: Final = {part: part for part in ("gate_proj", "up_proj", "down_proj")}

ARCHITECTURES: Final = (
    Architecture(
        name="Mixtral",
        sources=("llama", "mistral"),
        mlp="block_sparse_moe",
        parts={"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"},
        shared=False,
        biases="",
        fills_biases=False,
        configure=_mixtral,
    ),
    Architecture(
        name="Qwen MoE",
        sources=("qwen2", "llama", "mistral"),
        mlp="mlp",
        parts=_SAME,
        shared=True,
        biases="qkv",
        fills_biases=True,
        configure=_qwen2,
    ),
    Architecture(
        name="Qwen3 MoE",
        sources=("qwen3",),
        mlp="mlp",
        parts=_SAME,
        shared=False,
        biases="qkvo",
        fills_biases=False,
        configure=_qwen3,
    ),
)
"""Every kind, the one that mergekit prefers first."""


def moe_config(architecture: Architecture, config: Config, experts: int, per_token: int) -> Config:
    """Give the config.json of a mixture.

    Parameters
    ----------
    architecture
        What is made.
    config
        The base model's config.json.
    experts, per_token
        How many experts there are, and how many each token is sent to.

    Raises
    ------
    RecipeError
        The mixture cannot have what the base model's configuration says.

    """
    made = {**_DENSE.get(str(config.get("model_type")), {}), **config}
    made.setdefault("num_key_value_heads", config.get("num_attention_heads"))
    if "rope_parameters" not in made:
        made.setdefault("rope_theta", 10000.0)
    for key in ("auto_map", "pretraining_tp", "mlp_bias"):
        made.pop(key, None)
    return made | architecture.configure(made, experts, per_token)
