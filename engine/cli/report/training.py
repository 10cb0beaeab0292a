"""What training, counting and evaluation have found, for people and programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail.engine.cli.report.console import new_table, show
from dovetail.engine.text import counted, percent

if TYPE_CHECKING:
    from dovetail.engine.modular.network.counts import Counts
    from dovetail.engine.modular.network.parent import Parent


_CALIBRATED = ("temperature", "bias")


def print_training(output: Path, about: Mapping[str, Any]) -> None:
    """Say how a training has ended.

    Parameters
    ----------
    output
        Folder of the network.
    about
        What `train` gave.

    """
    history, kept = about["history"], about["kept_epoch"]
    last = history[kept - 1]
    which = "the last" if kept == len(history) else f"epoch {kept}, the best"
    show(
        f"{output}: {counted(len(history), 'epoch')} in {about['seconds']:.1f} s; of {which}: loss {last['loss']:.3f}, "
        f"{percent(last['right'])} right in training, {percent(last['validation'])} in validation",
        f"'dovetail modules evaluate {output}' says how good it and its modules are",
    )


def counts_json(parent: Parent, counts: Counts, threshold: float) -> dict[str, Any]:
    """Give samples and kept kernels of every class as JSON."""
    from dovetail.engine.modular.network.counts import kernels_of

    rows = []
    for number, name in enumerate(parent.classes):
        kept = kernels_of(counts, number, name, threshold, parent.architecture).kept
        layers = {layer: int(each.sum()) for layer, each in kept.items()}
        total = sum(each.size for each in kept.values())
        rows.append({"class": name, "samples": int(counts.samples[number]), "layers": layers, "of": total})
    return {"threshold": threshold, "classes": rows}


def print_counts(parent: Parent, counts: Counts, threshold: float) -> None:
    """Say how many kernels each class uses, at a threshold."""
    found = counts_json(parent, counts, threshold)
    table = new_table("class", "images", "kernels kept", "of", "share")
    for row in found["classes"]:
        kept = sum(row["layers"].values())
        table.add_row(row["class"], f"{row['samples']:,}", f"{kept:,}", f"{row['of']:,}", percent(kept / row["of"]))
    show(table)
    show(f"kept are kernels that at least {percent(threshold)} of a class's images use")


def print_figures(found: Mapping[str, Any]) -> None:
    """Show what `judge` gave."""
    model = found["model"]
    show(
        f"network: {percent(model['accuracy'])} right, {model['parameters']:,} parameters, "
        f"{_millions(model['multiplications'])} multiplications an image{_time(model)}",
        f"modules keep {percent(model['retention'])} of the masked kernels (threshold {model['threshold']:g}); "
        f"coupling {model['coupling']:.3f}, cohesion {model['cohesion']:.3f}",
    )
    table = new_table("module", "kernels", "parameters", "M mult.", "recall", "specificity", "balanced", "AUC")
    for row in found["modules"]:
        rates = (percent(row[key]) for key in ("recall", "specificity", "balanced"))
        costs = (percent(row["kernels"]), f"{row['parameters']:,}", _millions(row["multiplications"], unit=""))
        table.add_row(row["class"], *costs, *rates, f"{row['area']:.3f}")
    show("", table)
    if found["composed"]:
        show("", _composed(found["composed"]))


def print_module(found: Mapping[str, Any]) -> None:
    """Show what `judge_module` gave."""
    show(
        f"module: {percent(found['accuracy'])} right, {found['parameters']:,} parameters, "
        f"{_millions(found['multiplications'])} multiplications an image{_time(found)}"
    )
    table = new_table("class", "images", "right")
    for row in found["classes"]:
        table.add_row(row["class"], f"{row['images']:,}", percent(row["right"]))
    show("", table)
    if "calibrations" in found:
        table = new_table("branch", "temperature", "bias")
        for row in found["calibrations"]:
            table.add_row(row["parent"], f"{row['temperature']:.6g}", f"{row['bias']:.6g}")
        temperatures, biases = (",".join(f"{row[key]:.6g}" for row in found["calibrations"]) for key in _CALIBRATED)
        show(
            "",
            table,
            f"calibrated so, {percent(found['calibrated_accuracy'])} are right: compose the modules again with "
            f"--temperature {temperatures} --bias={biases}",
        )


def _composed(rows: list[dict[str, Any]]) -> Any:
    tuned, timed = "tuned_accuracy" in rows[0], "latency_s" in rows[0]
    titles = ["composed", "right", *(["fine-tuned"] if tuned else []), "whole network", "parameters", "M mult."]
    table = new_table(*titles, *(["ms an image"] if timed else []))
    for row in rows:
        rates = [row["accuracy"], *([row["tuned_accuracy"]] if tuned else []), row["model_accuracy"]]
        costs = [f"{row['parameters']:,.0f}", _millions(row["multiplications"], unit="")]
        times = [f"{row['latency_s'] * 1000:.2f}"] if timed else []
        table.add_row(counted(row["classes"], "class"), *map(percent, rates), *costs, *times)
    return table


def _millions(count: float, unit: str = " million") -> str:
    return f"{count / 1e6:,.2f}{unit}"


def _time(row: Mapping[str, Any]) -> str:
    return f", {row['latency_s'] * 1000:.2f} ms an image on the processor" if "latency_s" in row else ""
