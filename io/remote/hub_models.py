"""Asking a Hugging Face hub which commit a revision of a model is, and which files it has.

huggingface_hub would wait for the answer for ever, and read one of any length; requests of our own are limited in both.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote

from dovetail.io.errors import RemoteError
from dovetail.io.files.strict_json import JsonDefectError, brief, decode_json
from dovetail.io.remote.addresses import without_secrets
from dovetail.io.remote.credentials import hub_endpoint
from dovetail.io.remote.http_connection import ABSENT, FORBIDDEN, request
from dovetail.io.remote.http_transport import read_up_to
from dovetail.io.remote.retrying import with_retries

MAX_ANSWER_BYTES: Final = 64 * 2**20
"""Longest description of a model that is read, in bytes; one of ten thousand files has a thirtieth of it."""

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def ask_for_model(name: str, revision: str | None) -> tuple[str, dict[str, int]]:
    """Ask which commit a revision of a model is, and for the sizes of its files.

    Parameters
    ----------
    name
        The hub's name of the model.
    revision
        A branch, tag or commit; None for the main branch.

    Returns
    -------
    str
        Hash of the commit.
    dict
        Size in bytes by path of each file; 0 if unknown.

    Raises
    ------
    huggingface_hub.errors.OfflineModeIsEnabled, huggingface_hub.errors.HFValidationError
        As the library raises them.
    NotShownError
        The hub has no such model, or does not show it.
    RemoteError
        The hub does not answer, or not as it should.

    """
    from huggingface_hub import constants, errors
    from huggingface_hub import utils as of_hub

    if constants.HF_HUB_OFFLINE:
        raise errors.OfflineModeIsEnabled
    validate: Any = of_hub.validate_repo_id  # type: ignore[attr-defined]  # public, but not in its list of names
    validate(name)
    path = f"{name}/revision/{quote(revision, safe='')}" if revision else name
    url = f"{hub_endpoint()}/api/models/{path}?blobs=true"
    shown = f"model {name!r} of {without_secrets(hub_endpoint())}"

    def attempt() -> bytes:
        with request(shown, {}, url=url) as response:
            if response.status in (*FORBIDDEN, *ABSENT):
                raise NotShownError(response.headers.get("X-Error-Code", ""))
            if response.status != 200:
                raise RemoteError(f"the hub answers for {shown} with status {response.status}", "status 200")
            return read_up_to(response, MAX_ANSWER_BYTES + 1)

    return parse_model(with_retries(attempt, shown), name)


def parse_model(raw: bytes, name: str) -> tuple[str, dict[str, int]]:
    """Check and decode what a hub says of a model; returns and raises as `ask_for_model` does."""
    if len(raw) > MAX_ANSWER_BYTES:
        raise RemoteError(f"the hub's description of model {name!r} is too long", f"at most {MAX_ANSWER_BYTES} bytes")
    try:
        document = decode_json(raw, constants=True)
    except JsonDefectError as error:
        raise RemoteError(f"the hub's description of model {name!r} {error}", "a JSON object") from None
    commit, siblings = document.get("sha"), document.get("siblings") or []
    if type(commit) is not str or not _COMMIT.fullmatch(commit):
        raise RemoteError(f"the hub gives model {name!r} the commit {brief(commit)}", "40 hexadecimal digits")
    if type(siblings) is not list:
        raise RemoteError(f"the hub lists {brief(siblings)} as the files of model {name!r}", "a list")
    return commit, dict(_sized(each, name) for each in siblings)


def _sized(entry: Any, name: str) -> tuple[str, int]:
    """Read the path and the size of one file."""
    path, size = (entry.get("rfilename"), entry.get("size")) if type(entry) is dict else (None, None)
    plain = type(path) is str and path.isprintable() and not path.startswith("/") and ".." not in path.split("/")
    if not plain or not (size is None or (type(size) is int and 0 <= size < 2**63)):
        raise RemoteError(f"the hub lists {brief(entry)} as a file of model {name!r}", "a path and a size")
    return str(path), size or 0


class NotShownError(Exception):
    """The hub does not show a model.

    Parameters
    ----------
    said
        The code that it gives as the reason; empty if it gives none.

    """

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said
