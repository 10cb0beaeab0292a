"""Synthetic Llama-shaped checkpoints, a base model and its fine-tunes, for the demonstration, benchmarks and tests.

Their values resemble real weights in what matters to a merge. Base weights are normal with standard deviation 0.02.
The changes of a fine-tune follow a Student t distribution with three degrees of freedom, so that a few are much larger
than the rest. Fine-tunes are rounded to the checkpoint's dtype, so that in bfloat16 half of the changes are exactly
zero, as in real fine-tunes. At half of the places the changes of all fine-tunes have the same scale, but not the same
sign, so that their strongest changes partly overlap.

Drawing billions of normal deviates would take minutes. Each model therefore draws one *pool* of values, and every
tensor is put together from parts of the pool. A part has the same offset in the pools of all models, which depends
only on the name of the tensor. Nothing larger than a pool is ever in memory, and the same arguments always give the
same bytes.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dovetail.io.dtypes import MERGEABLE, to_numpy

DTYPES = {dtype.torch_name: dtype for dtype in MERGEABLE if dtype.itemsize > 1}
"""The dtypes in which checkpoints can be made, by their names in ``config.json``."""

WEIGHT_STD = 0.02
CHANGE_SCALE = 4e-5
NORM_STD = 0.05
_BLOCK_ELEMENTS = 1 << 20


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """Dimensions of a Llama model."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = False
    """Whether the output head is tied to the embedding, so that it is not stored."""

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Give the shape of every tensor by name, in the order of a Hugging Face checkpoint."""
        kv = self.hidden // self.heads * self.kv_heads
        per_layer: dict[str, tuple[int, ...]] = {
            "input_layernorm": (self.hidden,),
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (kv, self.hidden),
            "self_attn.v_proj": (kv, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "post_attention_layernorm": (self.hidden,),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        for layer in range(self.layers):
            shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in per_layer.items()}
        shapes["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocabulary, self.hidden)
        return shapes

    def config(self, dtype: str) -> dict[str, Any]:
        """Give the ``config.json`` of a model of this shape."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
            "hidden_act": "silu",
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": dtype,
        }


SIZES = {
    "tiny": LlamaShape(64, 160, 2, 4, 2, 256),
    "demo": LlamaShape(512, 1408, 12, 8, 4, 16_000),
    "0.2GB": LlamaShape(768, 2048, 12, 12, 4, 16_000),
    "0.85B": LlamaShape(2048, 5632, 16, 32, 8, 32_000),
    "3GB": LlamaShape(2560, 6912, 19, 32, 8, 32_000),
    "70B-shapes": LlamaShape(8192, 28_672, 80, 64, 8, 128_256),
}
"""Shapes by name; in bfloat16 their checkpoints have 0.0002, 0.10, 0.20, 1.71, 2.97 and 141 GB."""


