"""Connections that wait only so long for a server, however it spreads its bytes.

A timeout of a socket begins anew with every byte, so that a server that sends one now and then, of its headers as of
its body, could hold a request for days. Here all waiting of one request is added up, redirects included, and may take
so long as the bytes that came allow.
"""

from __future__ import annotations

import http.client
import io
import time
from contextvars import ContextVar
from typing import Any, Final

import urllib3
import urllib3.connection
import urllib3.connectionpool


class Allowance:
    """How long one request may wait.

    Parameters
    ----------
    least_s
        Seconds that it may wait in any case.
    bytes_per_s
        Bytes for each of which it may wait longer: the slowest pace that is borne.

    """

    def __init__(self, least_s: float, bytes_per_s: float) -> None:
        self._least_s, self._bytes_per_s = least_s, bytes_per_s
        self.waited_s, self._received = 0.0, 0

    @property
    def left_s(self) -> float:
        """Seconds that the request may still wait."""
        return self._least_s + self._received / self._bytes_per_s - self.waited_s

    def spend(self, began: float, received: int = 0) -> None:
        """Count a wait that began at a time of `time.monotonic` and has ended now, and the bytes that it brought."""
        self.waited_s += time.monotonic() - began
        self._received += received


allowance: ContextVar[Allowance] = ContextVar("allowance")
"""The allowance of the request that this thread makes."""


class _Waiting(io.RawIOBase):
    """What a socket receives, within an allowance."""

    def __init__(self, raw: Any, socket: Any, allowed: Allowance) -> None:
        super().__init__()
        self._raw, self._socket, self._allowed = raw, socket, allowed

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def readinto(self, buffer: Any) -> int | None:
        left = self._allowed.left_s
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left)
        began, received = time.monotonic(), 0
        try:
            received = self._raw.readinto(buffer) or 0
        finally:
            self._allowed.spend(began, received)
        return received

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An answer whose headers and body are received within the allowance of its request."""

    def __init__(self, sock: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        raw = self.fp.detach() if isinstance(self.fp, io.BufferedReader) else self.fp
        self.fp = io.BufferedReader(_Waiting(raw, sock, allowance.get()))


class _Paced(urllib3.connection.HTTPConnection):
    """A connection whose making and answers spend the allowance of the request."""

    response_class: Any = _Answer

    def connect(self) -> None:
        allowed = allowance.get()
        began, counted_s = time.monotonic(), allowed.waited_s
        try:
            super().connect()
        finally:  # the answer of a proxy, which comes before the connection is made, has counted itself
            allowed.spend(began + allowed.waited_s - counted_s)


class _EncryptedConnection(_Paced, urllib3.connection.HTTPSConnection):
    pass


class _Pool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls: Any = _Paced


class _EncryptedPool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls: Any = _EncryptedConnection


POOLS: Final = {"http": _Pool, "https": _EncryptedPool}
"""Pools of such connections by scheme, for a `urllib3.PoolManager`."""
