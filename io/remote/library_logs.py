"""Keeping signed addresses out of what libraries log on our behalf: some warn with the address that they asked last."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final

from dovetail.io.remote.addresses import without_secrets

_LOGGERS: Final = (
    "urllib3.connection",
    "urllib3.connectionpool",
    "urllib3.poolmanager",
    "urllib3.response",
    "urllib3.util.retry",
    "huggingface_hub.file_download",
    "huggingface_hub.utils._http",
)
_ADDRESS: Final = re.compile(r"https?://[^\s'\"]+")

_ours: ContextVar[bool] = ContextVar("ours", default=False)


@contextlib.contextmanager
def logged_without_secrets() -> Iterator[None]:
    """Shorten addresses in what this thread logs until the end of the block; logs of anybody else stay as they are."""
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)


class _Shortening(logging.Filter):
    """Passes every record, with addresses up to their query."""

    def filter(self, record: logging.LogRecord) -> bool:
        if _ours.get():
            record.msg, record.args = _ADDRESS.sub(lambda found: without_secrets(found[0]), record.getMessage()), ()
        return True


for _name in _LOGGERS:
    logging.getLogger(_name).addFilter(_Shortening())
