"""What modules and modular networks are, for people and programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail.engine import events
from dovetail.engine.cli.report.console import new_table, show
from dovetail.engine.text import counted, format_size, percent

if TYPE_CHECKING:
    from dovetail.engine.modular.extraction.document import Module, Origin
    from dovetail.engine.modular.network.inputs import InputScale
    from dovetail.engine.modular.network.parent import Parent

MASKS = {
    "generators": "mask generators kept",
    "folded": "mean masks folded into the weights",
    "hard": "no soft masks",
}
"""What people read for what a module has of soft masks."""


def module_json(module: Module) -> dict[str, Any]:
    """Describe a module as a JSON object."""
    said = module.description
    return {
        "folder": str(module.folder),
        "classes": list(said.classes),
        "parameters": _parameters(said.architecture.tensor_shapes()),
        "tensors": len(said.tensors),
        "nbytes": module.checkpoint.nbytes,
        "inputs": _inputs(said.architecture.input_shape, said.parents[0].inputs if said.parents else None),
        "parents": [_origin_json(origin) for origin in said.parents],
    }


def _origin_json(origin: Origin) -> dict[str, Any]:
    return {
        "name": origin.name,
        "digest": origin.digest,
        "masks": origin.masks,
        "threshold": origin.threshold,
        "classes": {
            name: {
                "samples": share.samples,
                "kernels": sum(share.kernels.values()),
                "layers": dict(share.kernels),
                "thresholds": dict(share.thresholds),
            }
            for name, share in origin.classes.items()
        },
        "layers": {layer: {"kept": int(mask.sum()), "of": len(mask)} for layer, mask in origin.kept.items()},
    }


def print_module(module: Module, done: events.Done | None = None) -> None:
    """Say what a module has of its parents, layer by layer.

    Parameters
    ----------
    module
        The module.
    done
        How it was written; None if that is not to be said.

    """
    found = module_json(module)
    for origin in found["parents"]:
        show(f"of {origin['name']} ({origin['digest']}), threshold {origin['threshold']:g}, {MASKS[origin['masks']]}:")
        shown = dict(list(origin["classes"].items())[:_MOST_CLASSES])
        table = new_table("layer", "kernels", "of", "share", *(_short(name) for name in shown))
        for layer, row in origin["layers"].items():
            own = [str(share["layers"][layer]) for share in shown.values()]
            table.add_row(layer, f"{row['kept']:,}", f"{row['of']:,}", percent(row["kept"] / row["of"]), *own)
        kept, of = (sum(row[key] for row in origin["layers"].values()) for key in ("kept", "of"))
        sums = [str(share["kernels"]) for share in shown.values()]
        if origin["layers"]:
            table.add_row("all", f"{kept:,}", f"{of:,}", percent(kept / of), *sums)
            show(table)
        if len(shown) < len(origin["classes"]):
            show(f"and {len(origin['classes']) - len(shown)} classes more, which --json shows")
    show(
        _inputs_text(found["inputs"]),
        f"classes, in the order of the logits: {', '.join(found['classes'])}",
        f"{module.folder}: {counted(found['parameters'], 'parameter')} in {counted(found['tensors'], 'tensor')}, "
        f"{format_size(found['nbytes'])}",
    )
    if done is not None:
        show(
            f"written in {done.seconds:.1f} s, peak memory {format_size(done.peak_resident_bytes)} of "
            f"{format_size(done.allowed_bytes)} allowed"
        )


def parent_json(parent: Parent) -> dict[str, Any]:
    """Describe a modular network as a JSON object."""
    from dovetail.engine.modular.network.architecture import masked_layers

    shapes = parent.whole.tensor_shapes()
    return {
        "folder": str(parent.folder),
        "classes": list(parent.classes),
        "parameters": _parameters(shapes),
        "generators": parent.generators,
        "threshold": parent.threshold,
        "inputs": _inputs(parent.architecture.input_shape, parent.inputs),
        "layers": {layer: parent.architecture.shapes[layer][0] for layer in masked_layers(parent.architecture)},
        "about": dict(parent.about),
    }


def print_parent(parent: Parent) -> None:
    """Say what a modular network is, layer by layer."""
    found = parent_json(parent)
    table = new_table("masked layer", "kernels", "height", "width")
    for layer, kernels in found["layers"].items():
        _, height, width = parent.architecture.shapes[layer]
        table.add_row(layer, f"{kernels:,}", str(height), str(width))
    show(table)
    generators = "with mask generators" if parent.generators else "without mask generators"
    show(
        _inputs_text(found["inputs"]),
        f"classes, in the order of the logits: {', '.join(found['classes'])}",
        f"{parent.folder}: a modular network {generators}, "
        f"{counted(found['parameters'], 'parameter')}, threshold {parent.threshold:g}",
        f"'dovetail modules extract {parent.folder} OUT --classes {found['classes'][0]}' takes a module out of it",
    )


def print_written(output: Path, done: events.Done | None) -> None:
    """Say what a module that was just written, or was there already, is."""
    from dovetail.engine.modular.extraction.document import read_module

    print_module(read_module(output), done if done is not None and not done.already else None)


def _inputs(shape: Sequence[int], scale: InputScale | None) -> dict[str, Any]:
    return {"shape": list(shape), **({} if scale is None else scale.to_json())}


def _inputs_text(inputs: Mapping[str, Any]) -> str:
    text = f"inputs: {' x '.join(map(str, inputs['shape']))}"
    if "mean" not in inputs:
        return text
    mean, deviation = (", ".join(f"{value:.4g}" for value in inputs[key]) for key in ("mean", "deviation"))
    return f"{text}, pixels from 0 to 1, minus {mean}, divided by {deviation}"


_MOST_CLASSES = 8  # columns of a table


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"


_STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")


def _parameters(shapes: Mapping[str, Sequence[int]]) -> int:
    """Count weights, without the statistics of normalisations."""
    total = 0
    for name, shape in shapes.items():
        if not name.endswith(_STATISTICS):
            size = 1
            for extent in shape:
                size *= extent
            total += size
    return total
