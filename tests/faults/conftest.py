"""Fixtures: the family of models of the engine's tests, in many small tasks."""

from __future__ import annotations

import pytest

from tests.engine.conftest import family as family
from tests.engine.interrupt import commit_often


@pytest.fixture(autouse=True)
def _many_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut tensors in this process as `tests.faults.paused` does in another."""
    commit_often(monkeypatch)
