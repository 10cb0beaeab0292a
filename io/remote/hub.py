"""Finding models on a Hugging Face hub by name, in the cache of `huggingface_hub`, and downloading them into it.

Only the files that a merge needs are downloaded: the weights (safetensors if there are any, else PyTorch files) and the
small files beside them. ``HF_ENDPOINT``, ``HF_HOME``, ``HF_HUB_CACHE``, ``HF_HUB_OFFLINE`` and ``HF_TOKEN`` have the
meaning that they have in other programs.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dovetail.io.errors import CheckpointError, MissingFileError, RemoteError
from dovetail.io.extras import require
from dovetail.io.formats import torch_reader
from dovetail.io.formats.index import read_index
from dovetail.io.formats.safetensors_layout import INDEX_NAME, SINGLE_NAME
from dovetail.io.formats.side_names import LARGEST_BYTES, is_side_name
from dovetail.io.remote import limited
from dovetail.io.remote.credentials import hub_endpoint
from dovetail.io.remote.hub_errors import worded_for_hub
from dovetail.io.remote.hub_models import ask_for_model

_SIGNS: Final = (
    SINGLE_NAME,
    INDEX_NAME,
    torch_reader.SINGLE_NAME,
    torch_reader.INDEX_NAME,
    "config.json",
    "adapter_config.json",
)
"""Names of files, of which every model has at least one, and by which its snapshot is found in the cache."""

_FORMATS: Final = (
    (SINGLE_NAME, INDEX_NAME, (".safetensors",)),
    (torch_reader.SINGLE_NAME, torch_reader.INDEX_NAME, torch_reader.SUFFIXES),
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One commit of a model on a hub."""

    name: str
    """The hub's name of the model."""
    commit: str
    """Hash of the commit."""
    files: Mapping[str, int]
    """Size in bytes, by name, of each file that is in no folder; 0 if unknown."""
    below: Mapping[str, int] = field(default_factory=dict)
    """Size in bytes, by path, of each file that is in a folder; 0 if unknown."""


_SLACK_BYTES: Final = 2**30
"""Bytes that the cache of a model may grow by during a download beyond twice what its files have."""

_known: dict[tuple[str, str, str], Snapshot] = {}


def look_up(name: str, revision: str | None) -> Snapshot:
    """Ask the hub which commit a revision is, and which files it has; the answer for a commit is kept.

    Raises
    ------
    MissingFileError
        The hub does not have the model or the revision, or does not let it be read.
    RemoteError
        The hub does not answer.

    """
    key = (hub_endpoint(), name, revision or "")
    if (found := _known.get(key)) is not None:
        return found
    _library()
    with worded_for_hub(name, revision):
        commit, sizes = ask_for_model(name, revision)
    files, below = ({path: size for path, size in sizes.items() if ("/" in path) is deep} for deep in (False, True))
    snapshot = _known[hub_endpoint(), name, commit] = Snapshot(name, commit, files, below)
    return snapshot


def cached(name: str, revision: str | None) -> Path | None:
    """Find a model's snapshot in the hub's cache, without the network; None unless it has all weights.

    Raises
    ------
    MissingFileError
        The text cannot be the name of a model on a hub.

    """
    hub = _library()
    for sign in _SIGNS:
        try:
            found = hub.try_to_load_from_cache(name, sign, revision=revision, cache_dir=_cache())
        except hub.errors.HFValidationError as error:
            raise MissingFileError(f"{name!r} is no name of a model on a hub", "ORG/NAME") from error
        if isinstance(found, str):
            folder = Path(found).parent
            return folder if _is_complete(folder) else None
    return None


