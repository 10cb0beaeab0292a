"""Recognising the clusters that a user names, or gives as objects, without importing what they need."""

from __future__ import annotations

from typing import Any, Final

from dovetail.engine.errors import RecipeError
from dovetail.engine.run.clusters.cluster import Cluster

_DASK: Final = ("dask", "tcp", "tls", "ucx", "ws", "wss")
"""Schemes of addresses of Dask schedulers."""

_OF_DASK: Final = ("Client", "Cluster", "ClientExecutor")
"""Classes of Dask that lead to workers."""


def is_cluster(executor: object) -> bool:
    """Whether an executor has workers that make whole parts, and not one that is given chunks."""
    return isinstance(executor, str) or _kind(executor) != ""


def check_executor(executor: object) -> None:
    """Refuse what is no executor.

    Raises
    ------
    RecipeError
        It is not; the message names what is.

    """
    if executor is None or (not isinstance(executor, str) and (_kind(executor) or hasattr(executor, "submit"))):
        return
    if isinstance(executor, str) and (executor == "mpi" or _scheme(executor) in _DASK):
        return
    raise RecipeError(
        f"executor is {executor!r}",
        "dask://HOST:PORT, tls://HOST:PORT, mpi, or an executor, a Client or a Cluster from Python",
        "correct the executor",
    )


def open_cluster(executor: object) -> Cluster:
    """Connect to a cluster.

    Raises
    ------
    UnsupportedError
        The package that it needs is not installed.
    WorkerLostError
        It does not answer.
    RecipeError
        It is of a kind that cannot be used.

    """
    if executor == "mpi" or _kind(executor) == "mpi":
        from dovetail.engine.run.clusters.mpi_pool import open_pool

        return open_pool(None if isinstance(executor, str) else executor)
    from dovetail.engine.run.clusters.dask_cluster import open_dask

    return open_dask(executor)


def _scheme(address: str) -> str:
    scheme, separator, rest = address.partition("://")
    return scheme if separator and rest else ""


def _kind(executor: Any) -> str:
    """Say to which package the class of an object belongs, if it leads to workers; empty for any other object."""
    for cls in type(executor).__mro__:
        package = cls.__module__.partition(".")[0]
        if package == "distributed" and cls.__name__ in _OF_DASK:
            return "dask"
        if package == "mpi4py" and cls.__name__ == "MPIPoolExecutor":
            return "mpi"
    return ""
