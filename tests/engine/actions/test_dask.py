"""Merges by the workers of a Dask cluster: real processes on this machine, which are killed, stopped and replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dovetail.engine import PlanOptions, RunOptions, events, make_vectors, merge
from dovetail.engine.actions import hand_out
from dovetail.engine.errors import InterruptedMergeError, WorkerVersionError
from tests.cluster_makers import in_parts
from tests.engine.actions import dask_workers
from tests.engine.actions.making_parts import ZARR, in_one_piece
from tests.engine.command import dovetail
from tests.engine.conftest import Family
from tests.engine.interrupt import commit_often
from tests.engine.outputs import contents
from tests.pace import HANGS_S, until
from tests.part_methods import FORMATS, VARIANTS, Trial, by_runs

distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


WORKERS = 2
"""Worker processes: one that is lost, and one that is left."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Give a cluster of two worker processes, each of which is started again when it ends."""
    with (
        distributed.LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
        ) as made,
        distributed.Client(made) as client,
    ):
        client.run(dask_workers.commit_small_groups)
        yield made


def wait_for_all(cluster: Any, client: Any) -> None:
    """Wait for all workers; on a busy machine whatever starts one again may give up, and another takes its place."""
    began = time.monotonic()
    while time.monotonic() - began < HANGS_S:
        try:
            client.wait_for_workers(WORKERS, timeout=20)
        except TimeoutError:
            cluster.scale(len(cluster.worker_spec) + 1)
        else:
            return
    raise TimeoutError("there are too few workers")


