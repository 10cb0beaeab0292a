"""Extracting a module: the function behind ``dovetail modules extract``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dovetail.engine import events
from dovetail.engine.actions.given_manifest import gives_manifest
from dovetail.engine.modular.extraction.branch import Branch, extract_branch, masks_of
from dovetail.engine.modular.extraction.digest import digest_of
from dovetail.engine.modular.extraction.document import ModuleDescription
from dovetail.engine.modular.extraction.indices import indices_text
from dovetail.engine.modular.extraction.writing import Wanted, unused_tensors, write_module
from dovetail.engine.modular.network.counts import COUNTS_NAME, open_counts, read_counts
from dovetail.engine.modular.network.parent import Parent, read_parent
from dovetail.engine.progress import shows_progress
from dovetail.engine.run.prepare import RunOptions
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.files.home import expand_home


@gives_manifest
@shows_progress("extracting")
def extract_module(
    parent: str | os.PathLike[str],
    output: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
    *,
    threshold: float | None = None,
    masks: str | None = None,
    run: RunOptions | None = None,
    listen: events.Listener = events.ignore,
    progress: bool | events.Listener = False,
) -> dict[str, Any]:
    """Write what some classes need of a modular network as a network of its own.

    A kernel belongs to a class if enough of the class's samples use it; `dovetail.engine.modular.network.counts` says
    how many. The module has the kernels of all its classes, and computes what the parent computes with all other
    kernels masked. It is written by gathering rows and columns of the parent's tensors, in bounded memory; torch is not
    needed. The same call after an interruption continues where the journal ends.

    Parameters
    ----------
    parent
        Folder of the modular network, with ``modular.json`` and ``counts.safetensors``.
    output
        Folder to make; it appears under its name only when it is complete.
    classes
        The classes, in the order that their logits are to have; None for all.
    threshold
        Share of a class's samples that must use a kernel, above 0 and at most 1; None for the parent's.
    masks
        What the module has of soft masks: their ``generators``, the mean masks of its classes, ``folded`` into its
        weights, or nothing (``hard``). None for generators if the parent has them, else for nothing.
    run
        How the work is done; no effect on the output's bytes.
    listen
        Receives events, on the calling thread.
    progress
        True shows a bar with bytes done, rate and time left, in a terminal or a notebook. A function receives every
        event, as `listen` does.

    Returns
    -------
    Manifest
        A dict: the manifest but for its ``tensors``; ``module`` in it has classes, thresholds and kernels.

    Raises
    ------
    DovetailError
        One of the tree in `dovetail.engine.errors` and `dovetail.io.errors`.

    """
    opened = read_parent(os.fspath(parent))
    stored = open_counts(opened)
    counts = read_counts(opened, stored)
    branch = extract_branch(
        opened,
        counts,
        "",
        opened.classes if classes is None else tuple(classes),
        opened.threshold if threshold is None else float(threshold),
        masks_of(opened, masks),
    )
    return write_module(wanted_branch(branch, opened, stored), expand_home(output), run or RunOptions(), listen)


def wanted_branch(branch: Branch, parent: Parent, counts: Checkpoint, digest: str | None = None) -> Wanted:
    """Give the module that one branch is; `digest` is that of its parent, if it is known already."""

    def describe() -> ModuleDescription:
        found = digest or digest_of(parent.checkpoint, parent.whole.tensor_shapes())
        origin = replace(branch.origin, digest=found)
        return ModuleDescription(branch.architecture, branch.classes, (origin,), branch.taken)

    return Wanted(
        describe=describe,
        identity=identity_of(branch),
        tensors=branch.tensors,
        labels=dict.fromkeys(branch.tensors, str(parent.folder)),
        inputs=(str(parent.folder), f"{parent.folder}/{COUNTS_NAME}"),
        checkpoints=(parent.checkpoint, counts),
        warnings=unused_tensors(parent.checkpoint, list(parent.whole.tensor_shapes())),
    )


def identity_of(branch: Branch) -> dict[str, Any]:
    """Give all of a branch that decides its bytes, as a JSON value."""
    origin = branch.origin
    return {
        "classes": list(branch.classes),
        "masks": origin.masks,
        "threshold": origin.threshold,
        "inputs": None if origin.inputs is None else origin.inputs.to_json(),
        "kernels": {layer: indices_text(mask.nonzero()[0]) for layer, mask in origin.kept.items()},
    }
