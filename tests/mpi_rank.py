"""A rank of MPI that makes its share of what `tests.cluster_kills` kills; it says when it begins to publish."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dovetail.engine.run.parts.launch import rank_of_launch
from tests.crash import cases, small_tasks
from tests.part_kills import tell_at_publishing
from tests.parts import make_part


def main() -> None:
    """Make the share: of the case, from the recipe, into the output, in place of a former one or not."""
    name, subject, output, pipe, replaces = sys.argv[1:]
    (case,) = (case for case in cases() if case.name == name)
    rank = rank_of_launch()
    assert rank is not None, "MPI has not started this process"
    small_tasks()
    tell_at_publishing(os.open(pipe, os.O_WRONLY))
    make_part(case, Path(subject), Path(output), str(rank), overwrite=replaces == "yes")


if __name__ == "__main__":
    main()
