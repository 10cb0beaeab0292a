"""Addresses of remote checkpoints, and the check that an address contains no secrets.

=============================== ===========================================================================
``https://HOST/PATH/``          a folder: ``model.safetensors``, or shards with an index
``https://HOST/X.safetensors``  one file; ``http://`` too
``hf://ORG/NAME[@REVISION]``    a model of the hub at ``HF_ENDPOINT``, read from there without a download
``s3://BUCKET/PATH``            a folder or a file of an object store
=============================== ===========================================================================

Manifests, recipes and messages show addresses, so that an address must not contain a password or a signature.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, urlsplit

from dovetail.io.errors import UnsupportedError

SCHEMES: Final = ("https", "http", "hf", "s3")
"""Schemes of the addresses that Dovetail reads as safetensors checkpoints."""

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HUB: Final = re.compile(r"hf://([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?/?", re.ASCII)
_COMMIT_AND_FILE: Final = re.compile(r"([0-9a-f]{40})/(.+)")
_LONGEST: Final = 2_000


def is_address(text: str) -> bool:
    """Whether a text has the form of an address rather than of a path."""
    return _SCHEME.match(text) is not None


def check_address(text: str) -> str:
    """Check an address, and return it in the form that all other code uses: without a slash at the end.

    Raises
    ------
    UnsupportedError
        Its scheme is not one of `SCHEMES`, it is malformed, or it contains a user, a password, a query or a fragment;
        the message quotes no secret.

    """
    shown = without_secrets(text)
    found = _SCHEME.match(text)
    scheme = found.group(1).lower() if found else ""
    if scheme not in SCHEMES:
        raise UnsupportedError(
            f"address {shown!r} has the scheme {scheme!r}", f"one of {', '.join(SCHEMES)}", "download the model first"
        )
    if len(text) > _LONGEST or not text.isprintable() or " " in text:
        raise UnsupportedError(f"address {shown!r} is too long or has blanks", "an address", "write %20 for a blank")
    try:
        parts = urlsplit(text)
        secret = parts.username is not None or parts.password is not None or (scheme != "hf" and "@" in parts.netloc)
        _ = parts.port
    except ValueError as error:
        raise UnsupportedError(f"address {shown!r} is malformed ({error})", "an address", "correct it") from None
    refuse_secrets(text)
    if secret:
        raise _secret(shown)
    if scheme == "hf" and not _HUB.fullmatch(text):
        raise UnsupportedError(f"address {shown!r} is malformed", "hf://ORG/NAME or hf://ORG/NAME@REVISION")
    if not parts.netloc:
        raise UnsupportedError(f"address {shown!r} names no host", f"{scheme}://HOST/PATH")
    return (scheme + text[len(scheme) :]).rstrip("/")


def refuse_secrets(text: str) -> None:
    """Refuse an address that contains a secret, which manifests and messages would show.

    Raises
    ------
    UnsupportedError
        The address contains a user, a password, a query or a fragment; the message quotes none of them.

    """
    if (shown := without_secrets(text)) != text:
        raise _secret(shown)


def _secret(shown: str) -> UnsupportedError:
    return UnsupportedError(
        f"address {shown!r} holds a user, a query or a fragment, which manifests and messages would show",
        "an address without secrets",
        "put a user and password into ~/.netrc, or a token into HF_TOKEN, or download the model first",
    )


def without_secrets(text: str) -> str:
    """Remove the user, password, query and fragment from a text, if it is an address, even a malformed one."""
    found = _SCHEME.match(text)
    if found is None:
        return text
    rest = re.split(r"[?#]", text[found.end() :], maxsplit=1)[0]
    if found.group(1).lower() != "hf" and "@" in rest:
        rest = "..." + rest[rest.rindex("@") :]
    return found.group() + rest


def hub_parts(address: str) -> tuple[str, str | None, str]:
    """Split ``hf://ORG/NAME[@REVISION]`` or ``hf://ORG/NAME@COMMIT/FILE`` into name, revision or None, and file."""
    name, _, rest = address.removeprefix("hf://").partition("@")
    found = _COMMIT_AND_FILE.fullmatch(rest)
    return (name, found.group(1), found.group(2)) if found else (name, rest or None, "")


def join(folder: str, file_name: str) -> str:
    """Make the address of a file in a folder; the file name is quoted in URLs, but not in names of stored objects."""
    url = folder.startswith(("http://", "https://", "hf://"))
    return f"{folder}/{quote(file_name) if url else file_name}"


def last_name(address: str) -> str:
    """Give the last part of an address."""
    return address.rsplit("/", 1)[-1]
