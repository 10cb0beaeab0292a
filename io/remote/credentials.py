"""Credentials for servers, which are looked up for each request, sent only to their own host, and never stored."""

from __future__ import annotations

import base64
import importlib.util
import netrc
import os
from urllib.parse import urlsplit

DEFAULT_ENDPOINT = "https://huggingface.co"
"""The hub, unless ``HF_ENDPOINT`` names another."""


def hub_endpoint() -> str:
    """Give the address of the hub."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def headers_for(url: str) -> dict[str, str]:
    """Make the header that authenticates a request: with the hub's token for the hub, and else from ``~/.netrc``."""
    if _origin(url) == _origin(hub_endpoint()):
        token = _hub_token()
        return {"Authorization": f"Bearer {token}"} if token else {}
    return _netrc_header(urlsplit(url).hostname or "")


def advice(address: str) -> str:
    """Tell the user what to do if a server refuses access."""
    if address.startswith("hf://") or _origin(address) == _origin(hub_endpoint()):
        return "accept the model's terms on its page, and set HF_TOKEN or run hf auth login"
    return "check the address, or put a user and password for the host into ~/.netrc"


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _hub_token() -> str | None:
    if importlib.util.find_spec("huggingface_hub") is None:
        return os.environ.get("HF_TOKEN")
    from huggingface_hub import get_token

    return get_token()


def _netrc_header(host: str) -> dict[str, str]:
    try:
        found = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return {}
    if not found or not found[2]:
        return {}
    user, _, password = found
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
