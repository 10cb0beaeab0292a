"""Models by name on a Hugging Face hub, through `huggingface_hub`: from its cache, or downloaded into it.

Only what a merge needs is downloaded: the weights, of safetensors where there are any, and the small files beside
them. ``HF_ENDPOINT``, ``HF_HOME``, ``HF_HUB_CACHE``, ``HF_HUB_OFFLINE`` and ``HF_TOKEN`` mean what they mean elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import re
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
from dovetail.io.remote.addresses import without_secrets
from dovetail.io.remote.credentials import hub_endpoint
from dovetail.io.remote.library_logs import logged_without_secrets

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_CONFIGS: Final = ("config.json", "adapter_config.json")
_SIGNS: Final = (
    SINGLE_NAME,
    INDEX_NAME,
    torch_reader.SINGLE_NAME,
    torch_reader.INDEX_NAME,
    "config.json",
    "adapter_config.json",
)
"""Files by which a snapshot in the cache is found."""

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
    """Size in bytes, 0 where unknown, of the files at its top, by name."""
    below: Mapping[str, int] = field(default_factory=dict)
    """The same of the files in its folders, by path."""


_known: dict[tuple[str, str, str], Snapshot] = {}


def look_up(name: str, revision: str | None) -> Snapshot:
    """Ask the hub which commit a revision is, and which files it has; a commit is asked for once.

    Raises
    ------
    MissingFileError
        There is no such model or revision, or it may not be read.
    RemoteError
        The hub does not answer.

    """
    key = (hub_endpoint(), name, revision or "")
    if (found := _known.get(key)) is not None:
        return found
    hub = _library()
    with _worded(name, revision):
        info = hub.HfApi(endpoint=hub_endpoint()).model_info(name, revision=revision, files_metadata=True)
    if not _COMMIT.fullmatch(str(info.sha)):
        raise RemoteError(f"the hub gives model {name!r} the commit {str(info.sha)[:80]!r}", "40 hexadecimal digits")
    sizes = {str(item.rfilename): int(item.size or 0) for item in info.siblings or ()}
    files, below = ({path: size for path, size in sizes.items() if ("/" in path) is deep} for deep in (False, True))
    snapshot = _known[hub_endpoint(), name, str(info.sha)] = Snapshot(name, str(info.sha), files, below)
    return snapshot


def cached(name: str, revision: str | None) -> Path | None:
    """Find a model in the hub's cache, without the network; None unless all of its weights are there."""
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
    """Give the folder of a model's snapshot in the hub's cache, downloading what of it is not there.

    Parameters
    ----------
    name, revision
        The model; None for its main branch.
    tell
        Told, in a sentence, of every file of weights that is downloaded.

    Raises
    ------
    MissingFileError
        There is no such model or revision, it may not be read, or it has no weights.
    RemoteError
        The hub does not answer, or only in part.

    """
    hub = _library()
    snapshot = look_up(name, revision)

    asked = revision  # once by its own name, so that the cache knows which commit a branch is; then by the commit

    def bring(file: str) -> Path:
        nonlocal asked
        with _worded(name, revision):
            found = hub.hf_hub_download(name, file, revision=asked, cache_dir=_cache(), endpoint=hub_endpoint())
        asked = snapshot.commit
        return Path(found)

    hub.utils.disable_progress_bars()  # they would mix with ours; `tell` says what goes on
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
        raise RemoteError(f"model {name!r} changed on the hub meanwhile", "one commit", "run the same command again")
    return folders.pop()


def download_bytes(snapshot: Snapshot) -> int:
    """Give the size in bytes of the safetensors or, where there are none, PyTorch files of a snapshot."""
    for _, _, suffixes in _FORMATS:
        if found := _alone(snapshot.files, suffixes):
            return sum(snapshot.files[file] for file in found)
    return 0


def _weights(snapshot: Snapshot, bring: Callable[[str], Path]) -> Iterator[str]:
    """Choose the files of weights to download: as the readers of folders will choose among them."""
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
    """Whether all weights of a snapshot are in the cache: a download may have been cut short."""
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
    """List the files that can be weights although no index names them."""
    return [name for name in names if name.endswith(suffixes) and not name.startswith(torch_reader.NOT_WEIGHTS)]


def _library() -> Any:
    require("huggingface_hub", "hub", "names on a hub")
    import huggingface_hub
    import huggingface_hub.constants
    import huggingface_hub.errors
    import huggingface_hub.utils

    return huggingface_hub


def _cache() -> str:
    """Give the cache's folder: the library reads the environment when it is imported."""
    from huggingface_hub import constants

    return os.environ.get("HF_HUB_CACHE") or str(constants.HF_HUB_CACHE)


@contextlib.contextmanager
def _worded(name: str, revision: str | None) -> Iterator[None]:
    """Word what the library raises, without the addresses in its texts, which can be signed."""
    from huggingface_hub import errors

    model = f"model {name!r}" + (f" at revision {revision!r}" if revision else "")
    try:
        with logged_without_secrets():
            yield
    except CheckpointError:
        raise
    except errors.OfflineModeIsEnabled:
        raise MissingFileError(
            f"{model} is not in the hub's cache, and HF_HUB_OFFLINE forbids to ask the hub",
            "all of its weights in the cache",
            "unset HF_HUB_OFFLINE, or copy the model's cache here",
        ) from None
    except errors.HFValidationError:
        raise MissingFileError(f"{model} is no name of a model on a hub", "ORG/NAME") from None
    except errors.GatedRepoError:
        raise MissingFileError(
            f"{model} is gated", "access to it", "accept its terms on its page, and set HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise MissingFileError(f"{model} is not on the hub", "a branch, tag or commit", "correct it") from None
    except errors.RemoteEntryNotFoundError:
        raise MissingFileError(f"a file of {model} is not on the hub", "all of its files", "try again") from None
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403, 404):
            raise MissingFileError(
                f"{model} is neither a folder here nor a model that {without_secrets(hub_endpoint())} shows to you",
                "a folder, or ORG/NAME of a model that may be read",
                "correct the name, or set HF_TOKEN if the model is private",
            ) from None
        reason = f"status {status}" if status else type(error).__name__
        raise RemoteError(
            f"{model} cannot be read from {without_secrets(hub_endpoint())} ({reason})",
            "an answer",
            "check the network and HF_ENDPOINT, and run the same command again to continue",
        ) from None
