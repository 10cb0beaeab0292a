"""The model card of a merged model."""

from __future__ import annotations

from typing import Any

import yaml

from dovetail.engine.manifest import MANIFEST_NAME, has_task_vectors, norm_text, pair_overlaps
from dovetail.engine.planned import Plan
from dovetail.engine.report import short_name


def model_card(plan: Plan, totals: dict[str, Any]) -> str:
    """Write the README.md of the output: what was merged, how, and with what result.

    Parameters
    ----------
    plan
        The merge.
    totals
        Statistics of the whole merge, as in the manifest.

    """
    front: dict[str, Any] = {"library_name": "transformers", "tags": ["merge", "dovetail", plan.method.name]}
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        "",
        "# Merged model",
        "",
        f"Merged with Dovetail by `{plan.method.name}`"
        + (f" ([paper]({plan.method.paper}))." if plan.method.paper else "."),
        "",
    ]
    if plan.base is not None:
        lines += [f"Base model: `{short_name(str(plan.base.path))}`.", ""]
    if has_task_vectors(totals):
        lines += ["| model | density | task vector norm | norm kept |", "|---|---|---|---|"]
    else:
        lines += ["| model |", "|---|"]
    for index, name in enumerate(plan.models):
        cells = [f"`{short_name(name)}`"]
        if has_task_vectors(totals):
            cells += [
                f"{totals['density'][index]:.4f}",
                norm_text(totals["task_vector_norm"][index], 4),
                norm_text(totals["kept_norm"][index], 4),
            ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for i, j, value in pair_overlaps(totals):
        lines.append(f"Overlap of `{short_name(plan.models[i])}` and `{short_name(plan.models[j])}`: {value:.4f}.")
    lines += [
        "",
        "## Recipe",
        "",
        "```yaml",
        plan.recipe.text.strip(),
        "```",
        "",
        f"Per-tensor statistics and checksums: `{MANIFEST_NAME}`.",
        "",
    ]
    return "\n".join(lines)
