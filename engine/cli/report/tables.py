"""Showing plans, finished merges, checkpoints, verifications and methods, as tables for people or JSON for programs."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from dovetail.engine import events
from dovetail.engine.actions.verify import Verdict
from dovetail.engine.cli.report.console import line_width, new_grid, new_table, show
from dovetail.engine.errors import VerificationError
from dovetail.engine.methods.method import REQUIRED, Method, Parameter
from dovetail.engine.output.manifest import MANIFEST_NAME, has_task_vectors, norm_text, pair_overlaps
from dovetail.engine.planning.plan import Plan
from dovetail.engine.run.budget import Budget
from dovetail.engine.text import counted, format_size, short_name
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.errors import readable
from dovetail.io.output import format_of

if TYPE_CHECKING:
    from dovetail.engine.actions.forecasts import Forecast


def _facts(rows: Mapping[str, str]) -> Table:
    table = new_grid(None, None)
    for name, value in rows.items():
        table.add_row(name, value)
    return table


BASE_MODELS = {
    "origin": "required: the model that the others were made from",
    "pair": "required: one of the two models that are merged",
    "optional": "optional: if given, the model that the others were made from",
    "member": "optional: a model like any other",
}
"""For each kind of base model that a method can have, what ``dovetail methods`` says about it."""


def print_summary(manifest: Mapping[str, Any], done: events.Done) -> None:
    """Print what a merge did: size, speed, memory, and how much each model contributed."""
    totals = manifest["totals"]
    moved = done.read_bytes + done.written_bytes
    speed = f"{moved / max(done.merge_seconds, 1e-9) / 1e9:.2f} GB/s read and written"
    form = format_of(manifest)
    parts = form.data_noun or counted(len(manifest["shards"]), form.part_noun)
    rows = {
        "Output": f"{done.output} ({format_size(done.output_bytes)} in {parts})",
        "Time": f"{done.seconds:.1f} s, of these {done.merge_seconds:.1f} s merging at {speed}, "
        f"{counted(done.workers, 'worker')}",
        "Memory": f"peak {format_size(done.peak_resident_bytes)} of {format_size(done.allowed_bytes)} allowed",
    }
    show(_facts({**rows, **made_now(done)}))
    if has_task_vectors(totals):
        show(_model_table(manifest["models"], totals))
    for i, j, value in pair_overlaps(totals):
        names = f"{short_name(manifest['models'][i])} and {short_name(manifest['models'][j])}"
        show(f"Overlap of {names}: {value:.4%}")
    show(
        f"Statistics and checksums of every tensor: {done.output}/{MANIFEST_NAME}",
        f"As a web page: dovetail report {shlex.quote(str(done.output))}",
    )


def made_now(done: events.Done) -> dict[str, str]:
    """Say, with its name, how much of an output this run has made, if others have made some of it."""
    if done.share_made == 1:
        return {}
    made = f"{done.share_made:.1%} of the chunks, {format_size(done.read_bytes + done.written_bytes)} read and written"
    return {"This run": f"{made}; earlier runs or other processes made the others"}


def print_store(manifest: Mapping[str, Any], done: events.Done) -> None:
    """Print what a store of task vectors takes, how long it took to make, and how much of each model it has."""
    size_bytes = sum(path.stat().st_size for path in Path(done.output).rglob("*") if path.is_file())
    peak = f"peak {format_size(done.peak_resident_bytes)} of {format_size(done.allowed_bytes)} allowed"
    time = f"{done.seconds:.1f} s, {counted(done.workers, 'worker')}"
    rows = {"Store": f"{done.output} ({format_size(size_bytes)})", "Time": time, "Memory": peak}
    show(_facts({**rows, **made_now(done)}))
    if has_task_vectors(manifest["totals"]):
        show(_model_table(manifest["models"], manifest["totals"]))
    show(f"To merge from it, add this line to the recipe:  vectors: {done.output}")


def print_conversion(done: events.Done) -> None:
    """Print what a conversion did: size, speed and memory."""
    speed = (done.read_bytes + done.written_bytes) / max(done.merge_seconds, 1e-9) / 1e9
    now = "".join(f"; this run: {text}" for text in made_now(done).values())
    show(
        f"{done.output}: {format_size(done.output_bytes)} in {done.seconds:.1f} s, {speed:.2f} GB/s read and written, "
        f"peak memory {format_size(done.peak_resident_bytes)} of {format_size(done.allowed_bytes)} allowed{now}"
    )


def _model_table(models: list[str], totals: Mapping[str, Any]) -> Table:
    table = new_table("Model", "density", "task vector norm", "norm kept")
    for index, name in enumerate(models):
        table.add_row(
            short_name(name),
            f"{totals['density'][index]:.4%}",
            norm_text(totals["task_vector_norm"][index], 5),
            norm_text(totals["kept_norm"][index], 5),
        )
    return table


def plan_json(plan: Plan, budget: Budget) -> dict[str, Any]:
    """Give a plan, and the memory that it will run in, as a JSON object."""
    plan = plan.frugal() if budget.frugal else plan
    return {
        "method": plan.method.name,
        "base_model": None if plan.base is None else str(plan.base.path),
        "models": list(plan.models),
        "adapters": [
            {"model": str(item.path), "adapter": str(item.adapter.folder), "tensors": item.adapter.tensor_count}
            for item in plan.checkpoints
            if item.adapter is not None
        ],
        "tensors": len(plan.tensors),
        "tasks": plan.task_count,
        "passes": max((tensor.passes for tensor in plan.tensors), default=0),
        "read_bytes": plan.read_bytes,
        "write_bytes": plan.write_bytes,
        "format": plan.options.format.name,
        "shards": [{"name": shard.file_name, "size_bytes": shard.size_bytes} for shard in plan.layout.shards],
        "allowed_bytes": budget.allowed_bytes,
        "reserved_bytes": budget.reserved_bytes,
        "task_bytes": budget.task_bytes,
        "projected_bytes": budget.projected_bytes,
        "workers": budget.workers,
        "warnings": list(plan.warnings),
        "hash": plan.hash,
    }


def print_plan(plan: Plan, budget: Budget) -> None:
    """Print what a merge by this plan would read, write and hold in memory."""
    plan = plan.frugal() if budget.frugal else plan
    dtypes, form = Counter(tensor.dtype.torch_name for tensor in plan.tensors), plan.options.format
    elements = sum(tensor.length for tensor in plan.tensors)
    rows = {
        "Method": plan.method.name,
        "Base model": "none" if plan.base is None else str(plan.base.path),
        "Models": ", ".join(plan.models) or "none",
        "Output": f"{counted(len(plan.tensors), 'tensor')}, {elements:,} elements, "
        + ", ".join(f"{count} {name}" for name, count in dtypes.most_common()),
        "Read": f"{format_size(plan.read_bytes)} in {counted(plan.task_count, 'task')}, at most "
        f"{counted(max((tensor.passes for tensor in plan.tensors), default=0), 'pass')} over a tensor",
        "Write": ("at most " if form.sizes_are_limits else "")
        + f"{format_size(plan.write_bytes)} in {counted(len(plan.layout.shards), form.part_noun)}",
        "Memory": f"at most {format_size(budget.projected_bytes)} of {format_size(budget.allowed_bytes)} allowed: "
        f"{format_size(budget.reserved_bytes)} for the program, {format_size(budget.task_bytes)} for each of "
        f"{counted(budget.workers, 'worker')}",
        "Hash": plan.hash[:16],
    }
    show(_facts(rows))
    for item in plan.checkpoints:
        if item.adapter is not None:
            changed = counted(item.adapter.tensor_count, "tensor")
            show(f"Adapter {item.adapter.folder}: applied to {changed} of {item.path} while they are read")
    for warning in plan.warnings:
        show(f"warning: {warning}")


def stages_json(forecasts: Sequence[Forecast], budgets: Sequence[Budget | None]) -> dict[str, Any]:
    """Give the plans of a recipe as a JSON object: the plan itself if there is one stage, else a list of stages."""
    if len(forecasts) == 1:
        (plan,), (budget,) = [each.plan for each in forecasts], budgets
        assert plan is not None, "a recipe of one document needs no stage, so that it can always be planned"
        assert budget is not None
        return plan_json(plan, budget)
    return {
        "stages": [
            {
                "name": each.stage.name,
                "needs": list(each.stage.needs),
                "complete": each.complete,
                "plan": None if each.plan is None or budget is None else plan_json(each.plan, budget),
            }
            for each, budget in zip(forecasts, budgets, strict=True)
        ]
    }


def print_stages(forecasts: Sequence[Forecast], budgets: Sequence[Budget | None]) -> None:
    """Print what every stage of a recipe would read, write and hold in memory."""
    for number, (each, budget) in enumerate(zip(forecasts, budgets, strict=True), 1):
        if len(forecasts) > 1:
            needs = f", from {', '.join(each.stage.needs)}" if each.stage.needs else ""
            unused = "" if each.stage.needed else " (nothing uses it: merged only with --stages)"
            show(f"Stage {number} of {len(forecasts)}: {each.title}{needs}{unused}")
        if each.plan is None or budget is None:
            show(f"can be planned only after merging {', '.join(each.stage.needs)}")
        elif each.complete:
            show("is merged already")
        else:
            print_plan(each.plan, budget)
        if number < len(forecasts):
            show("")


def checkpoint_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """Give a checkpoint's files, metadata and tensors as a JSON object."""
    return {
        "path": str(checkpoint.path),
        "files": [{"name": file.name, "size_bytes": file.size_bytes} for file in checkpoint.files],
        "metadata": dict(checkpoint.metadata),
        "tensors": {
            name: {
                "dtype": info.dtype.name if info.stored is None else info.output_dtype.name,
                "shape": list(info.shape),
                "size_bytes": info.nbytes,
                **({} if info.stored is None else {"stored": info.stored.text}),
            }
            for name, info in checkpoint.tensors.items()
        },
        **({"notes": list(checkpoint.notes)} if checkpoint.notes else {}),
        "elements": sum(info.length for info in checkpoint.tensors.values()),
        "size_bytes": checkpoint.nbytes,
        "warnings": list(checkpoint.notes),
    }


