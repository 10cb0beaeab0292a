"""Which executors are clusters, and what is refused."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from dovetail.engine import RunOptions, convert, merge, recompute
from dovetail.engine.errors import RecipeError, WorkerLostError
from dovetail.engine.run.clusters import dask_cluster
from dovetail.engine.run.clusters.find import is_cluster, open_cluster
from dovetail.io.errors import UnsupportedError
from tests.engine.command import dovetail
from tests.engine.conftest import Family


def test_executors_of_python_are_given_chunks() -> None:
    """Pools of threads and of processes are no clusters."""
    for pool in (None, ThreadPoolExecutor(1), ProcessPoolExecutor(1)):
        assert not is_cluster(RunOptions(executor=pool).executor)
    assert is_cluster(RunOptions(executor="dask://here:8786").executor)


@pytest.mark.parametrize("executor", ["", "dask", "http://here", "dask://", 7])
def test_what_is_no_executor(executor: Any) -> None:
    """What cannot be an executor is refused when the options are made."""
    with pytest.raises(RecipeError, match=r"^executor is .*; expected dask://HOST:PORT, tls://HOST:PORT, mpi, or"):
        RunOptions(executor=executor)


def test_a_part_by_a_cluster() -> None:
    """Who asks for one part and for a cluster has to choose."""
    with pytest.raises(RecipeError, match="part 1/2 is to be made, and a cluster to make all parts"):
        RunOptions(executor="mpi", part="1/2")


def test_what_clusters_do_not_make(family: Family) -> None:
    """Conversions and recomputations are made by this process, and say so."""
    run = RunOptions(executor="dask://127.0.0.1:1")
    with pytest.raises(RecipeError, match=r"^a cluster is to make a conversion; expected a merge, or the store"):
        convert(family.base, family.out, run=run)
    merge(family.recipe_path, family.out)
    with pytest.raises(RecipeError, match=r"^a cluster is to do what is no merge; "):
        recompute(family.out, 0.5, run=run)


def test_a_missing_extra(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package is not installed, the message names the extra."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for executor, extra in (("dask://127.0.0.1:1", "dask"), ("mpi", "mpi")):
        with pytest.raises(UnsupportedError, match=rf"which is not installed; .* pip install 'dovetail\[{extra}\]'$"):
            open_cluster(executor)


def test_no_scheduler(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nobody answers is exit code 5 and one line."""
    pytest.importorskip("distributed")
    monkeypatch.setattr(dask_cluster, "CONNECT_S", 0.2)
    said = dovetail("merge", family.recipe_path, family.out, "--executor", "dask://127.0.0.1:1")
    assert (5, 1) == (said.code, len(said.err.splitlines()))
    assert said.err.startswith("error: the Dask scheduler dask://127.0.0.1:1 does not answer (")
    with pytest.raises(WorkerLostError):
        open_cluster("tcp://127.0.0.1:1")
