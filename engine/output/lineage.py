"""What a model card tells a hub: which models of hubs an output comes from, and which library loads it.

A hub reads this from the YAML at the card's head. Only names that a hub knows belong there: a model in a local folder
is named if the folder is a snapshot in a hub's cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dovetail.engine.planning.locations import hub_model
from dovetail.engine.planning.plan import Plan
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.formats.config import config_of
from dovetail.io.output import SafetensorsFormat
from dovetail.io.remote.addresses import is_address

_ADDRESS = re.compile(r"hf://(?!datasets/|spaces/)([^/@]+/[^/@]+)")


def hub_names(checkpoints: Iterable[Checkpoint], earlier: Iterable[Mapping[str, Any]] = ()) -> list[str]:
    """List the models and adapters of hubs, as ``ORG/NAME``, each once.

    Parameters
    ----------
    checkpoints
        What an output was made from.
    earlier
        Entries of the manifest for stages whose results are among the checkpoints.

    """
    entries = [entry for stage in earlier for entry in stage["inputs"]]
    places = [entry[key] for entry in entries for key in ("checkpoint", "adapter") if key in entry]
    places = [place["folder"] if isinstance(place, Mapping) else place for place in places]
    for checkpoint in checkpoints:
        places += [checkpoint.path, *([checkpoint.adapter.folder] if checkpoint.adapter else [])]
    return list(dict.fromkeys(name for place in places for name in _hub_name(str(place))))


def _hub_name(place: str) -> Iterator[str]:
    if address := _ADDRESS.match(place):
        yield address.group(1)
    elif not is_address(place) and (snapshot := hub_model(Path(place))):
        yield snapshot.partition("@")[0]


def library_of(plan: Plan) -> dict[str, str]:
    """Name the library that loads an output, if one does."""
    config = config_of(plan.side_checkpoint) or {}
    loads = plan.options.format.name == SafetensorsFormat.name and ("model_type" in config or "architectures" in config)
    return {"library_name": "transformers"} if loads else {}


def card_head(base_models: Sequence[str], relation: str, library: Mapping[str, str], *tags: str) -> list[str]:
    """Write the head of a model card, line by line.

    Parameters
    ----------
    base_models
        What the model was made from, as hubs name it; nothing is said of it if this is empty.
    relation
        A hub's word for how it was made of them: ``merge`` or ``adapter``.
    library
        The key and the name of the library that loads it; empty if none does.
    tags
        Words that a hub's users search for.

    """
    front: dict[str, Any] = {"base_model": list(base_models), "base_model_relation": relation} if base_models else {}
    front |= {**library, "tags": list(tags)}
    return ["---", yaml.safe_dump(front, sort_keys=False).strip(), "---"]
