"""Many merges of all kinds in one process, and what they leave behind, for tests/test_soak.py and bench/soak.py."""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from dovetail.engine import RunOptions, compare, convert, events, merge, merge_tensors, verify
from dovetail.engine.errors import InterruptedMergeError
from dovetail.engine.planning.plan import PlanOptions
from dovetail.io.errors import DovetailError
from dovetail.io.files.machine import resident_bytes
from dovetail.io.output import SafetensorsFormat, ZarrFormat
from tests.adapters import lora_tensors, write_adapter
from tests.checkpoints import cabs_recipe, llama_tensors, write_checkpoint
from tests.server import Site, serve

SHARDS = PlanOptions(SafetensorsFormat(20_000))
AVERAGE: dict[str, Any] = {"merge_method": "linear", "parameters": {"weight": 1}, "dtype": "float32"}


@dataclass(frozen=True, slots=True)
class Left:
    """What a process holds."""

    resident_mib: float
    """Resident memory in MiB."""
    objects: int
    """Objects that the garbage collector knows."""
    threads: int
    """Threads, but for those in which the server waits for further requests."""
    descriptors: int
    """Open files, pipes and the like, but no sockets."""
    sockets: int
    """Sockets: both ends of connections that are kept for further requests, as many as there were at once at most."""
    temporary: int
    """Files and folders among the temporary ones."""
    handlers: int
    """Handlers of loggers."""
    warned: int
    """Warnings that modules remember to have given."""

    @classmethod
    def now(cls) -> Left:
        """Count."""
        gc.collect()
        links = list(map(_link, os.listdir("/proc/self/fd")))
        sockets = sum(link.startswith("socket:") for link in links)
        loggers = [logging.getLogger(), *map(logging.getLogger, tuple(logging.root.manager.loggerDict))]
        registries = [
            vars(module).get("__warningregistry__", {})
            for module in tuple(sys.modules.values())
            if hasattr(module, "__dict__")
        ]
        return cls(
            resident_mib=resident_bytes() / 2**20,
            objects=len(gc.get_objects()),
            threads=len(os.listdir("/proc/self/task")) - sum(map(_serves, threading.enumerate())),
            descriptors=len(links) - sockets,
            sockets=sockets,
            temporary=len(os.listdir(tempfile.gettempdir())),
            handlers=sum(len(logger.handlers) for logger in loggers),
            warned=sum(len(each) for each in registries),
        )


def _serves(thread: threading.Thread) -> bool:
    return "process_request_thread" in thread.name