def print_checkpoint(checkpoint: Checkpoint) -> None:
    """Print a checkpoint's tensors, then its totals, then warnings about it."""
    table = new_table("Tensor", "dtype", "shape", "size", texts=3)
    for name, info in checkpoint.tensors.items():
        table.add_row(
            name,
            info.dtype.torch_name if info.stored is None else info.stored.text,
            " x ".join(map(str, info.shape)) or "scalar",
            format_size(info.nbytes),
        )
    show(table)
    elements = sum(info.length for info in checkpoint.tensors.values())
    show(
        f"{counted(len(checkpoint.tensors), 'tensor')}, {elements:,} elements, {format_size(checkpoint.nbytes)} in "
        f"{counted(len(checkpoint.files), 'file')}"
    )
    for note in checkpoint.notes:
        show(f"warning: {note}")


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """Give the result of a verification as a JSON object."""
    return {
        "event": "verdict",
        "sound": not verdict.damage,
        "damage": list(verdict.damage),
        "unlisted": list(verdict.unlisted),
        "checked_bytes": verdict.checked_bytes,
    }


def conclude_verification(output: Path, verdict: Verdict, *, quiet: bool) -> None:
    """Print the result of a verification, and raise an error if it found damage.

    Raises
    ------
    VerificationError
        A part of the output is damaged.

    """
    if not quiet:
        for line in verdict.damage:
            show(readable(line))
        for name in verdict.unlisted:
            show(readable(f"not in the manifest, not checked: {name}"))
    if verdict.damage:
        raise VerificationError(
            f"{output} is damaged: {verdict.damage[0]}"
            + (f", and {len(verdict.damage) - 1} more" if len(verdict.damage) > 1 else ""),
            "the bytes that were written",
            "make the output again, or copy it again from where it is whole",
        )
    if not quiet:
        show(f"{output} is whole: {format_size(verdict.checked_bytes)} are as its manifest says")


