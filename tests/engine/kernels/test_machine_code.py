"""Kernels are loaded from the cache without their bitcode, which is read where another kernel is compiled with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

KERNELS = """
from numba import njit

import dovetail.engine.kernels

@njit(cache=True)
def twice(value):
    return 2 * value

@njit(cache=True)
def fourfold(value):
    return twice(twice(value))
"""

SCRIPT = """
import importlib.util, json, sys

spec = importlib.util.spec_from_file_location("dovetail.made", sys.argv[1])
made = sys.modules["dovetail.made"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)

found = {}
for name in sys.argv[2:]:
    kernel = getattr(made, name)
    value = kernel(21)
    [result] = kernel.overloads.values()
    pointer = result.library.get_pointer_to_function
    found[name] = {
        "value": value,
        "loaded": sum(kernel.stats.cache_hits.values()),
        "bitcode": getattr(result.library, "_shared_module", None) is not None,
    }
    if name == sys.argv[-1]:
        described = result.fndesc
        found["addresses"] = [pointer(described.llvm_cfunc_wrapper_name) != 0, pointer("missing")]
for name in sys.argv[2:]:
    [result] = getattr(made, name).overloads.values()
    found[name]["bitcode at the end"] = result.library._shared_module is not None
print(json.dumps(found))
"""


def call(folder: Path, *names: str) -> dict[str, dict[str, object]]:
    """Call kernels one after another in a process of their own; give what each returned, and what was loaded."""
    (folder / "made.py").write_text(KERNELS)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder / "made.py"), *names],
        env={**inherited, "XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, dict[str, object]] = json.loads(done.stdout)
    return found


def test_another_kernel_is_compiled_with_a_loaded_one(tmp_path: Path) -> None:
    """The loaded kernel's bitcode is read for that, and not before; what is compiled so is loaded the next time.

    A loaded kernel finds its functions by name, those that no merge asks for too, and none that it has not.
    """
    assert 42 == call(tmp_path, "twice")["twice"]["value"]
    found = call(tmp_path, "twice", "fourfold")
    expected = {"value": 42, "loaded": 1, "bitcode": False, "bitcode at the end": True}
    assert expected == found["twice"]
    assert (84, 0) == (found["fourfold"]["value"], found["fourfold"]["loaded"])
    found = call(tmp_path, "fourfold")
    assert (84, 1) == (found["fourfold"]["value"], found["fourfold"]["loaded"])
    assert [True, 0] == found["addresses"]
