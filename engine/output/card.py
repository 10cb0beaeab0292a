"""The cards of merged and converted models, and of stores of task vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dovetail.engine.output.lineage import card_head, hub_names, library_of
from dovetail.engine.output.manifest import MANIFEST_NAME, has_task_vectors, norm_text, pair_overlaps
from dovetail.engine.output.markdown import block, cell, code, heading
from dovetail.engine.output.pictures import Picture
from dovetail.engine.planning.plan import Plan
from dovetail.engine.text import short_name
from dovetail.io.formats.side_files import is_side_file, read_side_file

CARD_NAME = "README.md"
"""File name of a model card."""

LONGEST_CARD_BYTES = 2**20
"""Largest model card of a source, in bytes, that is taken over into a conversion."""


def model_card(
    plan: Plan,
    totals: dict[str, Any],
    earlier: Sequence[Mapping[str, Any]] = (),
    pictures: Iterable[Picture] = (),
) -> str:
    """Write the README.md of a merged model: which models were merged, how, and with what statistics.

    Parameters
    ----------
    plan
        The merge.
    totals
        Statistics of the whole merge, as in the manifest.
    earlier
        Entries of the manifest for the stages whose results were merged.
    pictures
        What the card shows, as files beside it.

    """
    lines = [
        *card_head(hub_names(plan.checkpoints, earlier), "merge", library_of(plan), "dovetail", "merge"),
        "",
        "# Merged model",
        "",
        f"Merged with Dovetail by `{plan.method.name}`"
        + (f" of {plan.method.plug_in}" if plan.method.plug_in else "")
        + (f" ([paper]({plan.method.paper}))." if plan.method.paper else "."),
        "",
    ]
    if plan.recipe.base_model is not None:
        lines += [f"Base model: {code(short_name(str(plan.recipe.base_model)))}.", ""]
    if has_task_vectors(totals):
        lines += ["| model | density | task vector norm | norm kept |", "|---|---|---|---|"]
    elif plan.models:
        lines += ["| model |", "|---|"]
    for index, name in enumerate(plan.models):
        cells = [cell(short_name(name))]
        if has_task_vectors(totals):
            cells += [
                f"{totals['density'][index]:.4f}",
                norm_text(totals["task_vector_norm"][index], 4),
                norm_text(totals["kept_norm"][index], 4),
            ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for i, j, value in pair_overlaps(totals):
        first, second = (code(short_name(plan.models[place])) for place in (i, j))
        lines.append(f"Overlap of {first} and {second}: {value:.4f}.")
    for picture in pictures:
        lines += ["", f"![{picture.title}]({picture.name})"]
    lines += [
        "",
        "## Recipe",
        "",
        *block(plan.recipe.text.strip(), "yaml"),
        "",
        f"Per-tensor statistics and checksums: `{MANIFEST_NAME}`.",
        "",
    ]
    return "\n".join(lines)


def store_card(plan: Plan, totals: dict[str, Any]) -> str:
    """Write the README.md of a store of task vectors: of which models it is, and how one merges from it.

    Parameters
    ----------
    plan
        The plan of the store.
    totals
        Statistics of the whole store, as in the manifest.

    """
    lines = [
        *card_head((), "", {}, "dovetail", "task-vectors"),
        "",
        "# Task vectors",
        "",
        f"What each of these models keeps of its changes to {code(short_name(str(plan.recipe.base_model)))}, by the "
        "recipe below. This is no model. With the base model, Dovetail merges it by any weights: the recipe needs a "
        "line `vectors:` with the name of this folder.",
        "",
        "| model | density | norm kept |",
        "|---|---|---|",
    ]
    for index, name in enumerate(plan.models):
        density, norm = totals["density"][index], norm_text(totals["kept_norm"][index], 4)
        lines.append(f"| {cell(short_name(name))} | {density:.4f} | {norm} |")
    lines += ["", "## Recipe", "", *block(plan.recipe.text.strip(), "yaml"), ""]
    return "\n".join([*lines, f"Per-tensor statistics and checksums: `{MANIFEST_NAME}`.", ""])


def conversion_card(plan: Plan) -> str:
    """Write the README.md of a converted checkpoint: the source's card, which stays true, and what was converted."""
    dtypes = sorted({tensor.dtype.torch_name for tensor in plan.tensors if tensor.problem is not None})
    done = (
        f"stored as {dtypes[0]} (integer tensors are unchanged)" if dtypes else "every tensor is the same, bit for bit"
    )
    text = f"Converted with Dovetail from {code(short_name(plan.models[0]))}: {done}. Checksums: `{MANIFEST_NAME}`."
    own = _own_card(plan)
    if own is not None:
        return f"{own.rstrip()}\n\n---\n\n{text}\n"
    head = card_head((), "", library_of(plan), "dovetail")
    return "\n".join([*head, "", f"# {heading(short_name(plan.models[0]))}", "", text, ""])


def _own_card(plan: Plan) -> str | None:
    """Read the source's card; None if its folder has none, or if it is too large, no text, or a link to elsewhere."""
    folder = plan.side_checkpoint.side_folder
    if folder is None or not is_side_file(folder, CARD_NAME):
        return None
    try:
        data = read_side_file(folder / CARD_NAME)
        return data.decode() if len(data) <= LONGEST_CARD_BYTES else None
    except UnicodeDecodeError:
        return None
