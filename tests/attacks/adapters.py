"""Adapters that break a rule each, or do not fit their model, and what must be said about them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.io.errors import AdapterError, CheckpointError, HeaderError, IndexFileError, UnsupportedError
from dovetail.io.errors import MissingFileError as Missing

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

MODEL = {
    "model.layers.0.q.weight": (6, 4),
    "model.layers.0.q.bias": (6,),
    "model.layers.0.square.weight": (4, 4),
    "model.layers.0.norm.weight": (4,),
    "model.layers.0.ids.weight": (6, 4),
    "model.embed.weight": (9, 4),
    "vision.layers.0.k.weight": (6, 4),
    "text.layers.0.k.weight": (6, 4),
}
"""Shapes of the model that they are applied to; ``ids`` holds integers."""

Q = "model.layers.0.q"


def zeros(**shapes: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """Make the parts of the module `Q`; two underscores stand for a dot."""
    return {f"{Q}.{part.replace('__', '.')}": np.zeros(shape, np.float32) for part, shape in shapes.items()}


def lora(module: str = Q, rank: int = 2, rows: int = 6, columns: int = 4) -> dict[str, NDArray[Any]]:
    """Make the two factors of a module."""
    return {
        f"{module}.lora_A.weight": np.zeros((rank, columns), np.float32),
        f"{module}.lora_B.weight": np.zeros((rows, rank), np.float32),
    }


@dataclass(frozen=True, slots=True)
class AdapterAttack:
    """One hostile adapter."""

    id: str
    """What is wrong with it, in a word or two."""
    text: str
    """Part of the error's text."""
    tensors: Mapping[str, NDArray[Any]] = field(default_factory=lora)
    """Its tensors, without the prefix of peft."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What its configuration says besides the usual."""
    error: type[CheckpointError] = AdapterError
    """The error."""
    build: Callable[[Path], object] | None = None
    """What is done to the folder afterwards."""


def _config(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / CONFIG).write_bytes(content)


def _instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return build


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def _outside(path: Path) -> None:
    path.symlink_to(f"../secret{path.suffix}")


def _settings(**settings: Any) -> dict[str, Any]:
    return settings


def _pattern(key: str) -> dict[str, Any]:
    return _settings(alpha_pattern={key: 1})


FILE_ATTACKS = (
    AdapterAttack("no configuration", "is not in", error=Missing, build=lambda folder: (folder / CONFIG).unlink()),
    AdapterAttack("no tensors' file", "has no adapter_model", error=Missing, build=lambda f: (f / WEIGHTS).unlink()),
    AdapterAttack("configuration is a list", "is a JSON array; expected a JSON object", build=_config(b"[]")),
    AdapterAttack("configuration is null", "is a JSON null", build=_config(b"null")),
    AdapterAttack("configuration is no JSON", "is not JSON", build=_config(b"{'r': 1}")),
    AdapterAttack("configuration is not UTF-8", "is not UTF-8", build=_config(b'{"r": "\xff"}')),
    AdapterAttack("a name twice", "has the name 'r' twice", build=_config(b'{"r": 1, "r": 2}')),
    AdapterAttack("NaN", "is no JSON number", build=_config(b'{"lora_alpha": NaN}')),
    AdapterAttack("nested", "is nested too deeply", build=_config(b'{"r": ' + b"[" * 100_000)),
    AdapterAttack("configuration of a terabyte", "is larger than 16777216 bytes", build=_instead(CONFIG, _sparse)),
    AdapterAttack("configuration is a pipe", "(not a regular", error=Missing, build=_instead(CONFIG, os.mkfifo)),
    AdapterAttack("configuration is a folder", "(", error=Missing, build=_instead(CONFIG, os.mkdir)),
    AdapterAttack("configuration elsewhere", "leads outside", error=IndexFileError, build=_instead(CONFIG, _outside)),
    AdapterAttack("tensors elsewhere", "leads outside", error=IndexFileError, build=_instead(WEIGHTS, _outside)),
    AdapterAttack("tensors are a pipe", "is not a regular", error=HeaderError, build=_instead(WEIGHTS, os.mkfifo)),
    AdapterAttack("tensors of a terabyte", "is not JSON", error=HeaderError, build=_instead(WEIGHTS, _sparse)),
    AdapterAttack(
        "no pickle",
        "adapter_model.bin is not a zip archive",
        error=UnsupportedError,
        build=lambda folder: (folder / WEIGHTS).rename(folder / "adapter_model.bin"),
    ),
)
"""Files that are not what they should be."""

