"""What a command asks for, compared with the manifest of an output that is there: the same, or what differs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dovetail.engine.methods.method import plug_in_entry
from dovetail.engine.output.inputs import INPUTS_NAME, InputRecord, input_entries
from dovetail.engine.output.manifest import MANIFEST_NAME, asked_recipe, options_entry
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
    """Hash that covers all that decides the output; the record of its inputs has it."""
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
            Part("the recipe", ("recipe",), asked_recipe(plan).to_json()),
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


def known_by(manifest: Mapping[str, Any], record: InputRecord | None) -> str:
    """Give the hash of the request that an output answers; older releases, which kept no record, have it elsewhere."""
    return str(manifest["plan_hash"] if record is None else record.request_hash)


def difference(request: Request, manifest: Mapping[str, Any], record: InputRecord | None, output: Path) -> str:
    """Say in what an output differs from what is asked for.

    Parameters
    ----------
    request
        What is asked for; its hash is another than that of the output.
    manifest, record
        The manifest of the output, and the record of its inputs, if there is one.
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
    if record is None:
        return f"there is no {INPUTS_NAME} of its own, which says where its inputs were and when they were written"
    return _other_input(request, record, output) or "another kind of output was asked for"


def _other_input(request: Request, record: InputRecord, output: Path) -> str:
    """Say which input differs; nothing if none does."""
    before = dict(_inputs([*record.inputs, *(entry for stage in record.stages for entry in stage["inputs"])]))
    now = dict(_inputs(_as_json(input_entries(request.checkpoints, ()))))
    for name, entry in now.items():
        if name not in before:
            return f"the input {name} was not among its inputs"
        if {**entry, "mtime_ns": 0} != {**before[name], "mtime_ns": 0}:
            return f"the input {name} has changed since"
    for path in _paths(request.checkpoints):
        if path.stat().st_mtime_ns > (output / MANIFEST_NAME).stat().st_mtime_ns:
            return f"the input {path} was written to after it"
    return next((f"the input {name} had another time of modification" for name in now if now[name] != before[name]), "")


def _inputs(entries: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Give the files of inputs, as the record of inputs describes them, by their places."""
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
