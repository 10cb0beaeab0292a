"""A true 70B on a small machine: Llama-3-70B's shapes, a base and two fine-tunes, 424 GB in, 141 GB out.

    python bench/scale.py                       # 80 layers, by CABS
    python bench/scale.py --method ties         # by TIES, which reads the models twice
    python bench/scale.py --layers 2            # the same in small: 22.9 GB in

Needs Linux, the package xfsprogs and the right to mount: the checkpoints live on an XFS file system in a sparse
image, where their shards share the blocks of a few hundred megabytes of values (`shared_blocks.py`). The output
goes to the same file system. As soon as the merge reports an output shard as durable it is checked
(`shard_check.py`) and its blocks are given back, so the disk never holds more than some shards. With ``--no-image``
the work folder itself is used: it must lie on a file system with room for the whole output, and if that cannot
share blocks the checkpoints are sparse files of zeros.

The merge alone is measured; the checks run beside it, on the same cores and disk. The projection to other disks
takes the longer of the time that the disk would need for all bytes and the processor time of the merge spread over
its workers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import workplace
from measure import Run, run
from report import mebibytes, print_table, write_results
from shard_check import Cabs, Checker, Definition, Ties, WrongOutputError, data_start, tensors_of
from shared_blocks import ImageError, mounted_image, punch

from dovetail.engine.synthetic import SIZES

N, M, DENSITY, WEIGHT = 64, 256, 0.5, 0.7
EACH = {"cabs": {"weight": WEIGHT, "n_val": N, "m_val": M}, "ties": {"weight": WEIGHT, "density": DENSITY}}
"""Parameters of every model, by method."""
DEFINITIONS: dict[str, Definition] = {"cabs": Cabs(N, M, WEIGHT), "ties": Ties(DENSITY, WEIGHT)}
TITLES = {"cabs": f"CABS {N}:{M}", "ties": f"TIES with density {DENSITY}"}
DISKS = (0.5e9, 2e9, 7e9)
LEAST_FREE_BYTES = 4 * 10**9
"""The run is given up rather than fill the disk under the image."""


@dataclass(slots=True)
class Watcher:
    """Follows a merge by its events: checks every finished shard, then frees its blocks."""

    checker: Checker
    folder: Path
    """A folder on the disk that must not become full."""
    least_free_bytes: int = 1 << 62
    """Least free space seen on it."""
    shards: int = 0
    """Shards checked and freed."""
    busy_s: float = 0.0
    """Time spent on checks."""
    failures: list[str] = field(default_factory=list)
    _process: subprocess.Popen[str] | None = None
    _place: Path = Path()
    _descriptor: int | None = None
    _finished: queue.SimpleQueue[dict[str, Any] | None] = field(default_factory=queue.SimpleQueue)
    _shown: float = 0.0

    def on_start(self, process: subprocess.Popen[str]) -> None:
        """Take the merge's process."""
        self._process = process

    def on_line(self, line: str) -> None:
        """Take one event of the merge."""
        event = json.loads(line)
        if event["event"] == "started":
            self._place = Path(event["staging"])
        elif event["event"] == "shard":
            self._follow_staging()
            self._finished.put(event)
        elif event["event"] == "progress" and time.monotonic() - self._shown > 10:
            self._shown = time.monotonic()
            self.least_free_bytes = min(self.least_free_bytes, shutil.disk_usage(self.folder).free)
            done, total, seconds = event["done_bytes"], event["total_bytes"], event["seconds"]
            print(
                f"  {seconds:6.0f} s, {done / 1e9:6.1f} of {total / 1e9:.1f} GB, {done / seconds / 1e9:.2f} GB/s, "
                f"{event['resident_bytes'] / 2**20:.0f} MiB resident, {self.shards} shards checked",
                flush=True,
            )
            if self.least_free_bytes < LEAST_FREE_BYTES:
                self._give_up(f"{self.folder} has only {self.least_free_bytes / 1e9:.1f} GB left")

    def work(self) -> None:
        """Check and free shards until told to end."""
        while (event := self._finished.get()) is not None:
            started = time.thread_time()
            shard = self._place / event["file"]
            try:
                self.checker.check(shard, event["checksums"])
                punch(shard, data_start(shard))
            except (OSError, WrongOutputError) as error:
                self._give_up(str(error))
                return
            self.shards += 1
            self.busy_s += time.thread_time() - started

    def end(self) -> None:
        """Let `work` return when all shards are checked."""
        self._finished.put(None)

    def close(self) -> None:
        """Let go of the output folder, so that its file system can be unmounted."""
        if self._descriptor is not None:
            os.close(self._descriptor)

    def _follow_staging(self) -> None:
        """Name the staging folder by a descriptor: it gets its final name while its last shards are checked."""
        if self._descriptor is None:
            self._descriptor = os.open(self._place, os.O_RDONLY)
            self._place = Path(f"/proc/self/fd/{self._descriptor}")

    def _give_up(self, reason: str) -> None:
        """Stop the merge and remember why."""
        self.failures.append(reason)
        assert self._process is not None
        self._process.terminate()