_ADALORA = {"peft_type": "ADALORA", "init_r": 2}

SETTING_ATTACKS = (
    AdapterAttack("no kind", "peft_type in ", settings={"peft_type": None}),
    AdapterAttack("kind is a list", "peft_type in ", settings={"peft_type": ["LORA"]}),
    AdapterAttack("unknown kind", "of kind 'EVIL'", settings={"peft_type": "EVIL"}, error=UnsupportedError),
    AdapterAttack("vera", "merge_and_unload() of peft", settings={"peft_type": "VERA"}, error=UnsupportedError),
    AdapterAttack("kept ranks are a list", "rank_pattern in ", settings=_ADALORA | {"rank_pattern": [True]}),
    AdapterAttack("kept ranks are numbers", "a list of true and false", settings=_ADALORA | {"rank_pattern": {Q: [2]}}),
    AdapterAttack("kept ranks are one", "a list of true and false", settings=_ADALORA | {"rank_pattern": {Q: True}}),
    AdapterAttack("first rank of adalora", "init_r in ", settings=_ADALORA | {"init_r": -1}),
    AdapterAttack("a pattern of ranks", "a key of rank_pattern", error=UnsupportedError,
                  settings={"peft_type": "LOKR", "alpha": 1, "rank_pattern": {"(?=q)": 1}}),
    AdapterAttack("version is a number", "peft_version in ", settings={"peft_version": 1}),
    AdapterAttack("parameters are a text", "target_parameters in ", settings={"target_parameters": "w"}),
    AdapterAttack("parameters of another kind", "sets 'target_p", error=UnsupportedError,
                  settings={"peft_type": "LOHA", "alpha": 1, "target_parameters": ["w"]}),
    AdapterAttack(
        "prompts", "changes no weights", settings={"peft_type": "PROMPT_TUNING"}, error=UnsupportedError
    ),
    AdapterAttack("rank of 2^31", "is 2147483648; expected a rank from 1", settings={"r": 2**31}),
    AdapterAttack("rank 0", "is 0; expected a rank", settings={"r": 0}),
    AdapterAttack("negative rank", "is -1; expected a rank", settings={"r": -1}),
    AdapterAttack("rank is a text", "is '2'; expected a rank", settings={"r": "2"}),
    AdapterAttack("rank is true", "is True; expected a rank", settings={"r": True}),
    AdapterAttack("rank in a pattern", "rank_pattern in ", settings={"rank_pattern": {"q": 0}}),
    AdapterAttack("pattern is a list", "rank_pattern in ", settings={"rank_pattern": ["q"]}),
    AdapterAttack("alpha is a text", "lora_alpha in ", settings={"lora_alpha": "16"}),
    AdapterAttack("alpha is huge", "lora_alpha in ", settings={"lora_alpha": 1e300}),
    AdapterAttack("alpha has 400 digits", "lora_alpha in ", settings={"lora_alpha": 10**400}),
    AdapterAttack("switch is a text", "use_rslora in ", settings={"use_rslora": "false"}),
    AdapterAttack("base is a number", "base_model_name_or_path in ", settings={"base_model_name_or_path": 3}),
    AdapterAttack("a backreference", "is not understood", settings=_pattern(r"(q)\1"), error=UnsupportedError),
    AdapterAttack("a look-ahead", "a key of alpha_pattern", settings=_pattern("(?=q)"), error=UnsupportedError),
    AdapterAttack("pissa", "own weights", settings={"init_lora_weights": "pissa_niter_4"}, error=UnsupportedError),
    AdapterAttack("olora", "own weights were changed", settings={"init_lora_weights": "olora"}, error=UnsupportedError),
    AdapterAttack("initialisation is a list", "init_lora_weights in ", settings={"init_lora_weights": []}),
    AdapterAttack("more layers", "sets 'layer_rep", settings={"layer_replication": [[0, 4]]}, error=UnsupportedError),
    AdapterAttack("activated", "'alora_inv", settings={"alora_invocation_tokens": [1]}, error=UnsupportedError),
    AdapterAttack("quantised base", "'use_qalora'", settings={"use_qalora": True}, error=UnsupportedError),
    AdapterAttack("a variant of tomorrow", "'use_magic'", settings={"use_magic": True}, error=UnsupportedError),
    AdapterAttack("megatron", "sets 'megatron_config'", settings={"megatron_config": {"a": 1}}, error=UnsupportedError),
    AdapterAttack("saved is a text", "modules_to_save in ", settings={"modules_to_save": "lm_head"}),
    AdapterAttack("token is a text", "token_indices in ", settings={"trainable_token_indices": ["a"]}),
    AdapterAttack("token below 0", "token_indices in ", settings={"trainable_token_indices": [-1]}),
    AdapterAttack("token twice", "every row once", settings={"trainable_token_indices": [1, 1]}),
)  # fmt: skip
"""Configurations that say what cannot be, or what cannot be applied."""

