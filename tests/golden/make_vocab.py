"""Makes the golden files of vocabularies: small models of different tokenizers, merged by mergekit itself.

    python tests/golden/make_vocab.py MERGEKIT_PYTHON

MERGEKIT_PYTHON is the interpreter of an environment with mergekit 0.1.5. Models, recipes and what mergekit made of them
are written to ``tests/golden/vocab``. mergekit takes models and the tokens that a union adds in another order each
time. That of models is made to be the recipe's; outputs are kept by token, not by number.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

GOLDEN = Path(__file__).parent / "vocab"
HIDDEN = 8

TEXTS = {
    "base": "the cat sat on the mat and the dog sat on the log",
    "math": "the sum of the squares is the square of the sum, one two three, the cat",
    "code": "def main(): return the value of the sum, import numpy, while true",
    "verse": "the rose is red, the violet is blue, the sum of the two is the sky",
}
WEIGHTS = {"base": 1.0, "math": 0.5, "code": 0.25, "verse": 2.0}

SENTENCES = (
    *TEXTS.values(),
    "<s>the theorem of the<|im_start|>cat<|im_end|> <tool>lambda: <new> sum</s>",
)
"""What the outputs' tokenizers are given to read."""

RECIPES: dict[str, dict[str, Any]] = {
    "base": {"tokenizer_source": "base"},
    "union": {"tokenizer_source": "union"},
    "model": {"tokenizer_source": "math"},
    "union_without_base": {"tokenizer_source": "union", "base_model": None},
    "task_vectors": {"tokenizer_source": "union", "merge_method": "task_arithmetic"},
    "tokens": {
        "tokenizer": {
            "source": "union",
            "tokens": {
                "<|im_start|>": {"source": "math"},
                "<|im_end|>": {"source": {"kind": "model_token", "model": "math", "token": "</s>"}, "force": True},
                "<new>": {"source": {"kind": "model_token", "model": "code", "token_id": 7}},
                "<none>": {"source": {"kind": "zero"}},
                "the": {"source": "base", "force": True},
                "<tool>": {"source": {"kind": "zero"}, "force": True},
            },
        }
    },
    "unigram": {"tokenizer_source": "union", "base_model": "verse", "models": ["verse", "math"]},
    "unigram_last": {"tokenizer_source": "union", "models": ["code", "verse"], "base_model": None},
    "unigram_donor": {"tokenizer_source": "verse", "models": ["math", "verse", "code"], "base_model": "math"},
    "padded": {"tokenizer": {"source": "base", "pad_to_multiple_of": 32}},
    "padded_union": {"tokenizer": {"source": "union", "pad_to_multiple_of": 64}},
}
"""What the recipes say beside the common part."""


def tokenizer(name: str) -> Tokenizer:
    """Make a small byte-level tokenizer, without the bytes that its texts lack, to keep files small."""
    if name == "verse":
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        made.train_from_iterator(
            [TEXTS[name]] * 2,
            trainers.UnigramTrainer(
                vocab_size=60, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
            ),
        )
        return made
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=64 + len(name), special_tokens=["<s>", "</s>", "<unk>"], show_progress=False, min_frequency=1
    )
    made.train_from_iterator([TEXTS[name]] * 2, trainer)
    if name == "math":
        made.add_special_tokens(["<|im_start|>", "<|im_end|>"])
        made.add_tokens([AddedToken("theorem", lstrip=True, normalized=True)])
    if name == "code":
        made.add_special_tokens(["<|im_end|>", "<tool>"])
        made.add_tokens([AddedToken("theorem", rstrip=True), "lambda"])
    return made