def methods_json(methods: Mapping[str, Method]) -> list[dict[str, Any]]:
    """Give the table of methods as a JSON list."""
    return [
        {
            "name": method.name,
            "summary": method.summary,
            "paper": method.paper,
            "base_model": method.base,
            "plug_in": None if method.plug_in is None else asdict(method.plug_in),
            "parameters": [
                {
                    "name": parameter.name,
                    "kind": parameter.kind,
                    "scope": parameter.scope,
                    "required": parameter.default is REQUIRED,
                    "default": None if parameter.default is REQUIRED else parameter.default,
                    "choices": list(parameter.choices),
                    "synonyms": list(parameter.synonyms),
                    "help": parameter.help,
                }
                for parameter in method.parameters
            ],
        }
        for method in methods.values()
    ]


def print_methods(methods: Mapping[str, Method]) -> None:
    """Print the methods, each with its paper, base model and parameters."""
    for method in methods.values():
        show(f"{method.name}: {method.summary}")
        if method.paper:
            show(f"  paper       {method.paper}")
        if method.plug_in:
            show(f"  plug-in     {method.plug_in}")
        show(f"  base model  {BASE_MODELS[method.base]}")
        width = line_width()
        table = new_grid(None, None if width is None else width // 4, None)
        for parameter in method.parameters:
            table.add_row(parameter.name, _default(parameter), parameter.help)
        show(table, indent=4)
        show("")


def _default(parameter: Parameter) -> str:
    each = " a model" if parameter.scope == "model" else ""
    if parameter.default is REQUIRED:
        return f"required{each}"
    default = str(parameter.default).lower() if isinstance(parameter.default, bool) else parameter.default
    choices = " | ".join(parameter.choices)
    return f"{choices or parameter.kind}{each}, default {'none' if default is None else default}"
