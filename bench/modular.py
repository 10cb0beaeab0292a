"""Standard training beside MwT and MODA: what becoming modular costs, and what modules are worth.

    python bench/modular.py --quick
    python bench/modular.py --data fashion-mnist --epochs 30
    python bench/modular.py --data path/to/cifar10 --flip --epochs 60 --seeds 3 --threads 1

Every method trains every network on every data set with every seed, methods in turn. Shown are means over seeds, with
their range. The test set is looked at once, at the end; fine-tuning chooses its epoch by validation. Finished trainings
and figures are kept in ``--work``: the same command continues after an interruption. Accuracy, sizes and kernels do not
depend on the machine where --threads is 1; times do, and are comparable on a quiet machine alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import print_table, write_results

from dovetail.engine.cli.report.display import PlainDisplay
from dovetail.engine.modular.data.opening import open_data
from dovetail.engine.modular.evaluation.judging import Judging, judge
from dovetail.engine.modular.network.parent import read_parent
from dovetail.engine.modular.training.options import METHODS, TrainingOptions
from dovetail.engine.modular.training.request import Request, choose_device
from dovetail.engine.modular.training.train import train

WIDTHS = {"simcnn": 0.25, "vgg": 0.25, "resnet": 0.25}
"""Width of each network, unless --width gives another."""

PAPERS = (
    ("MwT, mean of its pairs", "points lost 1.13, kernel retention 14.58%"),
    ("MwT, ResNet18, CIFAR-10", "kernel retention 24.7%, coupling .241, cohesion .944; 3 classes fine-tuned 97.23%"),
    ("VGG16, CIFAR-10", "standard 92.62%, MwT 90.55%, MODA 91.86%"),
    ("ResNet18, CIFAR-10", "standard 93.37%, MwT 91.04%, MODA 90.94%"),
    ("VGG16, CIFAR-10, MwT's modules without fine-tuning", "2 classes about 75%, 10 classes 33%"),
)
"""Figures of the papers (arXiv:2306.09376, and for all but the first two arXiv:2411.01074), for full-size networks."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One training and what becomes of its masks in modules."""

    data: str
    network: str
    method: str
    masks: str | None
    seed: int

    @property
    def name(self) -> str:
        """Method, and what becomes of masks."""
        return f"{self.method}, {self.masks}" if self.masks else self.method


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Give every case; methods are in turn, so that a change of the machine's speed meets all of them."""
    for seed in range(arguments.seeds):
        for data in arguments.data:
            for network in arguments.networks:
                for method in arguments.methods:
                    for masks in ("generators", "folded") if METHODS[method].generators else (None,):
                        yield Case(data, network, method, masks, seed)


def figures(case: Case, arguments: argparse.Namespace) -> Row:
    """Train and judge, or take the figures of an earlier run."""
    weights = {term: weight for term, weight in arguments.weight if term in METHODS[case.method].weights}
    options = TrainingOptions(
        case.method,
        epochs=arguments.epochs,
        batch=arguments.batch,
        weights=weights,
        flip=arguments.flip,
        mixed=arguments.mixed,
        seed=case.seed,
    )
    width = arguments.width or WIDTHS.get(case.network, 1.0)
    request = Request(case.data, case.network, width, options, arguments.device)
    asked = "".join(f"-{term}{weight:g}" for term, weight in weights.items()) + "-mixed" * arguments.mixed
    name = f"{Path(case.data).name}-{case.network}-{width:g}-{case.method}{asked}-{case.seed}"
    folder = arguments.work / name
    print(f"{name} {case.masks or ''}", flush=True)
    with PlainDisplay() as display:
        about = train(request, folder, overwrite=True, listen=display)
    asked = {"masks": case.masks, "tune": arguments.fine_tune, "training": about["identity"]}
    kept = arguments.work / f"{name}-{case.masks or 'plain'}.json"
    if kept.exists() and (stored := json.loads(kept.read_text()))["asked"] == asked:
        return dict(stored["row"])
    judging = Judging(masks=case.masks, tune=arguments.fine_tune, seed=case.seed)
    found = judge(read_parent(folder), open_data(case.data), judging, choose_device(arguments.device), display)
    row = {**vars(case), "width": width, "seconds": about["seconds"], **found}
    kept.write_text(json.dumps({"asked": asked, "row": row}))
    return row


def term_weight(text: str) -> tuple[str, float]:
    """Read a weight of a term, as in ``coupling=3``."""
    term, _, weight = text.partition("=")
    return term, float(weight)


def prepared(data: str, arguments: argparse.Namespace) -> str:
    """Put images that lie in single files, or the fewer that are asked for, into one file, which is read in no time."""
    if not arguments.images and not (Path(data) / "train").is_dir():
        return data
    fewer = f"-{arguments.images}" if arguments.images else ""
    place = arguments.work / f"{Path(data).resolve().name}{fewer}.npz"
    if not place.exists():
        found = open_data(data)
        arrays: dict[str, np.ndarray] = {"classes": np.array(found.classes)}
        for name, images in (("train", found.train), ("val", found.validation), ("test", found.test)):
            taken = slice(None)
            if arguments.images and name != "test":
                count = arguments.images * len(images.labels) // len(found.train.labels)
                taken = np.random.default_rng(0).permutation(len(images.labels))[:count]
            arrays |= {f"{name}_images": images.pixels[taken], f"{name}_labels": images.labels[taken]}
        partial = place.with_name(f"partial-{place.name}")
        np.savez(partial, **arrays)
        partial.replace(place)
    return str(place)


