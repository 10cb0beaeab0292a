"""Processes that carry out tasks for all tests of merges: each takes more than a second to start."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor

import pytest


@pytest.fixture(scope="session")
def processes() -> Iterator[Executor]:
    """Start two fresh processes, which share no memory with this one."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool
