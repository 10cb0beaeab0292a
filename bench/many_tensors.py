"""What as many tensors cost as a checkpoint may have: planning, beginning a part, status, and publishing.

The files are sparse, and of tensors of 512 bytes, so that headers are nearly all there is to read.
``python bench/tensors.py --count 1000000`` measures; this file by itself writes the checkpoints.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import workplace
from measure import Run, run
from report import print_table, write_results

SIDE = 16
PARTS = 1000
"""Parts of which one is begun; publishing is measured with `FEW`, since each part is a process."""

FEW = 2

FILE_TENSORS = 5000
EXPERTS = 128


def expert_names(count: int) -> Iterator[str]:
    """Name the weights of a mixture of experts, in the order of a checkpoint."""
    yield "model.embed_tokens.weight"
    given, layer = 2, 0
    while given < count:
        names = [f"self_attn.{part}_proj" for part in "qkvo"]
        names += [f"mlp.experts.{expert}.{part}_proj" for expert in range(EXPERTS) for part in ("gate", "up", "down")]
        for name in names[: count - given]:
            yield f"model.layers.{layer}.{name}.weight"
        given, layer = given + len(names), layer + 1
    yield "lm_head.weight"


def write_checkpoint(
    folder: Path, names: list[str], shape: tuple[int, int], per_file: int, fill: Callable[[BinaryIO, int], None]
) -> None:
    """Write a checkpoint in bfloat16 of tensors of one shape.

    Parameters
    ----------
    folder
        A new folder.
    names, shape
        The tensors.
    per_file
        Tensors in a file.
    fill
        Writes the elements of so many tensors into a file that is open behind its header.

    """
    folder.mkdir(parents=True)
    size = shape[0] * shape[1] * 2
    parts = [names[first : first + per_file] for first in range(0, len(names), per_file)]
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts):
        file = f"model-{number + 1:05d}-of-{len(parts):05d}.safetensors"
        entries = {
            name: {"dtype": "BF16", "shape": shape, "data_offsets": [index * size, (index + 1) * size]}
            for index, name in enumerate(part)
        }
        header = json.dumps(entries).encode()
        header += b" " * (-len(header) % 8)
        with (folder / file).open("wb") as out:
            out.write(len(header).to_bytes(8, "little") + header)
            fill(out, len(part))
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": size * len(names)}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"model_type": "mixtral", "torch_dtype": "bfloat16"}')


def leave_sparse(out: BinaryIO, tensors: int) -> None:
    """Let all elements be zero, and take no room."""
    out.truncate(out.tell() + SIDE * SIDE * 2 * tensors)


def write_family(place: Path, count: int) -> None:
    """Write a base model and two fine-tunes with as many tensors each."""
    names = list(expert_names(count))
    for folder in ("base", "tune1", "tune2"):
        write_checkpoint(place / folder, names, (SIDE, SIDE), FILE_TENSORS, leave_sparse)


def measure_many(place: Path, count: int, *, publish: bool = True) -> dict[str, Run]:
    """Measure what so many tensors cost, each command in a process of its own.

    Parameters
    ----------
    place
        A folder for checkpoints and outputs.
    count
        Tensors of each of three checkpoints.
    publish
        Whether to make a whole merge too, in two parts, of which the second publishes.

    """
    subprocess.run([sys.executable, __file__, str(place), str(count)], check=True)  # so that this process stays small
    recipe = workplace.cabs_recipe(place / "recipe.yml", [place / name for name in ("base", "tune1", "tune2")])
    dovetail, out = str(Path(sys.executable).with_name("dovetail")), place / "out"
    options = ["--memory", "8GiB", "--shard-size", "100MB"]  # the header of one file could not hold all tensors
    merge = [dovetail, "merge", str(recipe), str(out), *options, "--json", "--part"]
    commands = {
        "plan": [dovetail, "plan", str(recipe), *options],
        f"the first of {PARTS:,} parts": [*merge, f"1/{PARTS}"],
        f"another of {PARTS:,} parts": [*merge, f"2/{PARTS}"],
        "status": [dovetail, "status", str(out)],
    }
    found = {name: run(command) for name, command in commands.items()}
    if publish:
        shutil.rmtree(place / ".out.dovetail-partial")
        for part in range(1, FEW + 1):
            name = f"part {part} of {FEW}, which makes {count // FEW:,} tensors" + ", and publishes" * (part == FEW)
            found[name] = run([*merge, f"{part}/{FEW}"])
        found["status of the output"] = run([dovetail, "status", str(out)])
    return found


def report_many(place: Path, count: int) -> None:
    """Measure, print and write down what so many tensors cost."""
    found = measure_many(place, count)
    print_table(
        f"{count:,} tensors in each of three checkpoints",
        ("", "s", "processor s", "peak MiB", "bytes a tensor"),
        [
            (
                name,
                f"{each.wall_s:.1f}",
                f"{each.cpu_s:.1f}",
                f"{each.peak_rss_bytes / 2**20:,.0f}",
                f"{each.peak_rss_bytes / count:,.0f}",
            )
            for name, each in found.items()
        ],
    )
    write_results("many_tensors", {"tensors": count, **{name: each.to_json() for name, each in found.items()}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", type=Path, help="folder to write the checkpoints to")
    parser.add_argument("count", type=int, help="tensors of each")
    args = parser.parse_args()
    write_family(args.place, args.count)


if __name__ == "__main__":
    main()
