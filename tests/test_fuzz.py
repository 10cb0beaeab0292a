"""Thousands of damaged and hostile inputs: success or an error of our tree comes of each, soon, and in little memory.

Together these are more than 10,000 inputs, through the functions that everything else goes through.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dovetail.engine.planning.builder import make_plan
from dovetail.engine.recipe import load_recipe
from dovetail.io.opening import read_checkpoint
from tests import fuzz
from tests.checkpoints import llama_tensors, write_checkpoint
from tests.engine.planning.vocabulary.samples import word_level
from tests.io.zarr.test_document import SHARDS, V2, V3

MOST_GROWTH_BYTES = 100 * 2**20
"""Most memory that a campaign may take beyond what the process held."""

HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "BF16", "shape": [2, 4], "data_offsets": [8, 24]},
    "c.scales": {"dtype": "I64", "shape": [0, 3], "data_offsets": [24, 24]},
}
INDEX = {"metadata": {"total_size": 16}, "weight_map": {"v": "a.safetensors", "w": "b.safetensors"}}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "torch_dtype": "bfloat16",
    "text_config": {"quantization_config": None},
}
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
UNLIKE = {
    "merge_method": "cabs",
    "base_model": "base",
    "models": [{"model": "unlike.safetensors", "parameters": {"weight": 1, "n": 4, "m": 16}}],
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


def _dumped(*documents: Any) -> tuple[bytes, ...]:
    return tuple(json.dumps(document).encode() for document in documents)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a base model and two fine-tunes, one sharded."""
    folder = tmp_path_factory.mktemp("fuzz")
    base = llama_tensors(0)
    write_checkpoint(folder / "base", base)
    write_checkpoint(folder / "math", llama_tensors(1, base))
    write_checkpoint(folder / "code", llama_tensors(2, base), shards=2)
    for name in ("base", "math", "code"):
        words = ["?", *(f"{name if number % 5 == 0 else 'any'}{number}" for number in range(96))]
        (folder / name / "tokenizer.json").write_text(word_level(words))
    return folder


def header_target(home: Path) -> fuzz.Target:
    """Files with a header: claims about lengths are now and then wrong too."""
    path = home / "header.safetensors"

    def use(body: bytes, chance: random.Random) -> None:
        length = len(body) if chance.random() < 0.9 else chance.choice((0, 8, len(body) + 9, 10**8, 2**63, 2**64 - 1))
        data = bytes(24 if chance.random() < 0.9 else chance.randrange(40))
        path.write_bytes(length.to_bytes(8, "little") + body + data)
        read = read_checkpoint(path)
        assert path.stat().st_size - 8 - length == read.nbytes, "tensors do not cover the file"

    return fuzz.Target("header", _dumped(HEADER, {}, {"w": HEADER["a"] | {"shape": [2, 1, 1]}}), use)


def index_target(home: Path) -> fuzz.Target:
    """Indexes beside two shards and a pickle."""
    folder = home / "indexed"
    for name, tensor in (("a", "v"), ("b", "w")):
        write_checkpoint(folder / name, {tensor: llama_tensors(0)["model.norm.weight"]})
        (folder / name / "model.safetensors").rename(folder / f"{name}.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02cposix\nsystem\n")

    def use(data: bytes, chance: random.Random) -> None:
        (folder / "model.safetensors.index.json").write_bytes(data)
        read_checkpoint(folder)

    return fuzz.Target("index", _dumped(INDEX, {"weight_map": {"v": "a.safetensors"}}), use)


def config_target(home: Path) -> fuzz.Target:
    """Configurations beside good weights."""
    folder = write_checkpoint(home / "configured", llama_tensors(0))

    def use(data: bytes, chance: random.Random) -> None:
        (folder / "config.json").write_bytes(data)
        read_checkpoint(folder)

    return fuzz.Target("config", _dumped(CONFIG), use)


