"""The demonstration: make small checkpoints, merge them by CABS, check the result by other means, and explain it."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from dovetail.engine.actions.merge import merge
from dovetail.engine.actions.verify import read_manifest
from dovetail.engine.cli.report.console import new_grid, show
from dovetail.engine.cli.report.display import Recorder, choose_display
from dovetail.engine.cli.report.tables import print_summary
from dovetail.engine.errors import OutputError
from dovetail.engine.events import Done
from dovetail.engine.output.manifest import MANIFEST_NAME
from dovetail.engine.planning.plan import PlanOptions
from dovetail.engine.run.prepare import RunOptions
from dovetail.engine.synthetic import SIZES, make_checkpoint
from dovetail.engine.text import format_size
from dovetail.io.files.interrupts import deaf_children, held
from dovetail.io.files.threads import result_of
from dovetail.io.output import SafetensorsFormat

KEEP, BLOCK, WEIGHT = 64, 256, 1.2
"""Parameters n, m and weight of CABS: the paper's setting for two 7B models."""

SHARD_BYTES = 48 * 10**6
"""Size of the demonstration's shards in bytes; so small that there are several."""

CHECKED_TENSORS = 8
"""Number of tensors that the check computes again."""

MODELS = ("base", "math", "code")
"""Names of the folders of the base model and of its two fine-tunes."""


def run_demo(folder: Path, memory_bytes: int) -> None:
    """Run the whole demonstration in `folder`: make, merge, check and explain.

    Parameters
    ----------
    folder
        A new folder, or one with an earlier demonstration, which is replaced.
    memory_bytes
        Memory limit of the merge.

    Raises
    ------
    OutputError
        The folder holds something that is not a demonstration, or the merged tensors are wrong.

    """
    recipe, merged = folder / "recipe.yml", folder / "merged"
    if folder.exists() and any(folder.iterdir()) and not recipe.exists():
        raise OutputError(f"folder {folder} is not empty", "a new folder or an earlier demonstration", "choose another")
    folder.mkdir(parents=True, exist_ok=True)
    print(f"1. Making a base model and two fine-tunes (Llama-shaped, bfloat16, sharded) in {folder}/", flush=True)
    print("   Their weights are random numbers: enough to see how a merge works, but no model that talks.", flush=True)
    _make_checkpoints(folder)
    recipe.write_text(_recipe(folder))
    print(f"\n2. Merging them by CABS with {KEEP}:{BLOCK}, in at most {format_size(memory_bytes)} of memory:")
    print("\n".join(f"   | {line}" for line in recipe.read_text().splitlines()), end="\n\n")
    print(f"   dovetail merge {recipe} {merged} --memory {memory_bytes // 2**20}MiB --shard-size 48MB\n", flush=True)
    if merged.exists():
        shutil.rmtree(merged)
    with choose_display(quiet=False, as_json=False) as display:
        recorder = Recorder(display)
        options = PlanOptions(SafetensorsFormat(SHARD_BYTES))
        manifest = merge(recipe, merged, options, RunOptions(memory_bytes), recorder)
    print_summary(manifest, recorder.done[0])
    print("\n3. Checking the result by other means", flush=True)
    for line in check(folder, read_manifest(merged)):
        print(f"   {line}")
    _explain(merged, recipe, _report(merged, recorder.done[0]))


def _make_checkpoints(folder: Path) -> None:
    """Write the checkpoints in other processes, so that the merge does not start with memory that making them took."""
    context = multiprocessing.get_context("spawn")
    with held(), ProcessPoolExecutor(2, mp_context=context) as pool:
        with deaf_children():
            jobs = [
                pool.submit(make_checkpoint, folder / name, SIZES["demo"], index, max_shard_bytes=SHARD_BYTES)
                for index, name in enumerate(MODELS)
            ]
        for name, job in zip(MODELS, jobs, strict=True):
            print(f"   {name:5} {format_size(result_of(job))}", flush=True)


def _recipe(folder: Path) -> str:
    """Write the text of the recipe, as a user would write it."""
    base, *models = (folder / name for name in MODELS)
    lines = ["merge_method: cabs", f"base_model: {base}", "models:"]
    lines += [f"  - model: {model}\n    parameters: {{weight: {WEIGHT}}}" for model in models]
    lines += [f"parameters: {{n: {KEEP}, m: {BLOCK}}}", "dtype: bfloat16", ""]
    return "\n".join(lines)


