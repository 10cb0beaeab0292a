"""What a command asks for, compared with the manifest of an output that is there: the same, or what differs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dovetail.engine.methods.method import plug_in_entry
from dovetail.engine.output.manifest import MANIFEST_NAME, input_entry, options_entry
from dovetail.engine.output.side_files import expected_side_files
from dovetail.engine.planning.plan import MATHS_VERSION, Plan
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.files.strict_json import brief

_MISSING = object()


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that decides an output, and where its manifest has it."""

    title: str
    """What people call it."""
    keys: tuple[str | int, ...]
    """The keys, from the outside in, under which the manifest has it."""
    value: Any
    """What is asked for, as a JSON value; None where the manifest has no such key."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a command asks for, so far as it can be compared with an output that is there."""

    noun: str
    """What people call the output."""
    hash: str
    """Hash that covers all that decides the output; the manifest has it under ``plan_hash``."""
    parts: tuple[Part, ...]
    """What can be compared one by one, to say what differs."""
    checkpoints: tuple[Checkpoint, ...]
    """What the output is made of."""
    side_files: Callable[[], Mapping[str, str]] = dict
    """Gives the checksums, by name, of side files that the output would have from its inputs."""


def plan_request(plan: Plan) -> Request:
    """Give what a plan asks for."""
    vocabulary = plan.vocabulary.inputs() if plan.vocabulary else None
    return Request(
        noun=plan.noun,
        hash=plan.hash,
        parts=(
            Part("the recipe", ("recipe",), plan.recipe.to_json()),
            Part("the options", ("options",), options_entry(plan.options)),
            *_version_parts(plan),
            Part("the tokenizers", ("vocabulary", "inputs"), vocabulary),
        ),
        checkpoints=plan.checkpoints,
        side_files=lambda: expected_side_files(plan),
    )


def _version_parts(plan: Plan) -> tuple[Part, ...]:
    """Give what an output owes to Dovetail and to a plug-in."""
    return (
        Part("the maths", ("maths_version",), MATHS_VERSION),
        Part("the plug-in", ("plug_in",), plug_in_entry(plan.method).get("plug_in")),
    )


def difference(request: Request, manifest: Mapping[str, Any], output: Path) -> str:
    """Say in what an output differs from what is asked for.

    Parameters
    ----------
    request
        What is asked for; its hash is not that of the manifest.
    manifest
        The manifest of the output.
    output
        The output's folder.

    Returns
    -------
    str
        A clause that names the first part of the recipe, the first option or the first input that differs.

    """
    for part in request.parts:
        found = _first(_at(manifest, part.keys), _as_json(part.value), ())
        if found is not None:
            keys, before, now = found
            name = f"{'.'.join(map(str, keys))} of {part.title}" if keys else part.title
            return f"{name} was {before} and is {now}"
    before_by_name = dict(_inputs([*manifest["inputs"], *_inputs_of_stages(manifest)]))
    for name, entry in _inputs([_as_json(input_entry(each)) for each in request.checkpoints]):
        if name not in before_by_name:
            return f"the input {name} was not among its inputs"
        if entry != before_by_name[name]:
            return f"the input {name} has changed since"
    for path in _paths(request.checkpoints):
        if path.stat().st_mtime_ns > (output / MANIFEST_NAME).stat().st_mtime_ns:
            return f"the input {path} was written to after it"
    return "its inputs had other times of modification"


def _inputs_of_stages(manifest: Mapping[str, Any]) -> Iterator[Any]:
    for stage in manifest.get("stages", ()):
        yield from stage["inputs"]


def _inputs(entries: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Give the files of inputs, as manifests describe them, by their places."""
    for entry in entries:
        adapter = entry.get("adapter") or {"folder": "", "files": ()}
        for place, files in ((entry["checkpoint"], entry["files"]), (adapter["folder"], adapter["files"])):
            for file in files:
                whole = place.rpartition("/")[2] == file["name"]  # the checkpoint is a single file
                yield (place if whole else f"{place}/{file['name']}"), file


def _paths(checkpoints: Sequence[Checkpoint]) -> Iterator[Path]:
    """Give the local files of checkpoints and of their adapters."""
    for checkpoint in checkpoints:
        if isinstance(checkpoint.path, Path):
            folder = checkpoint.folder
            yield from [checkpoint.path] if folder is None else [folder / file.name for file in checkpoint.files]
        if checkpoint.adapter is not None:
            yield from checkpoint.adapter.paths


def _as_json(value: Any) -> Any:
    """Give a value as it is read back from JSON: tuples as lists."""
    return json.loads(json.dumps(value))


def _at(manifest: Any, keys: Sequence[str | int]) -> Any:
    """Look a value up; None if it is not there."""
    for key in keys:
        try:
            manifest = manifest[key]
        except (KeyError, IndexError, TypeError):
            return None
    return manifest


def _first(before: Any, now: Any, keys: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], str, str] | None:
    """Find where two JSON values first differ: the keys that lead there, and both values for people."""
    pairs: list[tuple[str | int, Any, Any]] = []
    if isinstance(before, dict) and isinstance(now, dict):
        names = dict.fromkeys([*now, *before])
        pairs = [(name, before.get(name, _MISSING), now.get(name, _MISSING)) for name in names]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = [(index, *pair) for index, pair in enumerate(zip(before, now, strict=True))]
    elif before != now or type(before) is not type(now):
        return keys, _shown(before), _shown(now)
    for key, one, other in pairs:
        if (found := _first(one, other, (*keys, key))) is not None:
            return found
    return None


def _shown(value: Any) -> str:
    return "not given" if value is None or value is _MISSING else brief(value)