@dataclass(frozen=True, slots=True)
class Pools:
    """The values from which the tensors of one model are put together, in the checkpoint's dtype."""

    weights: NDArray[Any]
    """Values for matrices."""
    norms: NDArray[Any]
    """Values for vectors, around one."""

    def parts(self, name: str, shape: tuple[int, ...]) -> Iterator[NDArray[Any]]:
        """Yield the values of one tensor, flattened, part by part."""
        pool = self.norms if len(shape) == 1 else self.weights
        longest = max(pool.size // 2, 1)
        left = int(np.prod(shape, dtype=np.int64))
        for part in range(-(-left // longest)):
            length = min(left, longest)
            offset = zlib.crc32(f"{name}/{part}".encode()) % (pool.size - length + 1)
            yield pool[offset : offset + length]
            left -= length


def make_pools(model: int, dtype: str, *, seed: int = 0, elements: int = 1 << 24) -> Pools:
    """Draw the pools of the base model (``model`` 0) or of fine-tune number ``model``.

    Parameters
    ----------
    model
        0 for the base, 1 and up for its fine-tunes.
    dtype
        Key of `DTYPES`.
    seed
        Seed of the whole family of models.
    elements
        Number of elements in the pool of matrix values.

    """
    stored = to_numpy(DTYPES[dtype])
    weights = np.empty(elements, stored)
    for block, start in enumerate(range(0, elements, _BLOCK_ELEMENTS)):
        part = weights[start : start + _BLOCK_ELEMENTS]
        part[:] = _block(model, seed, block, part.size, 0.0, WEIGHT_STD, stored)
    norms = _block(model, seed, -1, min(elements, 1 << 18), 1.0, NORM_STD, stored)
    return Pools(weights, norms)


def _block(
    model: int, seed: int, block: int, size: int, mean: float, std: float, stored: np.dtype[Any]
) -> NDArray[Any]:
    base_random = np.random.default_rng((seed, block + 1, 0))
    values = base_random.standard_normal(size, np.float32) * np.float32(std) + np.float32(mean)
    base: NDArray[Any] = values.astype(stored)
    if model == 0:
        return base
    own_random = np.random.default_rng((seed, block + 1, model))
    mixing = own_random.standard_gamma(1.5, size, np.float32)
    shared = base_random.random(size, np.float32) < 0.5
    np.copyto(mixing, base_random.standard_gamma(1.5, size, np.float32), where=shared)
    # A normal deviate over the square root of chi-square(3)/3 = gamma(1.5)/1.5 is Student t with 3 degrees.
    change = own_random.standard_normal(size, np.float32) * np.sqrt(np.float32(1.5) / mixing)
    change *= np.float32(CHANGE_SCALE * (100 if mean else 1))
    return np.asarray(base.astype(np.float32) + change).astype(stored)


def plan_shards(
    shapes: dict[str, tuple[int, ...]], itemsize: int, max_shard_bytes: int
) -> list[dict[str, tuple[int, ...]]]:
    """Distribute tensors over shards, in order; each shard has at least one tensor, however large."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled_bytes = 0
    for name, shape in shapes.items():
        size_bytes = itemsize * int(np.prod(shape, dtype=np.int64))
        if shards[-1] and filled_bytes + size_bytes > max_shard_bytes:
            shards.append({})
            filled_bytes = 0
        shards[-1][name] = shape
        filled_bytes += size_bytes
    return shards


def shard_header(shapes: dict[str, tuple[int, ...]], dtype: str, *, align_bytes: int = 8) -> bytes:
    """Make the header of a safetensors file, padded so that the data starts at a multiple of ``align_bytes``."""
    stored = DTYPES[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + stored.itemsize * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": stored.name, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % align_bytes)
    return struct.pack("<Q", len(text)) + text


def shard_names(count: int) -> list[str]:
    """Name the shards of a checkpoint as Hugging Face libraries do."""
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{index:05}-of-{count:05}.safetensors" for index in range(1, count + 1)]


def make_checkpoint(
    folder: Path,
    shape: LlamaShape,
    model: int = 0,
    *,
    dtype: str = "bfloat16",
    seed: int = 0,
    max_shard_bytes: int = 1_000_000_000,
    pool_elements: int = 1 << 24,
) -> int:
    """Write one checkpoint of a family; see `make_pools` for ``model`` and ``seed``.

    Returns
    -------
    int
        Bytes of tensor data written.

    """
    folder.mkdir(parents=True, exist_ok=True)
    shapes = shape.tensors()
    pools = make_pools(model, dtype, seed=seed, elements=pool_elements)
    shards = plan_shards(shapes, DTYPES[dtype].itemsize, max_shard_bytes)
    for file_name, shard in zip(shard_names(len(shards)), shards, strict=True):
        with (folder / file_name).open("wb") as file:
            file.write(shard_header(shard, dtype))
            for name, tensor_shape in shard.items():
                for part in pools.parts(name, tensor_shape):
                    file.write(part.view(np.uint8).data)
    return write_side_files(folder, shape, dtype, shards)


def write_side_files(folder: Path, shape: LlamaShape, dtype: str, shards: list[dict[str, tuple[int, ...]]]) -> int:
    """Write the files of a checkpoint beside its shards: index, configuration and a small tokenizer.

    Returns
    -------
    int
        Bytes of tensor data in the shards.

    """
    itemsize = DTYPES[dtype].itemsize
    total_bytes = sum(itemsize * int(np.prod(s, dtype=np.int64)) for shard in shards for s in shard.values())
    words = ["<unk>", "<s>", "</s>", *(f"w{index}" for index in range(min(shape.vocabulary, 256) - 3))]
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    files: dict[str, Any] = {
        "config.json": shape.config(dtype),
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "do_sample": False},
        "special_tokens_map.json": special,
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", **special},
        "tokenizer.json": {
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": {"type": "Whitespace"},
            "model": {
                "type": "WordLevel",
                "vocab": {word: index for index, word in enumerate(words)},
                "unk_token": "<unk>",
            },
        },
    }
    if len(shards) > 1:
        names = shard_names(len(shards))
        weight_map = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        files["model.safetensors.index.json"] = {
            "metadata": {"total_size": total_bytes},
            "weight_map": weight_map,
        }
    for file_name, content in files.items():
        (folder / file_name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return total_bytes
