"""Each combination of kernels is tried once before the first task; a child compiles those that are not cached."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dovetail.engine.methods.decoding import STRETCH
from dovetail.engine.methods.program import Problem
from dovetail.engine.run import warm
from dovetail.engine.run.lock import Hold, hold_lock
from dovetail.engine.run.warm import LARGEST_TRIAL_ELEMENTS, Trial, trials, warm_up
from tests.pace import HANGS_S

COMPILE_IN_CHILD = warm._compile_in_child
"""As it is; while tests run, other tests compile in their own process."""

PROBLEM = Problem(
    name="w",
    shape=(4096, 4096),
    length=4096 * 4096,
    base_code=2,
    model_codes=(2, 2),
    out_code=2,
    parameters={"overlap": "forbid", "consensus": "sum", "conflict_aware": True, "balanced": True},
    model_parameters=({"weight": 0.5, "n": 64, "m": 256}, {"weight": 1.5, "n": 64, "m": 256}),
)


def test_tensors_that_use_the_same_kernels_are_tried_once() -> None:
    """Only the number of models, switches and blocks need further trials; names, shapes, dtypes and weights do not."""
    alike = [
        replace(PROBLEM, name="other", shape=(7,), length=7),
        replace(PROBLEM, base_code=0, model_codes=(0, 1), out_code=0),
        replace(PROBLEM, model_parameters=tuple({**each, "weight": 9.0} for each in PROBLEM.model_parameters)),
    ]
    assert 1 == len(trials("cabs", [PROBLEM, *alike]))
    different = [
        replace(PROBLEM, model_codes=(2,), model_parameters=PROBLEM.model_parameters[:1]),
        replace(PROBLEM, parameters={**PROBLEM.parameters, "consensus": "ties"}),
        replace(PROBLEM, parameters={**PROBLEM.parameters, "balanced": False}),
        replace(PROBLEM, model_parameters=tuple({**each, "m": 32, "n": 3} for each in PROBLEM.model_parameters)),
    ]
    assert 5 == len(trials("cabs", [PROBLEM, *alike, *different]))


def test_trials_are_small() -> None:
    """A trial has a few blocks, and a bounded size however long a block is."""
    ((_, usual),) = trials("cabs", [PROBLEM])
    assert (512, (2, 256)) == (usual.length, usual.shape)
    ((_, vector),) = trials("cabs", [replace(PROBLEM, shape=(4096,), length=4096)])
    assert (512, (512,)) == (vector.length, vector.shape)
    whole = replace(
        PROBLEM,
        parameters={**PROBLEM.parameters, "balanced": False},
        model_parameters=tuple({**each, "m": 2**62} for each in PROBLEM.model_parameters),
    )
    ((_, longest),) = trials("cabs", [whole])
    assert LARGEST_TRIAL_ELEMENTS == longest.length


def test_kernels_that_only_some_tensors_need_are_tried() -> None:
    """If parameters or shapes of some tensors need other kernels, these are tried too."""
    parameters = {"lambda": 1.0, "normalize": True, "rescale": False, "int8_mask": False}
    thin = replace(PROBLEM, parameters=parameters, model_parameters=({"weight": 1.0, "density": 0.5},) * 2)
    full = replace(thin, model_parameters=({"weight": 1.0, "density": 1.0},) * 2)
    assert 2 == len(trials("ties", [thin, full, replace(thin, name="again")]))
    row = {"nuslerp_flatten": False, "nuslerp_row_wise": False}
    matrix = replace(PROBLEM, parameters=row, model_parameters=({"weight": 1.0},) * 2)
    assert 2 == len(trials("nuslerp", [matrix, replace(matrix, shape=(64,), length=64)]))
    long = replace(matrix, shape=(4, 2**22), length=2**24)
    (_, short), (_, other) = trials("nuslerp", [matrix, long])
    assert short.shape[1] < STRETCH < other.shape[1]
    assert other.length <= LARGEST_TRIAL_ELEMENTS


def test_cached_kernels_are_only_loaded() -> None:
    """If all kernels are cached, warming up gives no notice and starts no process."""
    needed = trials("cabs", [PROBLEM])
    warm_up(needed, str)
    said: list[str] = []
    warm_up(needed, said.append)
    assert [] == said


def test_missing_kernels_are_compiled_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child process gets the same trials and cache; afterwards the trials run in this process."""
    needed = trials("cabs", [PROBLEM])
    tried: list[list[Trial]] = []
    children: list[dict[str, Any]] = []
    said: list[str] = []

    def try_all(given: list[Trial]) -> None:
        tried.append(given)
        if not children:
            raise warm._CompilationNeeded

    def run(command: list[str], **options: Any) -> None:
        assert [sys.executable, "-P", "-m", "dovetail.engine.run.warm"] == command
        assert [warm.COMPILING] == said
        with hold_lock(warm._lock_path(needed)) as hold:
            assert Hold.OTHERS is hold
        children.append(options)

    monkeypatch.setattr(warm, "_compile_in_child", COMPILE_IN_CHILD)
    monkeypatch.setattr(warm, "_try_all", try_all)
    monkeypatch.setattr(subprocess, "run", run)
    warm_up(needed, said.append)
    assert [needed] * 3 == tried  # once more under the lock, as another process may have compiled them meanwhile
    (options,) = children
    assert needed == pickle.loads(options["input"])
    assert os.environ.items() <= options["env"].items()
    assert options["env"]["NUMBA_CACHE_DIR"]


def test_the_child_does_its_work() -> None:
    """The child, started as a merge starts it, reads trials, runs them, and ends without an error."""
    done = subprocess.run(
        [sys.executable, "-m", "dovetail.engine.run.warm"],
        input=pickle.dumps(trials("cabs", [PROBLEM])),
        capture_output=True,
        check=False,
        timeout=HANGS_S,
    )
    assert (0, b"", b"") == (done.returncode, done.stdout, done.stderr)


COMPILES = """
import os, resource, sys, time
from dovetail.engine.run import warm
from dovetail.engine.run.lock import Hold, hold_lock
from tests.engine.run.compiled import mean_of_squares

while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
said = []
warm.warm_up([mean_of_squares], said.append)
print(*said)
"""


def test_of_several_processes_one_compiles(tmp_path: Path) -> None:
    """Three processes that begin cold at the same time: one compiles, and the others wait and load what it has made."""
    begin = tmp_path / "begin"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", COMPILES, str(begin)]
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    begin.touch()
    said = [process.communicate(timeout=HANGS_S)[0].strip() for process in started]
    assert [0] * 3 == [process.returncode for process in started]
    assert 1 == sum(warm.COMPILING in text for text in said)
    assert {"", warm.COMPILING, warm.WAITING} >= {*said}
