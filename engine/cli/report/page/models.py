"""The section of a merge's page that shows what every model gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dovetail.engine.cli.report.page.parts import Column, Part, Section, Table
from dovetail.engine.output.manifest import pair_overlaps
from dovetail.engine.output.places import ratio


def models_section(names: Sequence[str], totals: Mapping[str, Any]) -> Section:
    """Show what every model gives, and where two of them keep a change at the same place.

    Parameters
    ----------
    names
        Names of the models.
    totals
        Statistics of the whole merge, as in the manifest.

    """
    norms, kept = (np.array(totals[key], dtype=float) for key in ("task_vector_norm", "kept_norm"))
    shares = [ratio(*each) for each in zip(kept, norms, strict=True)]
    parts: list[Part] = [
        Table(
            "What every model gives",
            [
                Column("model", list(names)),
                Column("density", list(totals["density"]), percent=True),
                Column("task vector norm", norms.tolist()),
                Column("norm kept", kept.tolist()),
                Column("share of the norm kept", shares, percent=True),
            ],
        )
    ]
    if pairs := pair_overlaps(totals):
        parts.append(
            Table(
                "Overlap",
                [
                    Column("model", [names[i] for i, _, _ in pairs]),
                    Column("and", [names[j] for _, j, _ in pairs]),
                    Column("overlap", [value for _, _, value in pairs], percent=True),
                ],
            )
        )
    return Section(
        "Models",
        (
            "A task vector is a fine-tuned model minus the base model. Its norm says how much fine-tuning has changed; "
            "the norm kept, how much of that the merge takes, before weights. Density is the share of a model's "
            "elements whose changes the merge keeps.",
            "Overlap is, of the places where either of "
            "two models keeps a change, the share where both do: there they are in conflict.",
        ),
        parts,
    )
