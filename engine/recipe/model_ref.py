"""References to checkpoints in recipes, and the folders that they stand for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

from dovetail.engine.recipe.places import nearest, one_of, shown
from dovetail.engine.recipe.problems import problem
from dovetail.io.checkpoint import only_inputs
from dovetail.io.errors import MissingFileError
from dovetail.io.files.home import expand_home
from dovetail.io.files.smallfile import is_there
from dovetail.io.remote.addresses import is_address, without_secrets

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_KEYS = ("model", "lora", "override_architecture")


class ModelRef(BaseModel):
    """A checkpoint as a recipe names it: ``PATH[@REVISION][+ADAPTER[@REVISION]]``, or a mapping of the
    parts."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)

    path: str = Field(min_length=1)
    """Folder, file, hub name or address."""
    revision: str | None = None
    """Revision on the hub."""
    lora: str | None = None
    """Adapter to be added, if any."""
    lora_revision: str | None = None
    """The adapter's revision on the hub."""
    override_architecture: str | None = None
    """Accepted for mergekit's sake: tensors are found by name here, whatever the architecture."""

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, data: Any) -> Any:
        _refuse_secrets(data)
        if isinstance(data, str):
            model, *loras = data.split("+")
            if len(loras) > 1:
                raise _bad_reference(data)
            return _parts(model, "path", "revision") | (_parts(loras[0], "lora", "lora_revision") if loras else {})
        if not isinstance(data, dict):
            raise problem(f"is {shown(data)}", "the name of a model")
        keys = list(cls.model_fields) if "path" in data else list(_KEYS)
        if unknown := next((key for key in data if key not in keys), None):
            raise problem("is not a key of a model reference", one_of(keys), nearest(unknown, keys), (unknown,))
        if "path" in data:
            return data
        if "model" not in data:
            raise problem("names no model", "the name of a model, or {model: {path: NAME}}")
        lora = data.get("lora")
        return (
            _parts(data["model"], "path", "revision")
            | (_parts(lora, "lora", "lora_revision") if lora is not None else {})
            | {"override_architecture": data.get("override_architecture")}
        )

    @model_serializer
    def _dump(self) -> str | dict[str, Any]:
        text = str(self)
        parts = {
            "path": self.path,
            "revision": self.revision,
            "lora": self.lora,
            "lora_revision": self.lora_revision,
        }
        plain = not any(c in (part or "") for part in parts.values() for c in "@+")
        if plain and self.override_architecture is None:
            return text
        return parts | {"override_architecture": self.override_architecture}

    def __str__(self) -> str:
        text = self.path + (f"@{self.revision}" if self.revision else "")
        if self.lora:
            text += f"+{self.lora}" + (f"@{self.lora_revision}" if self.lora_revision else "")
        return text


def resolve_model_path(ref: ModelRef, recipe_folder: Path | None = None) -> Path | None:
    """Find the folder or file that a reference names, without its adapter; None if it names a model on a hub.

    Relative paths start from the current folder, as in mergekit, else from the recipe's folder.

    Parameters
    ----------
    ref
        The reference, of which `ModelRef.path` is no address.
    recipe_folder
        Folder of the recipe, if it came from a file.

    Raises
    ------
    MissingFileError
        Nothing is there, and it is no name of the form that hubs have.

    """
    return _resolve("model", ref.path, recipe_folder)


def resolve_adapter_path(ref: ModelRef, recipe_folder: Path | None = None) -> Path | None:
    """Find the folder of a reference's adapter, which must have one; as `resolve_model_path`."""
    return _resolve("adapter", ref.lora or "", recipe_folder)


def _resolve(kind: str, path: str, recipe_folder: Path | None) -> Path | None:
    wanted = expand_home(path)
    for folder in (Path(), *([recipe_folder] if recipe_folder else [])):
        with only_inputs():
            if is_there(folder / wanted):
                return folder / wanted
    if _HUB_NAME.fullmatch(path):
        return None
    start = "the current folder or to the recipe's" if recipe_folder else "the current folder"
    raise MissingFileError(
        f"{kind} {shown(path)} is not there",
        f"{'an adapter' if kind == 'adapter' else 'a checkpoint'}'s folder or file, relative to {start}, or ORG/NAME "
        "on a hub",
        "correct the path in the recipe",
    )


def _parts(data: Any, path_key: str, revision_key: str) -> dict[str, Any]:
    """Split ``path[@revision]``, or take the two from a mapping."""
    if isinstance(data, dict):
        if unknown := next((key for key in data if key not in ("path", "revision")), None):
            raise problem("is not a key of a model's path", "one of path, revision", path=(unknown,))
        return {path_key: data.get("path"), revision_key: data.get("revision")}
    if not isinstance(data, str):
        raise problem(f"is {shown(data)}", "the name of a model")
    if is_address(data) and not data.startswith("hf://"):
        return {path_key: data, revision_key: None}
    path, *revisions = data.split("@")
    if len(revisions) > 1 or not path or "" in revisions:
        raise _bad_reference(data)
    return {path_key: path, revision_key: revisions[0] if revisions else None}


def _refuse_secrets(data: Any) -> None:
    """Refuse addresses that hold a password or a signature, before anything keeps or quotes them."""
    if isinstance(data, dict):
        for part in data.values():
            _refuse_secrets(part)
    elif isinstance(data, str):
        for part in (data, *data.split("+")):  # the adapter's address too
            if (clean := without_secrets(part)) != part:
                raise problem(
                    f"is {shown(clean)} with a user, a query or a fragment",
                    "an address without secrets: recipes and manifests show it",
                    "put a user and password into ~/.netrc, or a token into HF_TOKEN",
                )


def _bad_reference(text: str) -> Exception:
    return problem(
        f"is {shown(text)}",
        "PATH, PATH@REVISION or PATH+ADAPTER",
        "write a path that holds '@' or '+' as {model: {path: PATH}}",
    )