def download(name: str, revision: str | None, tell: Callable[[str], None]) -> Path:
    """Download the files of a model that the hub's cache lacks, and return the folder of its snapshot in the cache.

    Parameters
    ----------
    name
        The hub's name of the model.
    revision
        A branch, tag or commit; None for the main branch.
    tell
        Receives a sentence about each file of weights before it is downloaded.

    Raises
    ------
    MissingFileError
        The hub does not have the model or the revision, does not let it be read, or has no weights for it.
    RemoteError
        The hub does not answer, or the model changed during the download.

    """
    hub = _library()
    snapshot = look_up(name, revision)

    asked = revision  # the first file, so that the cache notes which commit a branch is; the others use the commit

    place = Path(_cache()) / f"models--{name.replace('/', '--')}"
    most_bytes = 2 * sum((*snapshot.files.values(), *snapshot.below.values())) + _SLACK_BYTES

    def bring(file: str) -> Path:
        nonlocal asked
        fetch = functools.partial(
            hub.hf_hub_download, name, file, revision=asked, cache_dir=_cache(), endpoint=hub_endpoint()
        )
        with worded_for_hub(name, revision):
            found = limited.download(fetch, place, most_bytes)
        asked = snapshot.commit
        return Path(found)

    hub.utils.disable_progress_bars()  # they would disturb our display, which shows what `tell` receives
    folders: set[Path] = set()
    weights = list(_weights(snapshot, bring))
    for number, file in enumerate(weights, 1):
        size = f", {snapshot.files[file] / 1e6:,.0f} MB" if snapshot.files.get(file) else ""
        tell(f"Downloading {name}: {file} ({number} of {len(weights)}{size}).")
        folders.add(bring(file).parent)
    for file, size_bytes in snapshot.files.items():
        if is_side_name(file) and size_bytes <= LARGEST_BYTES:
            folders.add(bring(file).parent)
    if len(folders) != 1:
        raise RemoteError(
            f"model {name!r} changed on the hub during the download", "one commit", "run the same command again"
        )
    return folders.pop()


def download_bytes(snapshot: Snapshot) -> int:
    """Count the bytes of a snapshot's safetensors files or, if it has none, of its PyTorch files."""
    for _, _, suffixes in _FORMATS:
        if found := _alone(snapshot.files, suffixes):
            return sum(snapshot.files[file] for file in found)
    return 0


def _weights(snapshot: Snapshot, bring: Callable[[str], Path]) -> Iterator[str]:
    """List the files of weights to download, chosen by the same rules as those by which folders are read."""
    for single, index, suffixes in _FORMATS:
        others = _alone(snapshot.files, suffixes)
        if single in snapshot.files:
            yield single
        elif index in snapshot.files:
            yield from sorted(set(read_index(bring(index), suffixes[0]).values()))
        elif len(others) == 1:
            yield others[0]
        else:
            continue
        return
    raise MissingFileError(
        f"model {snapshot.name!r} has no weights that can be read at commit {snapshot.commit[:12]}",
        "safetensors or PyTorch files, one or with an index",
        "choose another revision, or convert the model",
    )


def _is_complete(folder: Path) -> bool:
    """Whether a snapshot in the cache has all weights; after an interrupted download it has not."""
    for single, index, suffixes in _FORMATS:
        if (folder / single).exists():
            return True
        if (folder / index).exists():
            try:
                return all((folder / name).exists() for name in set(read_index(folder / index, suffixes[0]).values()))
            except CheckpointError:
                return False
        if len(_alone((entry.name for entry in folder.iterdir() if entry.exists()), suffixes)) == 1:
            return True
    return False


def _alone(names: Iterable[str], suffixes: tuple[str, ...]) -> list[str]:
    """List the files that can hold weights by their names, without an index."""
    return [name for name in names if name.endswith(suffixes) and not name.startswith(torch_reader.NOT_WEIGHTS)]


def _library() -> Any:
    require("huggingface_hub", "hub", "names on a hub")
    import huggingface_hub
    import huggingface_hub.constants
    import huggingface_hub.errors
    import huggingface_hub.utils

    return huggingface_hub


def _cache() -> str:
    """Give the cache's folder from the environment, which the library itself reads only once, when it is imported."""
    from huggingface_hub import constants

    return os.environ.get("HF_HUB_CACHE") or str(constants.HF_HUB_CACHE)
