"""Merge on several hosts of a network: a Dask scheduler, workers and the command apart, ranks of MPI, cables pulled.

Run from the repository, as root: ``.venv/bin/python -m bench.namespaces``. The hosts are network namespaces of this
machine, and share its files. Where they cannot be made, it says so and ends with 0.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.network import Network, NoNetworkError, network
from dovetail.engine.planning import grid
from dovetail.engine.planning.plan import PlanOptions
from tests.cluster_makers import in_parts
from tests.dask_commands import environment, scheduler, workers
from tests.mpi_launch import mpich
from tests.part_methods import VARIANTS, Trial, Variant

HOSTS = ("scheduler", "one", "two", "client")
ENDS_S = 240.0
"""Seconds within which a command must end, whatever happens to the network."""

_SLOW = """
from pathlib import Path
from tests.engine.actions import dask_workers
dask_workers.commit_small_groups()
dask_workers.go_slowly(0.1, {told!r})
"""
"""What each worker does first: it waits after each task, and says when a chunk is durable."""


@dataclass
class Command:
    """A command that has ended."""

    code: int
    """Exit code."""
    said: str
    """What it has printed."""
    seconds: float
    """How long it took."""


class Hosts:
    """Merges on some hosts, each of which must give the bytes of one process.

    Parameters
    ----------
    net
        The hosts.
    folder
        An empty folder.
    method
        The merge method.

    """

    def __init__(self, net: Network, folder: Path, method: str) -> None:
        self.net, self.folder = net, folder
        self.trial = Trial(folder, layers=5)
        self.variant = next(variant for variant in VARIANTS if variant.method == method)
        self.sites = 0

    def try_one(self, name: str, act: Callable[[Path, Path], str]) -> None:
        """Make the merge in one way, compare every byte, and print a line."""
        began, notes = time.monotonic(), []

        def make(variant: Variant, recipe: Path, options: PlanOptions, output: Path) -> None:
            notes.append(act(recipe, output))

        if found := self.trial.differing(self.variant, "safetensors", {name: make}, (1,)):
            raise SystemExit(f"error: {found} differ from those of one process")
        print(f"{name:34} {time.monotonic() - began:8.1f}  {notes[0]}", flush=True)

    @contextlib.contextmanager
    def dask(self) -> Iterator[tuple[str, Path]]:
        """Start a scheduler on a host of its own, and two workers on each of two others; give its address."""
        self.sites += 1
        site = self.folder / f"site-{self.sites}"
        told = site / "told"
        told.mkdir(parents=True)
        (site / "slow.py").write_text(_SLOW.format(told=str(told)))
        host = ["--host", self.net.addresses["scheduler"]]
        with contextlib.ExitStack() as stack:
            address = stack.enter_context(scheduler(site, *host, prefix=self.net.on("scheduler")))
            for name in ("one", "two"):
                (site / name).mkdir()
                host = ["--host", self.net.addresses[name], "--preload", str(site / "slow.py")]
                stack.enter_context(workers(site / name, address, 2, *host, prefix=self.net.on(name)))
            yield address.replace("tcp://", "dask://"), told

    @contextlib.contextmanager
    def command(self, recipe: Path, output: Path, address: str) -> Iterator[Callable[[], Command]]:
        """Start the command on its host; give a function that waits for its end."""
        words = ["merge", str(recipe), str(output), "--executor", address, "--memory", "400MiB"]
        began = time.monotonic()
        process = subprocess.Popen(
            [*self.net.on("client"), sys.executable, "-c", in_parts(), *words],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

        def end() -> Command:
            said, _ = process.communicate(timeout=ENDS_S)
            return Command(process.returncode, said, time.monotonic() - began)

        try:
            yield end
        finally:
            process.kill()
            process.wait()

    def undisturbed(self, recipe: Path, output: Path) -> str:
        """Let all end."""
        with self.dask() as (address, _), self.command(recipe, output, address) as end:
            return _done(end())

    def cut(self, name: str, seconds: float | None) -> Callable[[Path, Path], str]:
        """Pull the cable of a host in mid-merge, and put it back after a while, or when the command has ended."""

        def act(recipe: Path, output: Path) -> str:
            with self.dask() as (address, told):
                with self.command(recipe, output, address) as end:
                    _await(told)
                    self.net.cut(name)
                    try:
                        if seconds is not None:
                            time.sleep(seconds)
                            self.net.join(name)
                        ended = end()
                    finally:
                        self.net.join(name)
                if ended.code == 0:
                    return _done(ended)
                error = next((line for line in ended.said.splitlines() if line.startswith("error: ")), "")
                if ended.code != 5 or not error:
                    raise SystemExit(f"error: the command ended with {ended.code}: {ended.said}")
            with self.dask() as (address, _), self.command(recipe, output, address) as end:
                return f"ended with 5 after {ended.seconds:.0f} s ({error[7:80]}...); again: {_done(end())}"

        return act

    def by_mpi(self, recipe: Path, output: Path) -> str:
        """Let two ranks on each of two hosts make their shares."""
        launcher = mpich()
        assert launcher is not None
        shell = self.net.remote_shell(self.folder / "shell")
        hosts = ",".join(f"{self.net.addresses[name]}:2" for name in ("one", "two"))
        start = [str(launcher.mpiexec), "-launcher", "rsh", "-launcher-exec", str(shell), "-iface", "eth0"]
        command = [*start, "-hosts", hosts, "-n", "4", sys.executable, "-c", in_parts()]
        began = time.monotonic()
        done = subprocess.run(
            [*self.net.on("client"), *command, "merge", str(recipe), str(output)],
            env=launcher.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=ENDS_S,
            check=False,
        )
        return _done(Command(done.returncode, done.stdout, time.monotonic() - began))


def _await(told: Path) -> None:
    """Wait until three of four workers have a chunk that is durable, so that both hosts have."""
    began = time.monotonic()
    while len([*told.iterdir()]) < 3:
        if time.monotonic() - began > ENDS_S:
            raise SystemExit("error: workers have made nothing")
        time.sleep(0.05)


def _done(ended: Command) -> str:
    """Say how long a command took; it must have succeeded."""
    if ended.code:
        raise SystemExit(f"error: the command ended with {ended.code}: {ended.said}")
    lost = ended.said.count("is given to another one.")
    return f"done after {ended.seconds:.0f} s" + (f", {lost} workers lost" if lost else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="ties", help="merge method [ties]")
    parser.add_argument("--only", default="", metavar="WORD", help="trials that have a word in their name")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all hosts are removed then too
    grid.CHUNK_STEP, grid.TASK_BYTES = 1024, 1  # many chunks
    try:
        with tempfile.TemporaryDirectory(prefix="dovetail-hosts-") as folder, network(*HOSTS) as net:
            hosts = Hosts(net, Path(folder), options.method)
            trials = {
                "Dask": hosts.undisturbed,
                "Dask, a worker's cable pulled": hosts.cut("one", None),
                "Dask, put back after 5 s": hosts.cut("one", 5.0),
                "Dask, the command's cable pulled": hosts.cut("client", None),
                "Dask, the scheduler's cable pulled": hosts.cut("scheduler", None),
            }
            if mpich() is None:
                print("MPI is left out: mpich is not installed; pip install mpich")
            else:
                trials["MPI"] = hosts.by_mpi
            print(f"{'trial':34} {'seconds':>8}  the command")
            for name, act in trials.items():
                if options.only in name:
                    hosts.try_one(name, act)
            print("every output was byte-identical to that of one process")
    except NoNetworkError as error:
        print(f"skipped: {error}")


if __name__ == "__main__":
    main()