@pytest.fixture
def client(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give a client of the cluster, with workers as they should be; small merges are many parts of many chunks."""
    commit_often(monkeypatch)
    monkeypatch.setattr(hand_out, "parts_for", lambda moved_bytes, workers: 4 * workers)
    with distributed.Client(cluster) as found:
        wait_for_all(cluster, found)
        yield found
        wait_for_all(cluster, found)
        found.run(dask_workers.go_on)
        found.run(dask_workers.commit_small_groups)


def make(family: Family, executor: Any, options: PlanOptions | None = None, listen: Any = None) -> list[events.Event]:
    """Merge by a cluster; give what was told."""
    seen: list[events.Event] = []

    def hear(event: events.Event) -> None:
        seen.append(event)
        if listen is not None:
            listen(event)

    merge(family.recipe_path, family.out, options, RunOptions(executor=executor), hear)
    return seen


def notices(seen: list[events.Event]) -> list[str]:
    """Give the texts that a person is told."""
    return [event.text for event in seen if isinstance(event, events.Notice)]


def slowly(client: Any, family: Family) -> Path:
    """Let all workers go slowly, and give the folder in which each says that it has a chunk that is durable."""
    told = family.home / "told"
    told.mkdir()
    client.run(dask_workers.go_slowly, 0.2, str(told))
    return told


TIES: dict[str, Any] = {"merge_method": "ties", "parameters": {"density": 0.4, "weight": 0.7}}
DARE: dict[str, Any] = {"merge_method": "dare_linear", "parameters": {"density": 0.4, "weight": 0.7}}


@pytest.mark.parametrize(
    ("recipe", "options"), [({}, None), (TIES, ZARR), (DARE, None)], ids=["cabs", "ties-zarr", "dare_linear"]
)
def test_the_bytes_are_those_of_threads(
    family: Family, client: Any, recipe: dict[str, Any], options: PlanOptions | None
) -> None:
    """Workers make what one process makes, several parts each, and nothing else is left."""
    family.recipe(**recipe)
    seen = make(family, client, options)
    parts = [event for event in seen if isinstance(event, events.PartDone)]
    assert len(parts) > 4
    assert "" == parts[-1].left
    (done,) = (event for event in seen if isinstance(event, events.Done))
    assert (sum(part.written_bytes for part in parts), False) == (done.written_bytes, done.already)
    assert (done.written_bytes, 1.0) == (done.output_bytes, done.share_made)
    assert in_one_piece(family, options) == contents(family.out)
    assert not family.staging.exists()
    again = make(family, client, options)
    assert [f"{family.out} is this merge already, verified by its plan; nothing to do."] == notices(again)


def test_a_sample_of_methods(tmp_path: Path, client: Any) -> None:
    """Every tenth variant of a method has the bytes of one process; ``python -m bench.parts --methods`` tries all."""
    trial, makers = Trial(tmp_path, layers=1), {"dask": by_runs(RunOptions(executor=client))}
    forms = sorted(FORMATS)
    for number, variant in enumerate(VARIANTS[4::10]):
        assert [] == trial.differing(variant, forms[number % 2], makers, workers=(2,))


def test_cluster_and_executor_of_dask(family: Family, cluster: Any, client: Any) -> None:
    """Whatever a program holds of a cluster will do: the cluster itself, an executor, and the scheduler's address."""
    for number, executor in enumerate((cluster, client.get_executor(), cluster.scheduler_address)):
        merge(family.recipe_path, family.home / f"out-{number}", None, RunOptions(executor=executor))
    found = [contents(family.home / f"out-{number}") for number in range(3)]
    assert [found[0]] * 3 == found


def test_stages_and_stores(family: Family, client: Any) -> None:
    """Stages are made by the cluster one after another, and stores of task vectors too."""
    stage = family.recipe_path.read_text() + "name: first\n"
    final = f"merge_method: linear\nmodels:\n- model: first\n- model: {family.math}\nparameters: {{weight: 0.5}}\n"
    text = f"{stage}---\n{final}"
    merge(text, family.out, None, RunOptions(executor=client))
    merge(text, family.home / "threads")
    found, expected = contents(family.out), contents(family.home / "threads")
    assert found.pop("dovetail_inputs.json") != expected.pop("dovetail_inputs.json")  # when the stage was written
    assert expected == found
    make_vectors(family.recipe_path, family.home / "store", run=RunOptions(executor=client))
    make_vectors(family.recipe_path, family.home / "threads-store")
    assert contents(family.home / "threads-store") == contents(family.home / "store")


@pytest.mark.parametrize("all_of_them", [False, True])
def test_killed_workers(family: Family, client: Any, all_of_them: bool) -> None:
    """The part of a worker that is killed goes on by another one, also if all are killed and new ones come."""
    told, killed = slowly(client, family), []

    def kill(event: events.Event) -> None:
        if isinstance(event, events.Started):
            until(lambda: len([*told.iterdir()]) == WORKERS)
            for path in [*told.iterdir()][: None if all_of_them else 1]:
                os.kill(int(path.name), signal.SIGKILL)
                killed.append(path.name)

    started = hand_out.Dispatch._hand_out

    def hand_out_first(dispatch: Any) -> None:
        started(dispatch)
        if not killed:
            kill(events.Started("", 0, 0, 0, 0, 0, 0, 0, 0, ""))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(hand_out.Dispatch, "_hand_out", hand_out_first)
        seen = make(family, client)
    lost = [text for text in notices(seen) if text.endswith("is given to another one.")]
    assert len(killed) == len(lost)
    assert in_one_piece(family) == contents(family.out)


def test_a_worker_that_ends_when_its_part_is_done(family: Family, client: Any) -> None:
    """A part of which nothing is left is given to nobody again, and nobody is warned; the summary counts it too."""
    client.run(dask_workers.end_after_a_part, workers=sorted(client.nthreads())[:1])
    seen = make(family, client)
    assert 1 == len([text for text in notices(seen) if "is gone; its part " in text])
    assert [] == [event for event in seen if isinstance(event, events.Notice) and event.level == "warning"]
    (done,) = (event for event in seen if isinstance(event, events.Done))
    assert (74_880, 1.0) == (done.output_bytes, done.share_made)
    assert in_one_piece(family) == contents(family.out)


def test_interrupted(family: Family, client: Any) -> None:
    """Whoever stops a merge finds that no worker does anything any more, and that the same call continues."""
    slowly(client, family)

    def stop(event: events.Event) -> None:
        if isinstance(event, events.Progress) and event.done_bytes:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedMergeError, match=r"merge interrupted; [0-9.]+% of its chunks are safe in"):
        make(family, client, listen=stop)
    assert [] == [keys for keys in client.processing().values() if keys]
    client.run(dask_workers.go_on)
    seen = make(family, client)
    assert notices(seen)[0].startswith("Continuing an unfinished merge: ")
    (done,) = (event for event in seen if isinstance(event, events.Done))
    assert (74_880, True) == (done.output_bytes, 0 < done.share_made < 1)
    assert in_one_piece(family) == contents(family.out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_command_ends(family: Family, client: Any, number: signal.Signals) -> None:
    """After Ctrl-C the command ends with 130; workers stop then, and also when the command is killed."""
    told = slowly(client, family)
    address = client.scheduler.address.replace("tcp://", "dask://")
    arguments = ["merge", str(family.recipe_path), str(family.out), "--executor", address, "--format", "zarr"]
    process = subprocess.Popen(
        [sys.executable, "-c", in_parts(), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until(lambda: [*told.iterdir()])
    process.send_signal(number)
    _, err = process.communicate(timeout=HANGS_S)
    if number == signal.SIGINT:
        assert 130 == process.returncode
        assert "error: merge interrupted; " in err
    until(lambda: not any(client.processing().values()))
    client.run(dask_workers.go_on)
    assert notices(make(family, client, ZARR))[0].startswith("Continuing an unfinished merge: ")
    assert in_one_piece(family, ZARR) == contents(family.out)


def test_other_versions(family: Family, client: Any) -> None:
    """A worker with another version is named before any part is made."""
    worker = sorted(client.nthreads())[1]
    client.run(dask_workers.pretend, "numpy", "1.9", workers=[worker])
    with pytest.raises(WorkerVersionError, match=rf"worker {worker} on \S+ has numpy 1\.9; expected 2\.\S+ as the cl"):
        make(family, client)
    assert 0 == len([*family.staging.glob("dovetail_parts/of-*/*.done")])


def test_the_plan_says_who_makes_it(family: Family, client: Any) -> None:
    """``dovetail plan`` names the workers, their threads and the limit on each; this process may be large by now."""
    address = client.scheduler.address
    said = dovetail("plan", family.recipe_path, "--memory", "2GiB", "--executor", address)
    assert (0, "") == (said.code, said.err)
    assert f"made by {WORKERS} workers x 2 GiB with 1 thread each on 1 machine ({address})" == said.out.splitlines()[-1]
