"""Knowing the output of a recipe of several documents again, when the results of its stages are gone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from dovetail.engine.actions.forecasts import Made, forecast_stages, real_checkpoints
from dovetail.engine.output.manifest import options_entry
from dovetail.engine.output.request import Part, Request
from dovetail.engine.output.side_files import inherited_files
from dovetail.engine.planning.identity import input_identity
from dovetail.engine.planning.plan import MATHS_VERSION, PlanOptions
from dovetail.engine.recipe.stages import Stage
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.files.checksum import hex_checksum
from dovetail.io.formats.config import config_of

_NOWHERE: Final = Path("/")
"""Where results of stages are said to be, so that their real place is no part of the hash."""


def staged_request(stages: Sequence[Stage], options: PlanOptions, made: Made | None = None) -> Request:
    """Give what a recipe of several stages asks for.

    The plan of the final merge has fingerprints of the stages' results, which are removed at the end. What is asked for
    is therefore known by the inputs of all stages, and by plans in which one stage is planned from the plan of another.

    Parameters
    ----------
    stages
        The stages of the recipe, as `load_stages` gives them.
    options
        The options that, with the recipe, decide the output's bytes.
    made
        Receives the plans of stages that hold later.

    """
    content: list[Any] = [MATHS_VERSION]
    parts, checkpoints = [], []
    forecasts = forecast_stages(stages, options, _NOWHERE, everything=False, results=False, made=made)
    for number, forecast in enumerate(forecasts):
        recipe, found = forecast.stage.recipe, real_checkpoints(forecast, stages)
        content.append([
            recipe.canonical_json(),
            None if forecast.plan is None else forecast.plan.hash,
            input_identity(found),
            [_side_identity(each) for each in found],
        ])  # fmt: skip
        final = forecast.stage is stages[-1]
        title, keys = ("the recipe", ()) if final else (f"the recipe of stage {forecast.title}", ("stages", number))
        parts.append(Part(title, (*keys, "recipe"), recipe.to_json()))
        checkpoints += found
    options_part = Part("the options", ("options",), options_entry(options))
    return Request(
        noun="merge",
        hash=hashlib.sha256(json.dumps([content, options_part.value], sort_keys=True).encode()).hexdigest(),
        parts=(*parts, options_part, Part("the maths", ("maths_version",), MATHS_VERSION)),
        checkpoints=tuple(checkpoints),
    )


def _side_identity(checkpoint: Checkpoint) -> list[Any]:
    """List what an output can have of a checkpoint besides its tensors."""
    return [config_of(checkpoint), [[name, hex_checksum(data)] for name, data in inherited_files(checkpoint)]]
