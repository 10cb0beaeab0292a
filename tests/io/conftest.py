"""Fixtures for tests of `dovetail.io`: another process, and zarr's asynchronous test suite without a plug-in."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in wanted}))
    return True


@pytest.fixture(scope="session")
def other_process() -> Iterator[Executor]:
    """Start a process that shares no memory with this one; as starting it takes a while, all tests share it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool
