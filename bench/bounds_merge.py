"""Merge through Dovetail's Python interface, for `bounds.py`.

python bench/bounds_merge.py merge RECIPE OUT MEMORY OUTPUT       # in two processes of an executor
python bench/bounds_merge.py serve                                # one merge for each line of standard input
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import workplace

from dovetail import DovetailError, PlanOptions, RunOptions, merge
from dovetail.engine import events
from dovetail.io.output import ZarrFormat

OPTIONS: Mapping[str, PlanOptions] = {
    "safetensors": PlanOptions(),
    "float32": PlanOptions(dtype="float32"),
    "zarr": PlanOptions(ZarrFormat()),
    "zarr shards": PlanOptions(ZarrFormat(codec="blosc", shard_bytes=8 * 10**6)),
}
WORKERS = 2


def tell(event: events.Event) -> None:
    """Print an event as the command line does."""
    print(json.dumps(event.to_json()), flush=True)


def in_processes(recipe: str, out: str, memory: str, output: str) -> None:
    """Merge in worker processes, under a limit that is the calling process's."""
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as executor:
        run = RunOptions(memory=memory, workers=WORKERS, overwrite=True, restart=True, executor=executor)
        merge(recipe, out, OPTIONS[output], run, tell)


def serve() -> None:
    """Merge what each line asks for, without a tight limit, and print the hash of the output."""
    for line in sys.stdin:
        recipe, out, output = json.loads(line)
        try:
            merge(recipe, out, OPTIONS[output], RunOptions(memory="4GiB", overwrite=True, restart=True))
        except DovetailError as error:  # the merge in the group fails too, or is told to have other bytes
            print(error, flush=True)
        else:
            print(workplace.digest(Path(out)), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        in_processes(*sys.argv[2:])
