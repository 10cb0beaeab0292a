"""Removing signatures from addresses in the logs of libraries, some of which log the address of a failed request."""

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
    """Remove secrets from addresses in what this thread logs during the block; other threads' logs stay unchanged."""
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)


class _Shortening(logging.Filter):
    """Passes every log record, and removes secrets from its addresses if it comes from `logged_without_secrets`."""

    def filter(self, record: logging.LogRecord) -> bool:
        if _ours.get():
            record.msg, record.args = _ADDRESS.sub(lambda found: without_secrets(found[0]), record.getMessage()), ()
        return True


for _name in _LOGGERS:
    logging.getLogger(_name).addFilter(_Shortening())
