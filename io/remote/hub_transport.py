"""Reading ``hf://`` addresses by HTTP range requests, with the hub's list of a model's files.

This module is a `dovetail.io.remote.file.Transport`.
"""

from __future__ import annotations

from collections.abc import Mapping

from dovetail.io.remote import hub
from dovetail.io.remote.addresses import hub_parts
from dovetail.io.remote.http_transport import fetch, open_file, read_small

__all__ = ["fetch", "list_files", "open_file", "read_small"]


def list_files(folder: str) -> Mapping[str, int] | None:
    """Give the size in bytes of each file of a model, by name; see `dovetail.io.remote.file.Transport`."""
    name, revision, _ = hub_parts(folder)
    return hub.look_up(name, revision).files
