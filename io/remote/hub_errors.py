"""Turning what goes wrong with a Hugging Face hub into errors of ours, whoever has noticed it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from dovetail.io.errors import CheckpointError, MissingFileError, RemoteError
from dovetail.io.remote.addresses import without_secrets
from dovetail.io.remote.credentials import hub_endpoint
from dovetail.io.remote.http_connection import LEAST_BYTES_PER_S
from dovetail.io.remote.hub_models import NotShownError
from dovetail.io.remote.library_logs import logged_without_secrets
from dovetail.io.remote.limited import STALL_S


@contextlib.contextmanager
def worded_for_hub(name: str, revision: str | None) -> Iterator[None]:
    """Turn errors of the block into ours, without the addresses in their texts, which can be signed.

    Raises
    ------
    MissingFileError
        The hub does not have the model or the revision, or does not let it be read.
    RemoteError
        The hub does not answer as it should.

    """
    model = f"model {name!r}" + (f" at revision {revision!r}" if revision else "")
    try:
        with logged_without_secrets():
            yield
    except CheckpointError:
        raise
    except Exception as error:
        raise _missing(error, model) or _remote(error, model) from None


def _missing(error: Exception, model: str) -> MissingFileError | None:
    """Make the error for what a hub does not have, or does not show; None if it is another."""
    from huggingface_hub import errors

    said = error.said if isinstance(error, NotShownError) else None
    if isinstance(error, errors.OfflineModeIsEnabled):
        return MissingFileError(
            f"{model} is not in the hub's cache, and HF_HUB_OFFLINE forbids asking the hub",
            "all of its weights in the cache",
            "unset HF_HUB_OFFLINE, or copy the model's cache here",
        )
    if isinstance(error, errors.HFValidationError):
        return MissingFileError(f"{model} is no name of a model on a hub", "ORG/NAME")
    if isinstance(error, errors.GatedRepoError) or said == "GatedRepo":
        return MissingFileError(f"{model} is gated", "access to it", "accept its terms on its page, and set HF_TOKEN")
    if isinstance(error, errors.RevisionNotFoundError) or said == "RevisionNotFound":
        return MissingFileError(f"{model} is not on the hub", "a branch, tag or commit", "correct it")
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return MissingFileError(f"a file of {model} is not on the hub", "all of its files", "try again")
    if said is not None or _status(error) in (401, 403, 404):
        return MissingFileError(
            f"{model} is neither a folder here nor a model that {without_secrets(hub_endpoint())} shows to you",
            "a folder, or ORG/NAME of a model that may be read",
            "correct the name, or set HF_TOKEN if the model is private",
        )
    return None


def _remote(error: Exception, model: str) -> RemoteError:
    """Make the error for a hub that does not answer as it should."""
    hub, status = without_secrets(hub_endpoint()), _status(error)
    if isinstance(error, OverflowError):
        return RemoteError(f"{hub} sends too much of {model} ({error})", "the files that it lists", "use another hub")
    reason = f"status {status}" if status else type(error).__name__
    if isinstance(error, TimeoutError):
        reason = f"less than {LEAST_BYTES_PER_S >> 10} KiB/s for {STALL_S / 60:.0f} minutes"
    return RemoteError(
        f"{model} cannot be read from {hub} ({reason})",
        "an answer",
        "check the network and HF_ENDPOINT, and run the same command again to continue",
    )


def _status(error: Exception) -> Any:
    return getattr(getattr(error, "response", None), "status_code", None)
