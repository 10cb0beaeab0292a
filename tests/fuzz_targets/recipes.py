"""Recipes of merges and mixtures, and the small files of the models that they name."""

from __future__ import annotations

import json
import random
from pathlib import Path

from dovetail.engine.output.side_files import expected_side_files
from dovetail.engine.planning.builder import make_plan
from dovetail.engine.recipe import load_recipe
from dovetail.engine.recipe.moe import load_moe_recipe
from tests.checkpoints import llama_tensors, write_checkpoint
from tests.engine.planning.vocabulary.samples import word_level
from tests.fuzz import Target
from tests.fuzz_targets.documents import CONFIG, dumped

CABS = {
    "merge_method": "cabs",
    "base_model": "base",
    "models": [
        {"model": "math", "parameters": {"weight": [0, 1], "n": 3}},
        {"model": "code", "parameters": {"weight": [{"filter": "mlp", "value": 1}, {"value": 0.5}]}},
    ],
    "parameters": {"n": 4, "m": 16, "overlap": "minimize", "consensus": "ties", "pruning_order": ["code", "math"]},
    "dtype": "bfloat16",
}
SLICED = {
    "merge_method": "linear",
    "slices": [
        {"sources": [{"model": "math", "layer_range": [0, 1]}, {"model": "code", "layer_range": [1, 2]}]},
        {"sources": [{"model": "code", "layer_range": [0, 2], "parameters": {"weight": 2}}]},
    ],
    "parameters": {"weight": 1, "normalize": True},
    "tokenizer_source": "base",
}
MODULES = {
    "merge_method": "task_arithmetic",
    "modules": {"default": {"models": [{"model": "math", "parameters": {"weight": 1}}], "base_model": "base"}},
    "base_model": "base",
    "out_dtype": "float32",
}
VOCABULARY = {
    "merge_method": "linear",
    "base_model": "base",
    "models": [{"model": name, "parameters": {"weight": 1}} for name in ("base", "math", "code")],
    "tokenizer": {
        "source": "union",
        "pad_to_multiple_of": 8,
        "tokens": {
            "any1": {"source": "math", "force": True},
            "new": {"source": {"kind": "model_token", "model": "base", "token_id": 3}},
            "none": {"source": {"kind": "zero"}},
        },
    },
    "chat_template": "auto",
}
MIXTURE = {
    "base_model": "base",
    "gate_mode": "cheap_embed",
    "dtype": "bfloat16",
    "experts_per_token": 2,
    "experts": [
        {"source_model": "math", "positive_prompts": ["any1 any2", "any3"], "negative_prompts": ["any6"]},
        {"source_model": "code", "positive_prompts": ["any4"]},
    ],
    "shared_experts": [{"source_model": "base", "positive_prompts": ["any7"], "residual_scale": 0.1}],
}
ADDED = {
    "id": 3, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
    "special": True,
}  # fmt: skip
SETTINGS = {
    "added_tokens_decoder": {"3": {"content": "<s>", "special": True, "lstrip": False}},
    "bos_token": "<s>",
    "additional_special_tokens": ["<s>", {"content": "any1"}],
    "chat_template": [{"name": "default", "template": "{{ 1 }}"}],
    "vocab_size": 97,
    "eos_token_id": [1, 2],
    "text_config": {"vocab_size": 97, "pad_token_id": 3},
}
BYTE_PAIRS = {
    "version": "1.0",
    "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
    "added_tokens": [ADDED],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Prepend", "prepend": "x"}]},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "model": {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "fuse_unk": False,
        "end_of_word_suffix": None, "vocab": {"a": 0, "b": 1, "ab": 2, "<s>": 3}, "merges": [["a", "b"]],
    },
}  # fmt: skip
PIECES = {
    "version": "1.0",
    "added_tokens": [],
    "pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always"},
    "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.5], ["_b", -2.0]]},
}  # fmt: skip
BLOCK_STYLE = b"""merge_method: cabs
base_model: &base base  # a comment
models:
  - {model: math, parameters: {<<: &p {weight: 1.0}, n: 4}}
  - model: "code"
    parameters: *p
parameters:
  m: 0x10
  n: 4
"""


