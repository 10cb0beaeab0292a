"""What tests of io share: another process, and the asynchronous tests of zarr's store suite without a plugin."""

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
    """Start a process that knows nothing of this one; its start takes a while, so that all tests share it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool
