"""Where the command ``dovetail`` begins, also as ``python -m dovetail.engine``: requests to stop are answered first."""

from __future__ import annotations

import gc
import sys
from typing import NoReturn

from dovetail.engine.cli.stopping import answer_interrupts


def main() -> NoReturn:
    """Run the command and exit."""
    answer_interrupts(sys.argv[1:])
    from dovetail.io.files.collector import collector_paused

    with collector_paused():
        from dovetail.engine.cli.main import main as run  # which imports much

    try:
        run()
    finally:
        # The process ends. Python would search all that it holds for garbage, twice, for longer than a plan takes.
        gc.disable()
        gc.freeze()


if __name__ == "__main__":
    main()
