"""Where a recipe's models are: from references to places, and from places to open checkpoints.

A reference is, in this order of preference, an address, a path, or a model's name on a hub.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from dovetail.engine import events
from dovetail.engine.recipe.model_ref import ModelRef, resolve_adapter_path, resolve_model_path
from dovetail.engine.recipe.places import shown
from dovetail.engine.text import format_size
from dovetail.io.checkpoint import Checkpoint
from dovetail.io.opening import read_checkpoint
from dovetail.io.remote.addresses import is_address

_SNAPSHOT = re.compile(r"models--([^/]+)--([^/]+)/snapshots/([0-9a-f]{40})")
_MODEL = re.compile(r"([^/@]+/[^/@]+)@([0-9a-f]{40})")


@dataclass(frozen=True, slots=True)
class Location:
    """All that is needed to open a model again; the manifest keeps it."""

    address: str
    """The checkpoint's folder or file, or the address of a remote one."""
    adapter: str | None = None
    """The folder of the adapter to apply, if any."""
    hub: str = ""
    """``ORG/NAME@COMMIT`` where the folder is a snapshot in a hub's cache: it can be downloaded again."""
    note: str = ""
    """What a person should know of it, whatever it is read for."""
    to_download: str = ""
    """What a merge will have to download first, for a person; empty where nothing."""


def locate(ref: ModelRef, recipe_folder: Path | None = None, download: events.Listener | None = None) -> Location:
    """Find the place that a reference stands for.

    Parameters
    ----------
    ref
        The reference.
    recipe_folder
        Folder of the recipe, if it came from a file.
    download
        Told of what is downloaded of a model on a hub; None to download nothing, and to give the address from which
        the model can be read without.

    Raises
    ------
    RecipeError
        An adapter.
    MissingFileError
        Nothing is there, or it may not be read.
    RemoteError
        A server does not answer.

    """
    model = _locate_model(ref, recipe_folder, download)
    if ref.lora is None:
        return model
    adapter, note = _locate_adapter(ref, recipe_folder, download)
    return replace(model, adapter=str(adapter), note=f"{model.note} {note}".strip())


def _locate_model(ref: ModelRef, recipe_folder: Path | None, download: events.Listener | None) -> Location:
    """Find a model without its adapter."""
    named = f"{ref.path}@{ref.revision}" if ref.revision else ref.path
    if "://" in ref.path and (found := _locate_address(ref, named)) is not None:
        return found
    path = resolve_model_path(ref, recipe_folder)
    if path is not None:
        return Location(str(path), note=_ignored(ref.path, "a local path", ref.revision))
    return _locate_on_hub(ref, download)


def _locate_address(ref: ModelRef, named: str) -> Location | None:
    """Find a model at an address; None if it is none that is known."""
    from dovetail.io.remote.reader import pin
    from dovetail.io.zarr.remote import is_zarr_address

    if ref.path.startswith("hf://") and is_zarr_address(named):
        return Location(named)
    if is_zarr_address(ref.path):
        return Location(ref.path, note=_ignored(ref.path, "an address of Zarr arrays", ref.revision))
    return Location(pin(named)) if is_address(ref.path) else None


def _ignored(path: str, kind: str, revision: str | None) -> str:
    """Say that a revision is ignored, if there is one: only hubs have revisions."""
    return f"{path} is {kind}: its revision {shown(revision)} is ignored." if revision else ""


def _locate_adapter(ref: ModelRef, recipe_folder: Path | None, download: events.Listener | None) -> tuple[Path, str]:
    """Find an adapter, and what a person should know of it.

    One on a hub is downloaded, for a plan too: it is small, and its tensors say what it changes.
    """
    path = resolve_adapter_path(ref, recipe_folder)
    if path is not None:
        return path, _ignored(ref.lora or "", "a local path", ref.lora_revision)
    from dovetail.io.remote import hub

    name, listen = ref.lora or "", download or events.ignore
    found = hub.cached(name, ref.lora_revision)
    if found is None:
        found = hub.download(name, ref.lora_revision, lambda text: listen(events.Notice("info", text)))
    return found, ""


def _locate_on_hub(ref: ModelRef, download: events.Listener | None) -> Location:
    """Find a model in the hub's cache, download it, or say where it can be read."""
    from dovetail.io.remote import hub

    folder = hub.cached(ref.path, ref.revision)
    if folder is None and download is None:
        snapshot = hub.look_up(ref.path, ref.revision)
        size = format_size(hub.download_bytes(snapshot))
        to_download = f"{ref.path} is not in the hub's cache: the merge will download up to {size}."
        return Location(f"hf://{ref.path}@{snapshot.commit}", to_download=to_download)
    if folder is None:
        listen = download or events.ignore
        folder = hub.download(ref.path, ref.revision, lambda text: listen(events.Notice("info", text)))
    return Location(str(folder), hub=hub_model(folder))


def hub_model(path: Path | str) -> str:
    """Give ``ORG/NAME@COMMIT`` if a path is of a snapshot in a hub's cache; else nothing."""
    found = None if isinstance(path, str) else _SNAPSHOT.search(path.as_posix())
    return f"{found.group(1)}/{found.group(2)}@{found.group(3)}" if found else ""


def open_location(location: Location) -> Checkpoint:
    """Open what is at a place; see `read_checkpoint` and `dovetail.io.adapters.apply_adapter` for what it raises.

    A snapshot that is gone from the hub's cache is looked for again, and downloaded if need be.
    """
    address: str | Path = location.address
    if (model := _MODEL.fullmatch(location.hub)) and not Path(location.address).exists():
        from dovetail.io.remote import hub

        name, commit = model.group(1), model.group(2)
        address = hub.cached(name, commit) or hub.download(name, commit, lambda _: None)
    checkpoint = read_checkpoint(address)
    known = [text for text in (location.note, location.to_download) if text]
    checkpoint = replace(checkpoint, notes=(*known, *checkpoint.notes))
    if location.adapter is None:
        return checkpoint
    from dovetail.io.adapters import apply_adapter, read_adapter

    return apply_adapter(checkpoint, read_adapter(location.adapter))