_TOKEN = {"model.embed.token_adapter.trainable_tokens_delta": np.zeros((1, 4), np.float32)}
_AB = {**lora(), f"{Q}.lora_A.other.weight": np.zeros((2, 4), np.float32)}
_INTEGERS = {key: each.astype(np.int32) for key, each in lora().items()}

_LOKR = {"peft_type": "LOKR", "alpha": 1}

TENSOR_ATTACKS = (
    AdapterAttack("nothing", "has no tensors", tensors={}),
    AdapterAttack("only A", "has parts A; expected", tensors=zeros(lora_A__weight=(2, 4))),
    AdapterAttack("only B", "has parts B; expected", tensors=zeros(lora_B__weight=(6, 2))),
    AdapterAttack("A twice", "is the second A of its module", tensors=_AB),
    AdapterAttack(
        "two adapters",
        "holds several adapters (a, b)",
        tensors=zeros(lora_A__a__weight=(2, 4), lora_B__b__weight=(6, 2)),
    ),
    AdapterAttack("no module", "has no module", tensors={"lora_A.weight": np.zeros((2, 4), np.float32)}),
    AdapterAttack("ranks disagree", "shapes that fit", tensors=zeros(lora_A__weight=(3, 4), lora_B__weight=(6, 2))),
    AdapterAttack("rank not said", "has rank 3; expected rank 2", tensors=lora(rank=3)),
    AdapterAttack("rank 0 in tensors", "is empty; expected at least one", tensors=lora(rank=0)),
    AdapterAttack("too few rows", "shapes that fit one another", tensors=lora(rows=5)),
    AdapterAttack("too many columns", "shapes that fit one another", tensors=lora(columns=5)),
    AdapterAttack("a vector", "shapes that fit", tensors=zeros(lora_A__weight=(8,), lora_B__weight=(12,))),
    AdapterAttack(
        "five dimensions", "shapes that fit", tensors=zeros(lora_A__weight=(2, 4, 1, 1, 1), lora_B__weight=(6, 2))
    ),
    AdapterAttack("integers", "has dtype int32; expected a floating", tensors=_INTEGERS),
    AdapterAttack("on integers", "has dtype int32; expected a floating", tensors=lora("model.layers.0.ids")),
    AdapterAttack("on a vector", "shapes that fit one another", tensors=lora("model.layers.0.norm")),
    AdapterAttack("no such module", "does not have; expected a tensor of the model", tensors=lora("model.layers.0.v")),
    AdapterAttack("no such layer", "does not have", tensors=lora("model.layers.1.q")),
    AdapterAttack("either of two", "which could be", tensors=lora("layers.0.k")),
    AdapterAttack("the same under two names", "under two names", tensors=lora() | lora("layers.0.q")),
    AdapterAttack("a tied head", "'lm_head' otherwise than the embedding", tensors=lora("lm_head")),
    AdapterAttack("strange part", "is not understood", tensors=lora() | zeros(lora_C=(1,)), error=UnsupportedError),
    AdapterAttack("vera's own", "is not understood", tensors=zeros(vera_lambda_b=(2,)), error=UnsupportedError),
    AdapterAttack("lokr in a lora", "those of one kind", tensors=zeros(lokr_w1=(2, 2), lokr_w2=(3, 2))),
    AdapterAttack("lokr without its other half", "those of one kind", tensors=zeros(lokr_w1=(2, 2)), settings=_LOKR),
    AdapterAttack(
        "lokr with both", "those of one kind", settings=_LOKR,
        tensors=zeros(lokr_w1=(2, 2), lokr_w2=(3, 2), lokr_w2_a=(3, 2), lokr_w2_b=(2, 2)),
    ),
    AdapterAttack("lokr too wide", "and rank 2", tensors=zeros(lokr_w1=(2, 2), lokr_w2=(3, 3)), settings=_LOKR),
    AdapterAttack("lokr of vectors", "and rank 2", tensors=zeros(lokr_w1=(4,), lokr_w2=(6,)), settings=_LOKR),
    AdapterAttack("lokr of many", "and rank 2", tensors=zeros(lokr_w1=(2, 2), lokr_w2=(3, 2, 1, 1, 1)), settings=_LOKR),
    AdapterAttack(
        "lokr of one dimension", "one-dimensional convolution", settings=_LOKR, error=UnsupportedError,
        tensors=zeros(lokr_w1=(2, 2), lokr_w2=(3, 2, 1)),
    ),
    AdapterAttack(
        "lokr of another rank", "and rank 2", settings=_LOKR,
        tensors=zeros(lokr_w1=(2, 2), lokr_w2_a=(3, 1), lokr_w2_b=(1, 2)),
    ),
    AdapterAttack(
        "lokr with a strange core", "and rank 2", settings=_LOKR,
        tensors=zeros(lokr_w1=(2, 2), lokr_w2_a=(2, 3), lokr_w2_b=(2, 2), lokr_t2=(2, 2, 2, 1)),
    ),
    AdapterAttack("lokr of nothing", "is empty", tensors=zeros(lokr_w1=(0, 2), lokr_w2=(3, 2)), settings=_LOKR),
    AdapterAttack("lokr on a vector", "and rank 2", settings=_LOKR,
                  tensors={"model.layers.0.norm.lokr_w1": np.zeros((2, 1), np.float32),
                           "model.layers.0.norm.lokr_w2": np.zeros((2, 1), np.float32)}),
    AdapterAttack("adalora without singular values", "those of one kind", settings=_ADALORA),
    AdapterAttack(
        "adalora of other ranks", "shapes that fit", settings=_ADALORA, tensors=lora() | zeros(lora_E=(3, 1)),
    ),
    AdapterAttack(
        "adalora with a flat vector", "shapes that fit", settings=_ADALORA, tensors=lora() | zeros(lora_E=(2,)),
    ),
    AdapterAttack(
        "adalora that kept less", "rank 1, as its rank_pattern says", tensors=lora() | zeros(lora_E=(2, 1)),
        settings=_ADALORA | {"rank_pattern": {f"{Q}.lora_E": [True, False]}},
    ),
    AdapterAttack(
        "adalora of nothing", "is empty", settings=_ADALORA, tensors=lora(rank=0) | zeros(lora_E=(0, 1)),
    ),
    AdapterAttack("singular values in a lora", "those of one kind", tensors=lora() | zeros(lora_E=(2, 1))),
    AdapterAttack("of another kind", "those of one kind", tensors=zeros(ia3_l=(6, 1))),
    AdapterAttack("bias of another shape", "a bias of the model", tensors=lora() | zeros(lora_B__bias=(5,))),
    AdapterAttack(
        "bias for none",
        "a bias of the model",
        tensors=lora("text.layers.0.k") | {"text.layers.0.k.lora_B.bias": np.zeros(6, np.float32)},
    ),
    AdapterAttack("magnitudes unasked", "has a magnitude vector", tensors=lora() | zeros(lora_magnitude_vector=(6,))),
    AdapterAttack("magnitudes missing", "has no magnitude vector", settings={"use_dora": True}),
    AdapterAttack(
        "too few magnitudes",
        "6 magnitudes",
        tensors=lora() | zeros(lora_magnitude_vector=(4,)),
        settings={"use_dora": True},
    ),
    AdapterAttack("other columns", "replaces tensor", tensors={"model.embed.weight": np.zeros((9, 5), np.float32)}),
    AdapterAttack("other dimensions", "replaces tensor", tensors={"model.embed.weight": np.zeros(9, np.float32)}),
    AdapterAttack("other dtype", "replaces tensor", tensors={"model.embed.weight": np.zeros((9, 4), np.int64)}),
    AdapterAttack("whole, twice", "twice", tensors=zeros(weight=(6, 4), base_layer__weight=(6, 4))),
    AdapterAttack(
        "square either way",
        "can be stored either way",
        tensors=lora("model.layers.0.square", rows=4) | lora() | lora("text.layers.0.k", rows=4, columns=6),
        error=UnsupportedError,
    ),
    AdapterAttack(
        "tokens beyond",
        "is number 9; expected less than the 9",
        tensors=_TOKEN,
        settings={"trainable_token_indices": {"embed": [9]}},
    ),
    AdapterAttack("tokens unsaid", "one row of", tensors=_TOKEN),
    AdapterAttack("fewer tokens", "one row of", tensors=_TOKEN, settings={"trainable_token_indices": [1, 2]}),
    AdapterAttack(
        "ia3 of one", "expected a linear module", tensors=zeros(ia3_l=(1, 1)), settings={"peft_type": "IA3"},
        error=UnsupportedError,
    ),
    AdapterAttack(
        "ia3 that does not fit", "shapes that fit", tensors=zeros(ia3_l=(5, 1)), settings={"peft_type": "IA3"}
    ),
    AdapterAttack(
        "loha that does not fit", "shapes that fit", settings={"peft_type": "LOHA", "alpha": 1},
        tensors=zeros(hada_w1_a=(6, 2), hada_w1_b=(2, 5), hada_w2_a=(6, 2), hada_w2_b=(2, 4)),
    ),
)  # fmt: skip
"""Tensors that do not fit one another, the configuration or the model."""

ADAPTER_ATTACKS = FILE_ATTACKS + SETTING_ATTACKS + TENSOR_ATTACKS


def write_attack(attack: AdapterAttack, folder: Path) -> None:
    """Write the adapter, beside which files called ``secret`` lie."""
    from tests.adapters import write_adapter

    settings = {"r": 2, "lora_alpha": 2, **attack.settings}
    write_adapter(folder, attack.tensors, **settings)
    (folder.parent / "secret.json").write_text(json.dumps({"peft_type": "LORA"}))
    (folder.parent / "secret.safetensors").write_bytes((folder / WEIGHTS).read_bytes())
    if attack.build is not None:
        attack.build(folder)
