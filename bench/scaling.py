"""How long merges on up to 1,000 machines take: computed from what is measured here, and what storage is said to do.

    python bench/scaling.py                                  # measures for a minute, then computes for two storages
    python bench/scaling.py --node-rate 2 --aggregate 100    # for one with these GB/s, of each machine and of all
    python bench/scaling.py --split                          # what it would bring to divide single tensors
    python bench/scaling.py --headers                        # and if one process opened the inputs for all others

Measured on this machine: starting, planning, publishing and journals (`many_tensors.measure_many`), and the division of
three models by the code that real parts use. Assumed: rates of the storage, and how many requests a second its metadata
server answers. `scaling_model.py` says how the rest follows.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import workplace
import xxhash
from many_tensors import FEW, PARTS, measure_many
from report import print_table, write_results
from scaling_model import HEADER_BYTES, MODELS, ROW_BYTES, Constants, Storage, opening_seconds, times

from dovetail.engine.run.journal import sound_entries

NODES: Final = (1, 4, 16, 64, 256, 1000)


def measure(place: Path, few: int = 300, many: int = 20_000) -> Constants:
    """Measure the constants by the commands themselves, with models of few and of many tensors.

    They are processor time: commands do this work on one core, and a machine that makes a part has cores to spare.
    """
    name = f"another of {PARTS:,} parts"
    small, large = (measure_many(place / str(count), count) for count in (few, many))

    def publishing(found: Any) -> float:
        made = [each.cpu_s for part, each in found.items() if part.startswith("part ")]
        assert FEW == len(made)
        return float(made[-1] - made[0])

    body = bytes(ROW_BYTES - 8)
    entry = body + xxhash.xxh3_64_digest(body)
    entries, began = entry * 100_000, time.perf_counter()
    assert 100_000 == sum(1 for _ in sound_entries(entries, len(entry), 1))
    return Constants(
        start_s=small[name].cpu_s,
        tensor_s=max(0.0, (large[name].cpu_s - small[name].cpu_s) / (many - few)),
        publish_tensor_s=max(0.0, (publishing(large) - publishing(small)) / (many - few)),
        row_s=(time.perf_counter() - began) / 100_000,
    )


def duration(seconds: float) -> str:
    """Write a time as people do."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def rows(constants: Constants, storage: Storage, inputs: int, passes: int) -> Iterable[tuple[str, ...]]:
    """Give the rows of the table: for each number of machines, the time for each model and its efficiency."""
    for nodes in NODES:
        row = [f"{nodes:,}"]
        for model in MODELS:
            alone, found = (times(model, count, constants, storage, inputs, passes) for count in (1, nodes))
            share = alone.total / (nodes * found.total)
            row += [f"{duration(found.total)} ({share:.0%})", found.limit]
        yield tuple(row)


def splitting(constants: Constants, storage: Storage, inputs: int, passes: int) -> Iterable[tuple[str, ...]]:
    """Give, for each model and number of machines, the time with whole tensors, and with any bytes divided for free."""
    for model in MODELS:
        for nodes in NODES[1:]:
            found = times(model, nodes, constants, storage, inputs, passes)
            split = found.total - found.uneven
            saved = nodes * (found.total - split) / 3600
            yield model.name, f"{nodes:,}", f"{found.total:.1f}", f"{split:.1f}", f"{saved:.2f}"


def storing_headers(constants: Constants, storage: Storage, inputs: int, passes: int) -> Iterable[tuple[str, ...]]:
    """Give, for each model and number of machines, the time now, and if one process stored headers for the others."""
    for model in MODELS:
        files, header_bytes = inputs * model.files, inputs * len(model.sizes) * HEADER_BYTES
        for nodes in NODES[1:]:
            found = times(model, nodes, constants, storage, inputs, passes).total
            now, then = (opening_seconds(files, header_bytes, nodes, storage, stored=each) for each in (False, True))
            yield model.name, f"{nodes:,}", f"{found:.1f}", f"{found - now + then:.1f}", f"{now - then:.1f}"


def report(
    constants: Constants, storage: Storage, inputs: int, passes: int, *, split: bool, headers: bool
) -> list[tuple[str, ...]]:
    """Print the tables for one storage, and give the rows of the first."""
    columns = [text for model in MODELS for text in (f"{model.name} (efficiency)", "most of it")]
    found = list(rows(constants, storage, inputs, passes))
    node, together = storage.node_rate / 1e9, storage.aggregate_rate / 1e9
    requests = storage.operations_rate
    title = f"{node:g} GB/s a machine, {together:g} GB/s in all, {requests:,.0f} requests a second"
    print_table(title, ("machines", *columns), found)
    if split:
        columns = ["machines", "whole tensors, s", "divided, s", "machine hours saved"]
        divided = splitting(constants, storage, inputs, passes)
        print_table("Dividing single tensors, if that cost nothing", ("", *columns), divided)
    if headers:
        columns = ["machines", "each opens all, s", "one for all, s", "saved, s"]
        print_table("Opening the inputs", ("", *columns), storing_headers(constants, storage, inputs, passes))
    return found


def main() -> None:
    parser = workplace.work_argument(__doc__)
    parser.add_argument("--node-rate", type=float, nargs="+", default=[1, 4], help="GB/s of one machine [1 4]")
    parser.add_argument("--aggregate", type=float, nargs="+", default=[200, 400], help="GB/s of all [200 400]")
    parser.add_argument("--operations", type=float, default=50_000, help="metadata requests a second [50000]")
    parser.add_argument("--latency", type=float, default=0.5, help="time of one of them alone, in ms [0.5]")
    parser.add_argument("--inputs", type=int, default=3, help="models that are read, the base model included [3]")
    parser.add_argument("--passes", type=int, default=1, help="how often they are read [1]")
    parser.add_argument("--split", action="store_true", help="what it would bring to divide single tensors too")
    parser.add_argument("--headers", action="store_true", help="what if one process opened the inputs for all")
    args = parser.parse_args()
    if len(args.node_rate) != len(args.aggregate):
        parser.error(f"--node-rate has {len(args.node_rate)} values and --aggregate {len(args.aggregate)}")
    with workplace.workplace(args.work, 200_000_000) as place:
        constants = measure(place)
    print_table("Measured", ("", "s"), [(name, f"{value:.2g}") for name, value in asdict(constants).items()])
    found = {}
    for node, together in zip(args.node_rate, args.aggregate, strict=True):
        storage = Storage(1e9 * node, 1e9 * together, args.operations, args.latency / 1000)
        found[f"{node:g}, {together:g}"] = report(
            constants, storage, args.inputs, args.passes, split=args.split, headers=args.headers
        )
    write_results("scaling", {"constants": asdict(constants), "options": vars(args) | {"work": ""}, "rows": found})


if __name__ == "__main__":
    main()