def _write_models(home: Path) -> None:
    """Write a base model and two fine-tunes, one sharded, each with a tokenizer of its own."""
    base = llama_tensors(0)
    write_checkpoint(home / "base", base)
    write_checkpoint(home / "math", llama_tensors(1, base))
    write_checkpoint(home / "code", llama_tensors(2, base), shards=2)
    for name in ("base", "math", "code"):
        words = ["?", *(f"{name if number % 5 == 0 else 'any'}{number}" for number in range(96))]
        (home / name / "tokenizer.json").write_text(word_level(words))


def recipe_target(home: Path) -> Target:
    """Recipes by themselves."""
    path = home / "recipe.yml"

    def use(data: bytes, chance: random.Random) -> None:
        path.write_bytes(data)
        recipe = load_recipe(path)
        assert recipe.canonical_json() == load_recipe(recipe.canonical_json()).canonical_json()

    return Target("recipe", (*dumped(CABS, SLICED, MODULES), BLOCK_STYLE), use)


def plan_target(home: Path) -> Target:
    """Recipes that are planned for good checkpoints."""
    _write_models(home)
    path = home / "planned.yml"

    def use(data: bytes, chance: random.Random) -> None:
        path.write_bytes(data)
        make_plan(path)

    return Target("plan", (*dumped(CABS, SLICED, MODULES, VOCABULARY), BLOCK_STYLE), use)


def mixture_target(home: Path) -> Target:
    """Recipes of mixtures of experts, by themselves."""
    path = home / "mixture.yml"

    def use(data: bytes, chance: random.Random) -> None:
        path.write_bytes(data)
        load_moe_recipe(path)

    return Target("mixture", dumped(MIXTURE), use)


def vocabulary_target(home: Path) -> Target:
    """Good recipes with vocabularies that are planned for a model with any tokenizer and any settings of it."""
    _write_models(home)
    path, folder = home / "vocabulary.yml", home / "code"
    path.write_text(json.dumps(VOCABULARY))
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json", "added_tokens.json")
    before = {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}

    def use(data: bytes, chance: random.Random) -> None:
        name = "tokenizer.json" if b'"type"' in data else chance.choice(names[1:])
        try:
            (folder / name).write_bytes(data)
            make_plan(path)
        finally:
            (folder / name).unlink()
            if name in before:
                (folder / name).write_bytes(before[name])

    tokenizer = word_level(["?", "any1", "code"], added_tokens=[ADDED])
    return Target("tokenizer", (*dumped(SETTINGS, BYTE_PAIRS, PIECES), tokenizer.encode()), use)


def side_target(home: Path) -> Target:
    """Small files of the base model that an output takes over or changes, each in turn any of them."""
    _write_models(home)
    path, folder = home / "side.yml", home / "base"
    path.write_text(json.dumps(SLICED | {"tokenizer_source": "union"}))
    plain = home / "plain.yml"
    plain.write_text(json.dumps(CABS))
    names = ("config.json", "generation_config.json", "chat_template.jinja", "tokenizer_config.json", "README.md")
    before = {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}

    def use(data: bytes, chance: random.Random) -> None:
        name = chance.choice(names)
        try:
            (folder / name).write_bytes(data)
            expected_side_files(make_plan(chance.choice((path, plain))))
        finally:
            (folder / name).unlink()
            if name in before:
                (folder / name).write_bytes(before[name])

    generation = {
        "eos_token_id": [1, 2],
        "pad_token_id": 3,
        "bos_token_id": 1,
        "suppress_tokens": [7],
        "max_length": 20,
    }
    deep = {"text_config": {"num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"]}}
    return Target("side files", dumped(generation, SETTINGS, CONFIG, CONFIG | deep, SETTINGS | deep), use)
