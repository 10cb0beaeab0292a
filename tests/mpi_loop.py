"""Ranks of MPI that make one variant of a method after another, as files in a folder ask for; see `cluster_makers`."""

from __future__ import annotations

import itertools
import pickle
import sys
import time
import traceback
from pathlib import Path

from dovetail.engine.planning import grid
from dovetail.engine.run.parts.launch import rank_of_launch
from dovetail.engine.run.prepare import RunOptions
from tests.part_methods import by_runs


def main() -> None:
    """Make the share of this rank of all that is asked for, until the folder has a file that says to end."""
    folder = Path(sys.argv[1])
    grid.CHUNK_STEP, grid.TASK_BYTES = map(int, sys.argv[2:])
    rank = rank_of_launch()
    assert rank is not None, "MPI has not started this process"
    make = by_runs(RunOptions(workers=1, part=str(rank)))
    for number in itertools.count():
        job = folder / f"job-{number}"
        while not job.exists():
            if (folder / "end").exists():
                return
            time.sleep(0.01)
        said = ""
        try:
            make(*pickle.loads(job.read_bytes()))
        except Exception:
            said = traceback.format_exc()
        path = folder / f"done-{number}-{rank.number}"
        path.with_suffix(".new").write_text(said)
        path.with_suffix(".new").rename(path)


if __name__ == "__main__":
    main()