def recipe_target(home: Path) -> fuzz.Target:
    """Recipes by themselves."""
    path = home / "recipe.yml"

    def use(data: bytes, chance: random.Random) -> None:
        path.write_bytes(data)
        recipe = load_recipe(path)
        assert recipe.canonical_json() == load_recipe(recipe.canonical_json()).canonical_json()

    return fuzz.Target("recipe", (*_dumped(CABS, SLICED, MODULES), BLOCK_STYLE), use)


def plan_target(home: Path) -> fuzz.Target:
    """Recipes that are planned for good checkpoints."""
    path = home / "planned.yml"

    def use(data: bytes, chance: random.Random) -> None:
        path.write_bytes(data)
        make_plan(path)

    return fuzz.Target("plan", (*_dumped(CABS, SLICED, MODULES, VOCABULARY), BLOCK_STYLE), use)


def vocabulary_target(home: Path) -> fuzz.Target:
    """Good recipes with vocabularies that are planned for a model with any tokenizer and any settings of it."""
    path, folder = home / "vocabulary.yml", home / "code"
    path.write_text(json.dumps(VOCABULARY))
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json")
    before = {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}

    def use(data: bytes, chance: random.Random) -> None:
        name = "tokenizer.json" if b"WordLevel" in data[:400] else chance.choice(names[1:])
        try:
            (folder / name).write_bytes(data)
            make_plan(path)
        finally:
            (folder / name).unlink()
            if name in before:
                (folder / name).write_bytes(before[name])

    tokenizer = word_level(["?", "any1", "code"], added_tokens=[ADDED])
    return fuzz.Target("vocabulary", (*_dumped(SETTINGS), tokenizer.encode()), use)


def unlike_target(home: Path) -> fuzz.Target:
    """A good recipe that is planned for checkpoints of which one has any header."""
    path, file = home / "unlike.yml", home / "unlike.safetensors"
    path.write_text(json.dumps(UNLIKE))
    raw = (home / "math" / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")

    def use(body: bytes, chance: random.Random) -> None:
        file.write_bytes(len(body).to_bytes(8, "little") + body + raw[start:])
        make_plan(path)

    return fuzz.Target("unlike", (raw[8:start],), use)


def zarr_target(home: Path) -> fuzz.Target:
    """Metadata of Zarr arrays of both versions, with a chunk beside each that is read if they are taken."""
    folder = home / "zarr"
    for name in ("two", "three"):
        (folder / name / "a").mkdir(parents=True)
        for key in ("0.0", "c.0.0"):
            (folder / name / "a" / key).write_bytes(bytes(24))

    def use(data: bytes, chance: random.Random) -> None:
        two = b'"zarr_format": 2' in data
        place = folder / ("two" if two else "three")
        (place / "a" / (".zarray" if two else "zarr.json")).write_bytes(data)
        for info in read_checkpoint(place).tensors.values():
            info.source.read(0, min(info.length, 24))

    return fuzz.Target("zarr", _dumped(V2, V3, V3 | {"codecs": [SHARDS]}), use)


@pytest.mark.parametrize(
    ("make", "cases", "kinds"),
    [
        (header_target, 4000, 25),
        (index_target, 2000, 10),
        (config_target, 500, 5),
        (recipe_target, 2500, 40),
        (plan_target, 1000, 40),
        (vocabulary_target, 400, 10),
        (unlike_target, 1000, 15),
        (zarr_target, 1000, 25),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
@pytest.mark.slow
def test_hostile_inputs(home: Path, make: Callable[[Path], fuzz.Target], cases: int, kinds: int) -> None:
    """No input escapes the error tree, hangs, floods the terminal or takes much memory; many rules are reached."""
    target = make(home)
    target.use(target.seeds[0], random.Random(0))
    before = fuzz.forget_peak()
    found = fuzz.campaign(target, cases, seed=4)
    grown = fuzz.peak_resident_bytes() - before
    print(target.name, found.cases, found.accepted, len(found.outcomes), found.slowest_seconds, grown)
    assert cases == found.cases
    assert found.accepted > 0
    assert len(found.outcomes) >= kinds
    assert grown < MOST_GROWTH_BYTES
