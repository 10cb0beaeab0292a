"""Importing numpy for a command."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from threadpoolctl import threadpool_info


@pytest.mark.parametrize(("given", "expected"), [(None, 1), ("2", 2)])
def test_numpy_is_loaded_with_one_thread(given: str | None, expected: int) -> None:
    """A command starts no threads beside its own, unless the user asks for them; what it starts sees no difference."""
    if (os.cpu_count() or 1) < 2 or not any(each["internal_api"] == "openblas" for each in threadpool_info()):
        pytest.skip("this library makes no threads of its own here")
    script = (
        "import os; from dovetail.engine.cli.loading import load_numpy; load_numpy();"
        "from threadpoolctl import threadpool_info;"
        "print(max(each['num_threads'] for each in threadpool_info()), os.environ.get('OPENBLAS_NUM_THREADS'))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    if given is not None:
        environment["OPENBLAS_NUM_THREADS"] = given
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    assert f"{expected} {given}" == done.stdout.strip()
