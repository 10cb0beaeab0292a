"""Finding files in the pages that web servers make of their folders."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import unquote, urljoin

from dovetail.io.errors import RemoteError

MAX_PAGE_BYTES: Final = 16 * 2**20
"""Longest page of a folder, in bytes."""
MAX_PAGES: Final = 100_000
"""Most pages that are read of one folder and those below it."""

LONGEST_S: Final = 3_600.0
"""Most seconds that all pages together may take; each has its own limit too."""

_LINK: Final = re.compile(rb"""<a\s[^<>]{0,2000}?href\s*=\s*["']?([^"'\s<>]{1,2000})""", re.IGNORECASE)


def list_below(folder: str, read: Callable[[str, int], bytes | None]) -> Iterable[str]:
    """List the paths, relative to a folder, of all files to which its page and those below it lead.

    Parameters
    ----------
    folder
        Address of the folder.
    read
        Reads the page at an address, or as many bytes of it as given and one more; None if there is none.

    Raises
    ------
    RemoteError
        A page is too long, or there are too many, or they take too long.

    """
    end = time.monotonic() + LONGEST_S
    root = folder.rstrip("/") + "/"
    pending, seen = [root], {root}
    found: set[str] = set()
    while pending:
        page_address = pending.pop()
        if time.monotonic() > end:
            raise RemoteError(
                f"the pages of {folder} take more than {LONGEST_S / 60:.0f} minutes", "pages that come sooner"
            )
        page = read(page_address, MAX_PAGE_BYTES) or b""
        if len(page) > MAX_PAGE_BYTES:
            raise RemoteError(f"the page {page_address} is too large", f"at most {MAX_PAGE_BYTES} bytes")
        for link in _LINK.findall(page):
            target = _inside(page_address, link)
            if target is None or target in seen:
                continue
            seen.add(target)
            if not target.endswith("/"):
                found.add(unquote(target[len(root) :]))
                continue
            pending.append(target)
            if len(seen) - len(found) > MAX_PAGES:
                raise RemoteError(f"{folder} has more than {MAX_PAGES} folders below it", "at most that many")
    return sorted(found)


def _inside(page_address: str, link: bytes) -> str | None:
    """Give the address to which a link leads, without query and fragment; None if it does not lead further down."""
    try:
        target = urljoin(page_address, link.decode("ascii").split("#")[0].split("?")[0])
    except ValueError:
        return None
    return target if target.startswith(page_address) and target != page_address else None
