"""Makes the checkpoints and has mergekit merge the recipes of this folder.

    python tests/golden/make.py MERGEKIT_PYTHON             # all recipes
    python tests/golden/make.py MERGEKIT_PYTHON slerp-t     # some
    python tests/golden/make.py --inputs                    # the checkpoints alone

MERGEKIT_PYTHON is the interpreter of an environment with mergekit. Recipes where its rounding matters (`exceptions.py`)
are merged in float64 as well.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import yaml
from exceptions import ROUNDING  # beside this file
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).resolve().parent
DRIVER = HERE.parents[1] / "bench" / "mergekit_batch.py"
HIDDEN = 11

Shapes = Mapping[str, tuple[int, ...]]
Tensors = dict[str, NDArray[Any]]


def llama(layers: int = 4) -> Shapes:
    """Shapes of a tiny Llama with odd sizes."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (23, HIDDEN)}
    for i in range(layers):
        layer = f"model.layers.{i}"
        shapes[f"{layer}.input_layernorm.weight"] = (HIDDEN,)
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qo"}
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": (5, HIDDEN) for name in "kv"}
        shapes[f"{layer}.post_attention_layernorm.weight"] = (HIDDEN,)
        shapes |= {f"{layer}.mlp.{name}_proj.weight": (14, HIDDEN) for name in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj.weight"] = (HIDDEN, 14)
    return shapes | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (23, HIDDEN)}


def gpt2(layers: int = 2) -> Shapes:
    """Shapes of a tiny GPT-2: biases, and no head of its own."""
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (19, HIDDEN), "transformer.wpe.weight": (8, HIDDEN)}
    for i in range(layers):
        for name, width in (("attn.c_attn", 3 * HIDDEN), ("attn.c_proj", HIDDEN), ("mlp.c_fc", 15)):
            shapes[f"transformer.h.{i}.{name}.weight"] = (HIDDEN, width)
            shapes[f"transformer.h.{i}.{name}.bias"] = (width,)
        shapes[f"transformer.h.{i}.mlp.c_proj.weight"] = (15, HIDDEN)
        shapes[f"transformer.h.{i}.mlp.c_proj.bias"] = (HIDDEN,)
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"transformer.h.{i}.{norm}.{part}": (HIDDEN,) for part in ("weight", "bias")}
    return shapes | {f"transformer.ln_f.{part}": (HIDDEN,) for part in ("weight", "bias")}


def mamba(layers: int = 2) -> Shapes:
    """Shapes of a tiny Mamba: a convolution with three axes."""
    shapes: dict[str, tuple[int, ...]] = {"backbone.embeddings.weight": (17, HIDDEN)}
    for i in range(layers):
        mixer = f"backbone.layers.{i}.mixer"
        shapes |= {
            f"{mixer}.in_proj.weight": (22, HIDDEN),
            f"{mixer}.conv1d.weight": (11, 1, 4),
            f"{mixer}.conv1d.bias": (11,),
            f"{mixer}.x_proj.weight": (9, 11),
            f"{mixer}.dt_proj.weight": (11, 3),
            f"{mixer}.dt_proj.bias": (11,),
            f"{mixer}.A_log": (11, 3),
            f"{mixer}.D": (11,),
            f"{mixer}.out_proj.weight": (HIDDEN, 11),
            f"backbone.layers.{i}.norm.weight": (HIDDEN,),
        }
    return shapes | {"backbone.norm_f.weight": (HIDDEN,)}


CONFIGS = {
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 4},
    "gpt2": {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 2},
    "mamba": {"model_type": "mamba", "architectures": ["MambaForCausalLM"], "num_hidden_layers": 2},
}
SHAPES = {"llama": llama(), "gpt2": gpt2(), "mamba": mamba()}

CHECKPOINTS: dict[str, tuple[int, float, str]] = {
    "llama-base": (1, 0, "float32"),
    "llama-a": (2, 0.02, "float32"),
    "llama-b": (3, 0.03, "float32"),
    "llama-c": (4, 0.02, "float32"),
    "llama-near": (5, 0.0002, "float32"),
    "llama-nearer": (7, 0.0001, "float32"),
    "llama-far": (6, 0.5, "float32"),
    "gpt2-base": (11, 0, "float32"),
    "gpt2-a": (12, 0.02, "float32"),
    "gpt2-b": (13, 0.03, "float32"),
    "mamba-base": (21, 0, "bfloat16"),
    "mamba-a": (22, 0.05, "bfloat16"),
    "mamba-b": (23, 0.05, "float16"),
}
"""By name: seed, size of the changes against the family's base, stored dtype."""


def checkpoints() -> Iterator[tuple[str, Tensors]]:
    """Make the tensors of every checkpoint: a fifth of a fine-tune's changes is exactly zero."""
    base: Tensors = {}
    for name, (seed, size, dtype) in CHECKPOINTS.items():
        random = np.random.default_rng(seed)
        stored = np.dtype(getattr(ml_dtypes, dtype, dtype))
        tensors: Tensors = {}
        for tensor, shape in SHAPES[name.split("-")[0]].items():
            if size == 0:
                tensors[tensor] = (random.standard_normal(shape) * 0.3).astype(stored)
            else:
                change = random.standard_normal(shape) * size * (random.random(shape) < 0.8)
                tensors[tensor] = (base[tensor].astype(np.float64) + change).astype(stored)
        base = tensors if size == 0 else base
        yield name, tensors


def make_inputs() -> None:
    """Write every checkpoint."""
    for name, tensors in checkpoints():
        folder = HERE / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(CONFIGS[name.split("-")[0]]) + "\n")


def merge(python: Path, names: list[str]) -> None:
    """Have mergekit merge recipes, and keep what comes out."""
    driver = subprocess.Popen(
        [python, DRIVER], cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert driver.stdin
    assert driver.stdout
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            for ending in ("", ".float64")[: 1 + (name in ROUNDING)]:
                recipe, out = Path(temporary) / "recipe.yml", Path(temporary) / "out"
                content = yaml.safe_load((HERE / f"{name}.yml").read_text())
                if ending:
                    content |= {"dtype": "float64", "out_dtype": "float32"}
                recipe.write_text(yaml.safe_dump(content))
                driver.stdin.write(json.dumps({"recipe": str(recipe), "out": str(out)}) + "\n")
                error = json.loads(driver.stdout.readline())["error"]
                if error:
                    sys.exit(f"{name}: {error}")
                tensors = {key: value for file in out.glob("*.safetensors") for key, value in load_file(file).items()}
                save_file(dict(sorted(tensors.items())), HERE / f"{name}{ending}.safetensors")
                shutil.rmtree(out)
                print(f"{name}{ending}", flush=True)
    driver.stdin.close()
    driver.wait()


def main() -> None:
    """Make what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", action="store_true", help="make the checkpoints too")
    parser.add_argument("python", nargs="?", type=Path, help="interpreter of mergekit's environment")
    parser.add_argument("cases", nargs="*", help="recipes [all]")
    args = parser.parse_args()
    if args.inputs:
        make_inputs()
    if args.python:
        merge(args.python, args.cases or sorted(path.stem for path in HERE.glob("*.yml")))


if __name__ == "__main__":
    main()