def measure(place: Path, disk: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Build the checkpoints in ``place``, merge and check them; give the figures."""
    script = [sys.executable, workplace.HERE / "shared_blocks.py", place, "--layers", args.layers]
    before = shutil.disk_usage(place).used
    started = time.monotonic()
    subprocess.run(list(map(str, [*script, "--fine-tunes", args.fine_tunes])), check=True)
    os.sync()
    family = [place / "base", *(place / f"tune{index}" for index in range(1, args.fine_tunes + 1))]
    apparent_bytes, real_bytes = workplace.family_bytes(family), shutil.disk_usage(place).used - before
    print(
        f"{len(family)} checkpoints, {apparent_bytes / 1e9:.1f} GB, made in {time.monotonic() - started:.0f} s; "
        f"they take {real_bytes / 1e9:.2f} GB of the disk",
        flush=True,
    )
    each = [EACH[args.method]] * args.fine_tunes
    recipe = workplace.write_recipe(place / "recipe.yml", args.method, family[0], family[1:], model_parameters=each)
    inputs = [
        {name: spot for path in sorted(folder.glob("*.safetensors")) for name, spot in tensors_of(path).items()}
        for folder in family
    ]
    watcher = Watcher(Checker(inputs, DEFINITIONS[args.method], args.blocks, args.full), disk)
    thread = threading.Thread(target=watcher.work, daemon=True)
    thread.start()
    command = workplace.dovetail(recipe, place / "out", memory=args.memory, workers=args.workers)
    try:
        result = run(command, on_start=watcher.on_start, on_line=watcher.on_line)
    finally:
        watcher.end()
        thread.join()
        watcher.close()
        if watcher.failures:
            print(f"Given up: {watcher.failures[0]}", file=sys.stderr)
    return {
        "method": args.method,
        "layers": args.layers,
        "memory": args.memory,
        "inputs_apparent_bytes": apparent_bytes,
        "inputs_real_bytes": real_bytes,
        "least_free_bytes": watcher.least_free_bytes,
        "shards_checked": watcher.shards,
        "tensors_checked": watcher.checker.tensors,
        "tensors_computed_again": watcher.checker.computed,
        "computed_again_bytes": watcher.checker.compared_bytes,
        "hashed_again_bytes": watcher.checker.hashed_bytes,
        "check_cpu_s": watcher.busy_s,
        "done": json.loads(result.tail),
        "run": result.to_json(),
        **projections(result, json.loads(result.tail)),
    }


def projections(result: Run, done: dict[str, Any]) -> dict[str, Any]:
    """Give the time on disks of several speeds, and what sets it."""
    moved_bytes = done["read_bytes"] + done["written_bytes"]
    compute_s = result.cpu_s / done["workers"]
    return {
        "moved_bytes": moved_bytes,
        "compute_s": compute_s,
        "projected_s": {f"{speed / 1e9:g} GB/s": max(moved_bytes / speed, compute_s) for speed in DISKS},
    }


def show(figures: dict[str, Any]) -> None:
    """Print the tables."""
    one, done = figures["run"], figures["done"]
    rows = [
        ("read", f"{done['read_bytes'] / 1e9:.1f} GB"),
        ("written", f"{done['written_bytes'] / 1e9:.1f} GB"),
        ("time", f"{one['wall_s']:.0f} s"),
        ("speed", f"{figures['moved_bytes'] / one['wall_s'] / 1e9:.2f} GB/s"),
        ("peak resident memory", f"{mebibytes(one['peak_rss_bytes'])} MiB of {figures['memory']}"),
        ("processor time", f"{one['user_s']:.0f} s user, {one['system_s']:.0f} s system"),
        ("processors in use", f"{one['cpu_s'] / one['wall_s']:.2f} of {done['workers']} workers"),
        ("room taken by the inputs", f"{figures['inputs_real_bytes'] / 1e9:.2f} GB"),
        ("output checked", f"{figures['shards_checked']} shards, {figures['tensors_checked']} tensors"),
        (
            "computed again, bit by bit",
            f"{figures['computed_again_bytes'] / 1e6:.1f} MB of {figures['tensors_computed_again']} tensors",
        ),
        ("checksums compared", f"{figures['hashed_again_bytes'] / 1e9:.2f} GB"),
        ("processor time of the checks", f"{figures['check_cpu_s']:.0f} s"),
    ]
    title = f"{TITLES[figures['method']]} of Llama-3-70B's shapes, {figures['layers']} layers"
    print_table(title, ("", ""), rows)
    print_table(
        f"Projection: the longer of all bytes at the disk's speed and {figures['compute_s']:.0f} s of computing",
        ("disk", "s", "set by"),
        [
            (disk, f"{seconds:.0f}", "computing" if seconds == figures["compute_s"] else "disk")
            for disk, seconds in figures["projected_s"].items()
        ],
    )


def main() -> None:
    parser = workplace.arguments(__doc__)
    parser.set_defaults(memory="2GiB")
    parser.add_argument("--method", choices=EACH, default="cabs", help="how the models are merged [cabs]")
    parser.add_argument("--layers", type=int, default=SIZES["70B-shapes"].layers)
    parser.add_argument("--fine-tunes", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=64, help="blocks of a tensor to compute again [64]")
    parser.add_argument("--full", action="store_true", help="compare all checksums: reads the whole output back")
    parser.add_argument("--no-image", action="store_true", help="use the work folder itself, see above")
    args = parser.parse_args()
    with workplace.workplace(args.work, 25 * 10**9) as folder, contextlib.ExitStack() as stack:
        place = folder
        if not args.no_image:
            try:
                place = stack.enter_context(mounted_image(folder, 400 * 10**9))
            except ImageError as error:
                sys.exit(f"{error}; or choose a folder on XFS or btrfs with --work and --no-image")
        figures = measure(place, folder, args)
    show(figures)
    write_results("scale" if args.method == "cabs" else f"scale-{args.method}", figures)


if __name__ == "__main__":
    main()
