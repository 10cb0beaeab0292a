"""Modules taken out of a checkpoint of convolutions that is larger than the memory they are given.

    python bench/module_memory.py                    # a checkpoint of 3 GB and a module of it, 4 GB of disk
    python bench/module_memory.py --gigabytes 0.5

Convolutions of 2,048 channels with BatchNorm, a last layer of 1x1 windows, a linear head and mask generators, of random
weights; a class uses a kernel with one chance in five. One module has one class, the other three.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import workplace
from measure import run, warm
from report import mebibytes, print_table, write_results

from dovetail.engine.modular import INPUT, Architecture, Node, masked_layers, with_generators
from dovetail.engine.modular.network.counts import Counts, write_counts
from dovetail.engine.modular.network.parent import parent_to_json, write_json
from dovetail.io.dtypes import DTYPES
from dovetail.io.formats.header import build_header

CHANNELS = 2048
CLASSES = ("ant", "bee", "cat", "dog", "elk")
STEP_BYTES = 2**24


def convolution(name: str, source: str, ins: int, outs: int, kernel: int) -> list[Node]:
    """Give a convolution with BatchNorm and ReLU."""
    pairs = {"kernel": (kernel,) * 2, "stride": (1, 1), "padding": (kernel // 2,) * 2, "dilation": (1, 1)}
    settings = {"in_channels": ins, "out_channels": outs, "groups": 1, **pairs}
    roles = ("weight", "bias", "running_mean", "running_var")
    return [
        Node(name, "convolution", (source,), settings, {"weight": f"{name}.weight"}),
        Node(
            f"{name}_norm",
            "batch_norm",
            (name,),
            {"channels": outs, "eps": 1e-5},
            {r: f"{name}_norm.{r}" for r in roles},
        ),
        Node(f"{name}_relu", "relu", (f"{name}_norm",)),
    ]


def network(gigabytes: float) -> Architecture:
    """Describe a network of about so many bytes."""
    count = max(1, round(gigabytes * 1e9 / (4 * 9 * CHANNELS**2)))
    nodes = convolution("first", INPUT, 3, CHANNELS, 3)
    for index in range(count):
        nodes += convolution(f"layer{index}", nodes[-1].name, CHANNELS, CHANNELS, 3)
    nodes += convolution("last", nodes[-1].name, CHANNELS, CHANNELS, 1)
    nodes.append(Node("pool", "mean", (nodes[-1].name,), {"keep": False}))
    sizes = {"in_features": CHANNELS, "out_features": len(CLASSES)}
    nodes.append(Node("head", "linear", ("pool",), sizes, {"weight": "head.weight", "bias": "head.bias"}))
    return Architecture((3, 8, 8), tuple(nodes), "head")


def make(folder: Path, gigabytes: float) -> int:
    """Write the network; return the size of its weights in bytes."""
    folder.mkdir(parents=True)
    architecture, chance = network(gigabytes), np.random.default_rng(0)
    shapes = with_generators(architecture).tensor_shapes()
    block = chance.standard_normal(STEP_BYTES // 4, np.float32).tobytes()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(build_header((name, DTYPES["F32"], shape) for name, shape in shapes.items()))
        left = 4 * sum(int(np.prod(shape)) for shape in shapes.values())
        while left > 0:
            file.write(block[: min(left, STEP_BYTES)])
            left -= STEP_BYTES
    counts = {layer: 100 * (chance.random((len(CLASSES), CHANNELS)) < 0.2) for layer in masked_layers(architecture)}
    samples = np.full(len(CLASSES), 100)
    write_counts(folder, Counts(samples, {key: each.astype(np.int64) for key, each in counts.items()}, {}))
    write_json(folder / "modular.json", parent_to_json(architecture, CLASSES, generators=True))
    return (folder / "model.safetensors").stat().st_size


def main() -> None:
    parser = workplace.work_argument(__doc__)
    parser.add_argument("--gigabytes", type=float, default=3.0, help="size of the checkpoint")
    parser.add_argument("--memory", default="290MiB", help="limit on the process")
    args = parser.parse_args()
    rows, results = [], []
    with workplace.workplace(args.work, int(1.5e9 * args.gigabytes)) as place:
        size = make(place / "net", args.gigabytes)
        for classes in ("ant", "bee,cat,dog"):
            warm([place / "net"])
            shutil.rmtree(place / "out", ignore_errors=True)
            command = [sys.executable, "-m", "dovetail.engine", "modules", "extract", str(place / "net")]
            options = ["--classes", classes, "--memory", args.memory, "--json"]
            result = run([*command, str(place / "out"), *options])
            made = json.loads(result.tail)
            cells = (classes, f"{size / 1e9:.2f}", f"{made['nbytes'] / 1e6:.0f}")
            rows.append((*cells, f"{result.wall_s:.1f}", mebibytes(result.peak_rss_bytes)))
            results.append({"classes": classes, "bytes": size, "module_bytes": made["nbytes"], "run": result.to_json()})
    print_table(
        f"Modules of one checkpoint, --memory {args.memory}",
        ("classes", "checkpoint, GB", "module, MB", "s", "peak, MiB"),
        rows,
    )
    write_results("module_memory", results)


if __name__ == "__main__":
    main()
