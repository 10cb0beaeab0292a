"""Reading files of a model on a hub as objects, by ``hf://`` addresses (a `dovetail.io.remote.objects.Objects`)."""

from __future__ import annotations

from collections.abc import Iterable

from dovetail.io.remote import hub
from dovetail.io.remote.addresses import hub_parts
from dovetail.io.remote.http_objects import look_at, read_object, read_part

__all__ = ["list_below", "look_at", "read_object", "read_part"]


def list_below(folder: str) -> Iterable[str]:
    """List the paths of all files below a folder of a model; see `dovetail.io.remote.objects.Objects`."""
    name, revision, within = hub_parts(folder)
    prefix = f"{within}/" if within else ""
    found = hub.look_up(name, revision)
    return sorted(path.removeprefix(prefix) for path in (*found.files, *found.below) if path.startswith(prefix))
