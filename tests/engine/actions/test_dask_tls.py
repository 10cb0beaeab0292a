"""Merges by a Dask cluster that takes only those with a certificate: the commands of Dask, as a user starts them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dovetail.engine import merge
from tests.dask_commands import scheduler, workers
from tests.engine.command import dovetail_process
from tests.engine.conftest import Family
from tests.engine.outputs import contents
from tests.pace import HANGS_S

pytest.importorskip("distributed")

OPENSSL = shutil.which("openssl")

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed, which makes certificates")


def certificate(folder: Path, name: str) -> dict[str, str]:
    """Make a certificate that vouches for itself; give Dask's variables by which all three sides use it."""
    cert, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    assert OPENSSL is not None
    command = [OPENSSL, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True, timeout=HANGS_S)
    found = {"DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(cert)}
    for side in ("SCHEDULER", "WORKER", "CLIENT"):
        found |= {f"DASK_DISTRIBUTED__COMM__TLS__{side}__CERT": str(cert)}
        found |= {f"DASK_DISTRIBUTED__COMM__TLS__{side}__KEY": str(key)}
    return found


@contextlib.contextmanager
def secured(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Start a scheduler and a worker; give the address, and the variables of who may use them."""
    folder.mkdir()
    variables = certificate(folder, "site")
    with (
        scheduler(folder, "--protocol", "tls", "--host", "127.0.0.1", variables=variables) as address,
        workers(folder, address, 1, variables=variables),
    ):
        yield address, variables


def test_certificates_from_the_configuration_of_dask(family: Family) -> None:
    """``tls://`` takes certificates from Dask's configuration; without them, or with others, the error says so soon."""
    with secured(family.home / "site") as (address, variables):
        assert address.startswith("tls://127.0.0.1:")
        asked = ["merge", family.recipe_path, family.out, "--executor", address]
        soon = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "1s"}

        without = dovetail_process(*asked, environment={**os.environ, **soon})
        assert 5 == without.code, without.err
        assert f"error: the Dask scheduler {address} does not answer (" in without.err
        assert "or the certificates in Dask's configuration (distributed.comm.tls)" in without.err

        others = certificate(family.home, "other")
        stranger = dovetail_process(*asked, environment={**os.environ, **others, **soon})
        assert 5 == stranger.code, stranger.err
        assert f"error: the Dask scheduler {address} does not answer (" in stranger.err
        assert not family.staging.exists()

        made = dovetail_process(*asked, environment={**os.environ, **variables})
        assert (0, "") == (made.code, made.err.partition("error:")[2])
        assert f"({address}): 1 part of the merge to make." in made.err
    merge(family.recipe_path, family.home / "threads")
    assert contents(family.home / "threads") == contents(family.out)