def make_model(folder: Path, seed: int) -> None:
    """Make a tiny Llama with its tokenizer: the base model has padding rows and a token beyond its embeddings."""
    folder.mkdir(parents=True)
    made, random = tokenizer(folder.name), np.random.default_rng(seed)
    size = made.get_vocab_size()
    if folder.name == "base":
        made.add_special_tokens(["<pad>"])
    rows = size + {"math": 5}.get(folder.name, 0)
    made.save(str(folder / "tokenizer.json"), pretty=False)
    shapes = {
        "model.embed_tokens.weight": (rows, HIDDEN),
        "model.layers.0.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        "model.layers.0.self_attn.k_proj.weight": (HIDDEN, HIDDEN),
        "model.layers.0.self_attn.v_proj.weight": (HIDDEN, HIDDEN),
        "model.layers.0.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
        "model.layers.0.mlp.gate_proj.weight": (16, HIDDEN),
        "model.layers.0.mlp.up_proj.weight": (16, HIDDEN),
        "model.layers.0.mlp.down_proj.weight": (HIDDEN, 16),
        "model.layers.0.input_layernorm.weight": (HIDDEN,),
        "model.layers.0.post_attention_layernorm.weight": (HIDDEN,),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (rows, HIDDEN),
    }
    tensors = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    numbers = made.get_vocab()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": rows,
        "hidden_size": HIDDEN,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
        "bos_token_id": numbers["<s>"],
        "eos_token_id": numbers["<|im_end|>" if folder.name == "math" else "</s>"],
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "<|im_end|>" if folder.name == "math" else "</s>",
        "unk_token": "<unk>",
    } | ({"pad_token": "<pad>"} if folder.name == "base" else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def recipe(changes: dict[str, Any]) -> dict[str, Any]:
    """Write a whole recipe: linear, in float32, weights that tell the models apart."""
    common: dict[str, Any] = {
        "merge_method": "linear",
        "base_model": "base",
        "models": ["base", "math", "code"],
        "dtype": "float32",
    }
    if changes.get("merge_method") == "task_arithmetic":
        common["models"] = common["models"][1:]
    content = {key: value for key, value in (common | changes).items() if value is not None}
    content["models"] = [{"model": name, "parameters": {"weight": WEIGHTS[name]}} for name in content["models"]]
    return content


def merge(python: str, home: Path, name: str, content: dict[str, Any]) -> None:
    """Let mergekit merge, and keep its embeddings by token."""
    (home / f"{name}.yml").write_text(yaml.safe_dump(content, sort_keys=False))
    code = (
        "import sys, yaml; from mergekit.config import MergeConfiguration as C; from mergekit.merge import *\n"
        "found = C.referenced_models\n"
        "C.referenced_models = lambda self: sorted(found(self), key=lambda model: ORDER.index(str(model)))\n"
        "run_merge(C.model_validate(yaml.safe_load(open(sys.argv[1]))), sys.argv[2], "
        "MergeOptions(quiet=True, write_model_card=False))"
    )
    code = f"ORDER = {list(TEXTS)!r}\n{code}"
    subprocess.run([python, "-c", code, f"{name}.yml", f"out-{name}"], cwd=home, check=True)
    out = home / f"out-{name}"
    tensors = {}
    for file in sorted(out.glob("*.safetensors")):
        tensors |= load_file(file)
    vocab = Tokenizer.from_file(str(out / "tokenizer.json"))
    numbers = vocab.get_vocab()
    tokens = sorted(numbers)
    order = [numbers[token] for token in tokens]
    added = {token.content: token.special for token in vocab.get_added_tokens_decoder().values()}
    rows = {key: tensors[key] for key in ("model.embed_tokens.weight", "lm_head.weight")}
    kept = {key: np.ascontiguousarray(value[order]) for key, value in rows.items()}
    kept |= {f"{key}.padding": np.ascontiguousarray(value[len(order) :]) for key, value in rows.items()}
    save_file(kept, GOLDEN / f"{name}.safetensors")
    said = {
        "recipe": content,
        "encoded": {text: vocab.encode(text).tokens for text in SENTENCES},
        "tokens": tokens,
        "numbers": [numbers[token] for token in tokens],
        "added": dict(sorted(added.items())),
        "vocab_size": json.loads((out / "config.json").read_text())["vocab_size"],
    }
    (GOLDEN / f"{name}.json").write_text(json.dumps(said, ensure_ascii=False, separators=(",", ":")) + "\n")


def main() -> None:
    """Make everything anew."""
    shutil.rmtree(GOLDEN, ignore_errors=True)
    GOLDEN.mkdir()
    for seed, name in enumerate(TEXTS):
        make_model(GOLDEN / "models" / name, seed)
    for name, changes in RECIPES.items():
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(GOLDEN / "models", folder, dirs_exist_ok=True)
            merge(sys.argv[1], Path(folder), name, recipe(changes))


if __name__ == "__main__":
    main()
