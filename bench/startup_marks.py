"""Run a command of Dovetail, and note when it reaches certain functions; `startup.py` starts it in each tree.

    python bench/startup_marks.py MARKS STARTED plan recipe.yml

MARKS is the file that receives the notes as JSON, and STARTED the time at which the process was started, by the
monotonic clock. Functions are wrapped as soon as their modules are imported, and no module is imported for that.
"""

from __future__ import annotations

import atexit
import importlib.abc
import importlib.machinery
import json
import runpy
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PLACES = {
    "dovetail.engine.cli.main": ("main", "program", "call"),
    "dovetail.engine.recipe.stages": ("load_stages", "recipe", "both"),
    "dovetail.engine.planning.locations": ("open_location", "checkpoints", "return"),
    "dovetail.engine.planning.builder": ("make_plan", "plan", "return"),
    "dovetail.engine.run.task": ("execute", "task", "call"),
}
"""For each module, its function, the mark, and whether that is set when the function begins or when it has ended."""


class Marks(importlib.abc.MetaPathFinder):
    """Sets marks, and finds the modules with the functions that set them.

    Parameters
    ----------
    started
        When the process was started, by the monotonic clock, in seconds.

    """

    def __init__(self, started: float) -> None:
        self._started = started
        self.found: dict[str, tuple[float, float]] = {}
        """Seconds since the start, and seconds of processor time, at each mark."""

    def set(self, name: str, *, again: bool = False) -> None:
        """Set a mark, unless it is set already; checkpoints and plans can be several, of which the last counts."""
        if again or name not in self.found:
            self.found[name] = (time.monotonic() - self._started, time.process_time())

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        """Find a module as Python would; if it is one of `PLACES`, wrap its function once it is executed."""
        if name not in PLACES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute, wrap = spec.loader.exec_module, self._wrap

        def exec_module(module: Any) -> None:
            execute(module)
            function, mark, when = PLACES[name]
            setattr(module, function, wrap(getattr(module, function), mark, when))

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def _wrap(self, function: Callable[..., Any], mark: str, when: str) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            if when == "call":
                self.set(mark)
            elif when == "both":
                self.set("imports")
            result = function(*args, **options)
            if when != "call" and "task" not in self.found:
                self.set(mark, again=True)
            return result

        return wrapped


def main() -> None:
    place, started, *arguments = sys.argv[1:]
    marks = Marks(float(started))
    marks.set("python")
    sys.meta_path.insert(0, marks)

    def write() -> None:
        marks.set("end")
        Path(place).write_text(json.dumps(marks.found))

    atexit.register(write)
    sys.argv = ["dovetail", *arguments]
    sys.path.pop(0)  # the benchmarks' folder, which an installed command does not see
    runpy.run_module("dovetail.engine", run_name="__main__")


if __name__ == "__main__":
    main()