def train_once(arguments: argparse.Namespace) -> list[Row]:
    """Give the rows of all cases."""
    arguments.work.mkdir(parents=True, exist_ok=True)
    arguments.data = [prepared(data, arguments) for data in arguments.data]
    return [figures(case, arguments) for case in cases(arguments)]


def spread(rows: Sequence[Row], figure: Callable[[Row], float], scale: float = 100, digits: int = 2) -> str:
    """Write mean and range over seeds."""
    values = sorted(scale * figure(row) for row in rows)
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({values[0]:.{digits}f} to {values[-1]:.{digits}f})"


def grouped(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, list[Row]]]:
    """Sort rows by data and network, and within by method."""
    found: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        name = f"{row['method']}, {row['masks']}" if row["masks"] else row["method"]
        found.setdefault((row["data"], row["network"]), {}).setdefault(name, []).append(row)
    return found


def lost(rows: Sequence[Row], standard: Mapping[int, float]) -> str:
    """Write by how many points networks are worse than those of standard training with the same seeds."""
    return spread(rows, lambda row: standard[row["seed"]] - row["model"]["accuracy"]) if standard else "-"


def mean_of(row: Mapping[str, Any], key: str) -> float:
    """Give the mean of a figure over a network's modules."""
    return statistics.fmean(module[key] for module in row["modules"])


def show(rows: Sequence[Row], tuned: bool) -> None:
    """Print three tables for every pair of data and network: networks, their modules, and composed modules."""
    for (data, network), methods in grouped(rows).items():
        width = next(iter(methods.values()))[0]["width"]
        title = f"{network} (width {width:g}) on {Path(data).name}"
        standard = {row["seed"]: row["model"]["accuracy"] for row in methods.get("standard", [])}
        table = [
            (
                name,
                spread(found, lambda row: row["model"]["accuracy"]),
                lost(found, standard),
                spread(found, lambda row: row["model"]["retention"]),
                spread(found, lambda row: row["model"]["coupling"], 1, 3),
                spread(found, lambda row: row["model"]["cohesion"], 1, 3),
                spread(found, lambda row: row["seconds"], 1, 0),
            )
            for name, found in methods.items()
        ]
        columns = ("method", "accuracy, %", "points lost", "kernels kept, %", "coupling", "cohesion", "training, s")
        print_table(title, columns, table)
        table = [
            (
                name,
                spread(found, lambda row: mean_of(row, "balanced")),
                spread(found, lambda row: mean_of(row, "area"), 1, 4),
                spread(found, lambda row: mean_of(row, "parameters") / row["model"]["parameters"]),
                spread(found, lambda row: mean_of(row, "multiplications") / row["model"]["multiplications"]),
            )
            for name, found in methods.items()
        ]
        columns = ("modules of one class", "balanced accuracy, %", "AUC", "parameters, %", "multiplications, %")
        print_table("", columns, table)
        print_table("", composed_columns(tuned), list(composed_rows(methods, tuned)))


def composed_columns(tuned: bool) -> tuple[str, ...]:
    """Give the titles of the table of composed modules."""
    more = ("fine-tuned, %",) if tuned else ()
    return (
        "composed",
        "classes",
        "accuracy, %",
        *more,
        "whole network, %",
        "parameters, %",
        "ms an image",
        "whole, ms",
    )


def composed_rows(methods: Mapping[str, Sequence[Row]], tuned: bool) -> Iterator[tuple[str, ...]]:
    """Give the rows of the table of composed modules."""
    for name, found in methods.items():
        for index, first in enumerate(found[0]["composed"]):
            parts = [{**row["composed"][index], "model": row["model"]} for row in found]
            yield (
                name,
                str(first["classes"]),
                spread(parts, lambda part: part["accuracy"]),
                *([spread(parts, lambda part: part["tuned_accuracy"])] if tuned else []),
                spread(parts, lambda part: part["model_accuracy"]),
                spread(parts, lambda part: part["parameters"] / part["model"]["parameters"], 100, 1),
                spread(parts, lambda part: part["latency_s"], 1000),
                spread(parts, lambda part: part["model"]["latency_s"], 1000),
            )


def main() -> None:
    """Read the arguments, train, judge and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["fashion-mnist"], help="data sets, as 'modules train' takes them")
    parser.add_argument("--networks", nargs="+", default=list(WIDTHS), help="networks by name")
    parser.add_argument("--methods", nargs="+", default=["standard", "mwt", "moda"], choices=list(METHODS))
    parser.add_argument("--width", type=float, help="width of every network; default: 0.25")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--images", type=int, metavar="N", help="train on N images of each data set; default: all")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--mixed", action="store_true", help="compute matrix products in bfloat16")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--flip", action="store_true", help="mirror half of the training images")
    parser.add_argument("--fine-tune", type=int, default=2, help="epochs of fine-tuning composed modules; 0 for none")
    parser.add_argument(
        "--weight", action="append", type=term_weight, default=[], metavar="TERM=X", help="weight of a method's term"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work", type=Path, default=Path("bench/results/modular"), help="where trainings are kept")
    parser.add_argument("--quick", action="store_true", help="a small network on small images, in a minute")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.data, arguments.networks, arguments.width = ["shapes"], ["tiny"], 0.5
        arguments.epochs, arguments.seeds, arguments.fine_tune = 5, 1, 1
    torch.set_num_threads(arguments.threads)
    rows = train_once(arguments)
    show(rows, bool(arguments.fine_tune))
    print_table("The papers, at full size", ("network", "figures"), PAPERS)
    write_results("modular", {"arguments": {**vars(arguments), "work": str(arguments.work)}, "rows": rows})


if __name__ == "__main__":
    main()