def _link(descriptor: str) -> str:
    """Say what a descriptor is of; nothing for that by which they were listed."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:
        return ""


class Soak:
    """Models in a folder, and kinds of work on them, each of which makes an output and removes it again.

    Parameters
    ----------
    home
        A new folder.
    site
        A server of this folder.
    processes
        Runs tasks in other processes.

    """

    def __init__(self, home: Path, site: Site, processes: Executor) -> None:
        self.home, self._site, self._processes = home, site, processes
        base = llama_tensors(0)
        for seed, name in enumerate(("base", "math", "code")):
            write_checkpoint(home / name, llama_tensors(seed, base) if seed else base, shards=2 - seed % 2)
        bad = llama_tensors(1, base)
        bad["model.norm.weight"][3] = np.nan
        write_checkpoint(home / "bad", bad)
        write_adapter(home / "lora", lora_tensors(1, base, ("model.layers.1.mlp.up_proj",)))
        (home / "torch").mkdir()
        weights = {name: torch.from_numpy(value.astype(np.float32)) for name, value in llama_tensors(2, base).items()}
        torch.save(weights, home / "torch" / "pytorch_model.bin")
        (home / "torch" / "config.json").write_text((home / "base" / "config.json").read_text())
        self._tensors = [{name: value.astype(np.float32) for name, value in llama_tensors(s).items()} for s in (0, 1)]
        self._cabs = cabs_recipe(home / "cabs.yml", home / "base", [home / "math", home / "code"])
        self._count = 0

    def kinds(self) -> dict[str, Callable[[], int]]:
        """Give each kind of work, which answers how many merges it was."""
        return {
            "threads": lambda: self._merged(self._cabs, SHARDS),
            "to Zarr": lambda: self._merged(self._models("ties", density=0.5), PlanOptions(ZarrFormat())),
            "in stages": lambda: self._merged(self._staged()),
            "an adapter": lambda: self._merged(self._average("math+" + str(self.home / "lora"), "code")),
            "PyTorch": lambda: self._merged(self._average("base", "torch")),
            "over the network": self._from_afar,
            "processes": lambda: self._merged(self._cabs, run=RunOptions(workers=2, executor=self._processes)),
            "a conversion": self._converted,
            "in memory": self._in_memory,
            "a failure": self._failed,
            "an interrupt": self._interrupted,
            "two at once": self._two_at_once,
            "after a fork": self._forked,
        }

    def _models(self, method: str, **parameters: Any) -> dict[str, Any]:
        models = [{"model": str(self.home / name)} for name in ("math", "code")]
        asked = {"merge_method": method, "base_model": str(self.home / "base"), "models": models}
        return {**asked, "parameters": {"weight": 0.5, **parameters}, "dtype": "bfloat16"}

    def _average(self, *names: str) -> dict[str, Any]:
        places = [name if name.startswith("http") else str(self.home / name) for name in names]
        return {**AVERAGE, "models": [{"model": place} for place in places]}

    def _staged(self) -> str:
        return yaml.safe_dump_all([{"name": "mean", **self._average("math", "code")}, self._last()], sort_keys=False)

    def _last(self) -> dict[str, Any]:
        return {**AVERAGE, "models": [{"model": "mean"}, {"model": str(self.home / "base")}]}

    @contextlib.contextmanager
    def _output(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self.home) as folder:
            yield Path(folder) / "out"

    def _merged(self, recipe: Any, options: PlanOptions | None = None, run: RunOptions | None = None) -> int:
        with self._output() as out:
            merge(recipe, out, options, run)
            assert not verify(out).damage
        return 1

    def _from_afar(self) -> int:
        done = self._merged(self._average(f"{self._site.address}/math", "code"))
        self._site.requests.clear()  # which the server remembers
        return done

    def _converted(self) -> int:
        with self._output() as out:
            convert(self.home / "math", out, PlanOptions(ZarrFormat(), dtype="float16"))
            compare(out, self.home / "math")
        return 1

    def _in_memory(self) -> int:
        merge_tensors("linear", self._tensors, weight=0.5)
        return 1

    def _failed(self) -> int:
        for recipe in (self._average("math", "bad"), self._average("math", "nowhere"), "merge_method: [\n"):
            with self._output() as out, contextlib.suppress(DovetailError):
                merge(recipe, out)
                raise AssertionError("it did not fail")
        return 3

    def _interrupted(self) -> int:
        def stop(event: events.Event) -> None:
            if isinstance(event, events.Started):
                os.kill(os.getpid(), signal.SIGINT)

        with self._output() as out:
            before = signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                merge(self._cabs, out, SHARDS, listen=stop)
                raise AssertionError("it was not interrupted")
            except InterruptedMergeError:
                merge(self._cabs, out, SHARDS)
            finally:
                signal.signal(signal.SIGINT, before)
        return 2

    def _two_at_once(self) -> int:
        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(self._merged, self._cabs), pool.submit(self._merged, self._staged())]
            return sum(each.result() for each in both)

    def _forked(self) -> int:
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                signal.alarm(300)
                self._merged(self._cabs)
                self._merged(self._average(f"{self._site.address}/math", "code"), PlanOptions(ZarrFormat()))
                code = 0
            os._exit(code)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "the forked process could not merge"
        return 2


@contextlib.contextmanager
def soaking(home: Path) -> Iterator[Soak]:
    """Write models, serve them, and start two further processes, for the time of the block.

    The folder for temporary files is one of its own, in which nobody else makes any.
    """
    context, before = multiprocessing.get_context("spawn"), tempfile.tempdir
    (home / "temporary").mkdir()
    tempfile.tempdir = str(home / "temporary")
    try:
        with serve(home) as site, ProcessPoolExecutor(2, mp_context=context) as processes:
            yield Soak(home, site, processes)
    finally:
        tempfile.tempdir = before


def settle() -> None:
    """Wait until threads that are ending have ended."""
    for thread in threading.enumerate():
        if thread.name.startswith("dovetail"):
            thread.join(5.0)