def check(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Read some tensors with the official safetensors library, merge them with plain numpy, and compare every bit.

    Parameters
    ----------
    folder
        The folder of the demonstration.
    manifest
        The manifest of the merge.

    Returns
    -------
    list of str
        What was checked, in sentences for people.

    Raises
    ------
    OutputError
        A merged tensor differs from numpy's result.

    """
    names = sorted(manifest["tensors"], key=lambda name: (manifest["tensors"][name]["shape"], name))
    step = max(1, len(names) // CHECKED_TENSORS)
    chosen = names[::step][:CHECKED_TENSORS]
    shared = kept = 0
    for name in chosen:
        base, *models, merged = (_load(folder / part, name) for part in (*MODELS, "merged"))
        expected, masks = _plain_cabs(base, models)
        shared += int(np.sum(masks[0] & masks[1]))
        kept += int(masks[0].sum() + masks[1].sum())
        if not np.array_equal(expected, merged):
            raise OutputError(f"tensor {name!r} of the demonstration is wrong", "the same bits as plain numpy")
    return [
        f"{len(chosen)} tensors computed again in plain numpy: every bit is the same",
        f"{kept:,} kept changes in them, {shared} at a place that both models keep",
        "read with the official safetensors library",
    ]


def _load(folder: Path, name: str) -> NDArray[np.uint16]:
    """Read the bits of one bfloat16 tensor, flattened, with the official library."""
    from safetensors import safe_open

    importlib.import_module("ml_dtypes")  # or numpy would not know the dtype bfloat16, by whose name the library asks
    weight_map = json.loads((folder / "model.safetensors.index.json").read_bytes())["weight_map"]
    with safe_open(folder / weight_map[name], framework="np") as file:
        tensor: NDArray[Any] = file.get_tensor(name)
    return tensor.reshape(-1).view(np.uint16)


def _plain_cabs(
    base: NDArray[np.uint16], models: list[NDArray[np.uint16]]
) -> tuple[NDArray[np.uint16], list[NDArray[np.bool_]]]:
    """Merge one tensor, of whole blocks, by the paper's Algorithm 1; also give what each model keeps, as masks."""
    import ml_dtypes

    origin = base.view(ml_dtypes.bfloat16).astype(np.float32)
    claimed = np.zeros(origin.shape, np.bool_)
    change, masks = np.zeros_like(origin), []
    for stored in models:
        tau = stored.view(ml_dtypes.bfloat16).astype(np.float32) - origin
        rank = np.where(claimed | (tau == 0), np.float32(-1), np.abs(tau)).reshape(-1, BLOCK)
        strongest = np.argsort(-rank, axis=1, kind="stable")[:, :KEEP]
        mask = np.zeros(rank.shape, np.bool_)
        np.put_along_axis(mask, strongest, np.take_along_axis(rank, strongest, 1) >= 0, 1)
        masks.append(mask.reshape(-1))
        claimed |= masks[-1]
        change += np.where(masks[-1], np.float32(WEIGHT) * tau, np.float32(0))
    merged = np.where(change == 0, origin, origin + change)
    return merged.astype(ml_dtypes.bfloat16).view(np.uint16), masks


def _command() -> str:
    """Give the command that starts this program again: its name if the shell would find it, else its path."""
    script = sys.argv[0]
    return script if Path(script).name == "dovetail" and shutil.which("dovetail") != script else "dovetail"


def _report(merged: Path, done: Done) -> tuple[str, str]:
    """Write the report of the merge; give its place, or how to have one, and what it is."""
    from dovetail.engine.cli.report.page.kinds import page_of
    from dovetail.engine.cli.report.page.render import is_ready, write_page

    if not is_ready():
        needs = "what the merge did, as a web page; needs the extra 'report': pip install 'dovetail[report]'"
        return f"{_command()} report {merged}", needs
    page = merged.with_name(f"{merged.name}-report.html")
    write_page(page_of(merged, done), page)
    return str(page), "what the merge did, as a web page: open it in a browser"


def _explain(merged: Path, recipe: Path, report: tuple[str, str]) -> None:
    command, share = _command(), KEEP / BLOCK
    print(
        f"""
4. What happened
   A task vector is a fine-tune minus the base model; its norm says how much fine-tuning has changed.
   Of every {BLOCK} consecutive weights, each fine-tune kept its {KEEP} strongest changes: a density of {share:.0%}, or
   less where fewer changes are left. (In bfloat16 many changes are exactly zero: they are never kept.)
   The norm kept is the norm of what was kept: the strongest changes are most of the change.
   No two fine-tunes kept a change at the same place, so the overlap is 0. The first one chose among all places, the
   second among those that were left, which is why it keeps less of its norm. Their order in the recipe decides.

5. Where to look next"""
    )
    rows = new_grid(None, None)
    for cells in (
        report,
        (f"{merged}/README.md", "the model card"),
        (f"{merged}/{MANIFEST_NAME}", "statistics and checksums of every tensor"),
        (f"{command} inspect {merged}", "its tensors"),
        (f"{command} plan {recipe}", "what the merge reads, writes and holds"),
        (f"{command} methods", "all methods and their parameters"),
    ):
        rows.add_row(*map(Text, cells))
    show(rows, indent=3)
