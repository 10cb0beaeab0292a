"""An output that is there already: by the same command there is nothing to do, and any other is told what differs.

An output is known again by the hash in the record of its inputs, which covers the recipe, the options and the
fingerprints of the inputs. No tensor is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dovetail.engine import events
from dovetail.engine.actions.verify import DEFECTS, check_files, manifest_error, read_manifest
from dovetail.engine.errors import OutputError, VerificationError
from dovetail.engine.output.inputs import read_record
from dovetail.engine.output.manifest import MANIFEST_NAME, SELF_CHECKSUM
from dovetail.engine.output.request import Request, difference, known_by
from dovetail.engine.output.staging import is_untidied, tidy_up
from dovetail.engine.output.target import check_target
from dovetail.engine.run.budget import default_limit_bytes
from dovetail.engine.run.prepare import RunOptions
from dovetail.io.errors import CheckpointError
from dovetail.io.files.machine import peak_resident_bytes

_REPLACE = "choose another folder, or pass --overwrite to make the output again"


def find_finished(output: Path, request: Request, spared: Iterable[Path], run: RunOptions) -> dict[str, Any] | None:
    """Give the manifest of an output that is just what is asked for; tidy up if its run was killed before it had.

    Parameters
    ----------
    output
        The output folder.
    request
        What is asked for.
    spared
        Files and folders that the output must spare.
    run
        With `RunOptions.overwrite`, only an output whose run was killed while it tidied up is taken: the same command
        has made it. With `RunOptions.part` too, any that is what is asked for: another part has made it.

    Returns
    -------
    dict or None
        The manifest without its ``tensors``; None if the output must be made.

    Raises
    ------
    OutputError
        The folder holds another output, or one that is damaged or incomplete, and may not be overwritten; or it is
        refused as `check_target` says.

    """
    check_target(output, spared, overwrite=True)
    remade = run.overwrite and run.part is None and not is_untidied(output)
    if remade or not (output / MANIFEST_NAME).is_file():
        return None
    try:
        manifest = _manifest_of(output, request)
    except OutputError:
        if run.overwrite:
            return None
        raise
    tidy_up(output)
    return {key: value for key, value in manifest.items() if key not in ("tensors", SELF_CHECKSUM)}


def is_made_by(output: Path, plan_hash: str) -> bool:
    """Whether an output's manifest says that a certain plan has made it."""
    try:
        manifest = read_manifest(output)
        return known_by(manifest, read_record(output, manifest[SELF_CHECKSUM])) == plan_hash
    except VerificationError:
        return False


def is_finished(output: Path, plan_hash: str, side_files: Callable[[], Mapping[str, str]]) -> bool:
    """Whether an output that a certain plan has made is there, with all of its files; no tensor is read.

    Parameters
    ----------
    output
        The output folder.
    plan_hash
        Hash by which the output is known.
    side_files
        As for `Request`.

    """
    if not is_made_by(output, plan_hash):
        return False
    try:
        manifest = read_manifest(output)
        return not check_files(output, manifest) and not _changed_side_files(side_files(), manifest)
    except VerificationError:
        return False


def tell_finished(
    output: Path, noun: str, manifest: dict[str, Any], run: RunOptions, listen: events.Listener, started: float
) -> None:
    """Report that an output is there already.

    Parameters
    ----------
    output
        The output folder.
    noun
        What people call the output.
    manifest
        Its manifest.
    run
        As for `dovetail.engine.merge`.
    listen
        Receives a notice, and the event that the output is complete.
    started
        When the work began, by the monotonic clock.

    """
    text = f"{output} is this {noun} already, verified by its plan; nothing to do."
    listen(events.Notice("info", text))
    listen(
        events.Done(
            output=str(output),
            seconds=time.monotonic() - started,
            merge_seconds=0.0,
            read_bytes=0,
            written_bytes=0,
            peak_resident_bytes=peak_resident_bytes(),
            allowed_bytes=run.memory_bytes or default_limit_bytes(0),
            workers=0,
            summary=manifest["totals"],
            output_bytes=0,
            share_made=0.0,
            already=True,
        )
    )


def _manifest_of(output: Path, request: Request) -> dict[str, Any]:
    """Give the manifest of an output that is just what is asked for; raise an OutputError for any other."""
    try:
        manifest = read_manifest(output)
        record = read_record(output, manifest[SELF_CHECKSUM])
        if known_by(manifest, record) != request.hash:
            raise OutputError(
                f"output folder {output} is not empty and holds another output: "
                f"{difference(request, manifest, record, output)}",
                "a new or empty folder, or an output of the same recipe, options and inputs",
                _REPLACE,
            )
        damage = [*check_files(output, manifest), *_changed_side_files(request.side_files(), manifest)]
    except VerificationError as error:
        raise OutputError(f"output folder {output} is not empty: {error.what}", error.expected, _REPLACE) from None
    except CheckpointError:  # an input cannot be read, which says nothing of the output
        raise
    except DEFECTS as error:
        wrong = manifest_error(output, error)
        raise OutputError(f"output folder {output} is not empty: {wrong.what}", wrong.expected, _REPLACE) from None
    if damage:
        raise OutputError(
            f"output folder {output} holds this {request.noun}, but {damage[0]}"
            + (f", and {len(damage) - 1} more" if len(damage) > 1 else ""),
            "the files that its manifest lists",
            "restore them, or pass --overwrite to make the output again",
        )
    return manifest


def _changed_side_files(expected: Mapping[str, str], manifest: dict[str, Any]) -> list[str]:
    """Name the side files that are not what the inputs' side files would give now."""
    entries = manifest["side_files"]
    return [
        f"its {name} is not what the base model's files give now"
        for name, checksum in expected.items()
        if name not in entries or entries[name]["checksum"] != checksum
    ]
