"""Where compiled kernels are kept: in the user's cache folder, under a name that changes with any kernel's source.

numba itself looks only at the file of the function that is called, and would miss changes in those that it calls. It
also compiles again for every place that a package is installed in; here the same sources share what is compiled. The
place is ours alone: functions of other packages in the process are kept where numba keeps them.

Compiled kernels are loaded without the compiler. numba makes it ready before it looks into a cache, which takes five
times as long as loading all kernels of a merge, and imports SciPy where that is installed.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llvmlite import binding
from numba import __version__ as numba_version
from numba.core import caching, dispatcher, environment
from numba.core import config as numba_config
from numba.core.runtime import nrt

from dovetail.engine.kernels.machine_code import load

settings: Any = numba_config  # made at run time, so unknown to type checkers
_numba: Any = caching
_dispatcher: Any = dispatcher
_environment: Any = environment
_runtime: Any = nrt

_OURS = "dovetail."

ending: list[Callable[[], None]] = []
"""What the end of the process does, for programs that end themselves in the middle."""


def _digest_of_sources() -> str:
    """Compute a digest of all kernels' sources, and of the version of numba."""
    digest = hashlib.sha256(numba_version.encode())  # an index is of one version of numba
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


SOURCES = _digest_of_sources()
"""Digest of all kernels' sources, and of the version of numba."""


@functools.cache
def _digest_of_file(file: str) -> str:
    """Compute the digest of a file with kernels, which may lie elsewhere and call these."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]


def _cache_folder() -> str:
    """Give a folder for compiled code: the user's cache, else one that lives as long as this process."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        folder = root / "dovetail" / f"kernels-{SOURCES}"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except (OSError, RuntimeError):  # not writable, or no home folder
        made = tempfile.mkdtemp(prefix="dovetail-kernels-")
        process = os.getpid()

        def remove() -> None:
            if os.getpid() == process:
                shutil.rmtree(made, ignore_errors=True)

        ending.append(remove)
        atexit.register(remove)
        return made


FOLDER: str = settings.CACHE_DIR or _cache_folder()
"""Where compiled kernels are kept: the folder that ``NUMBA_CACHE_DIR`` names, else one of ours."""


@functools.cache
def _can_keep(folder: str) -> bool:
    """Whether compiled code can be kept in a folder, which is made; numba tries that anew for every function."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


class _OurLocator(_numba._SourceFileBackedLocatorMixin, _numba._CacheLocator):  # type: ignore[misc]
    """Tells numba where functions of this distribution are kept, and nothing of any others."""

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        self._py_file, self._lineno = file, function.__code__.co_firstlineno
        self._cache_path = os.path.join(FOLDER, function.__module__.rpartition(".")[0])  # noqa: PTH118  of each kernel

    def get_cache_path(self) -> str:
        """Give the folder of the function's compiled code."""
        return self._cache_path

    def get_source_stamp(self) -> str:
        """Give what compiled code must have been made of: these kernels, and this file, wherever they lie."""
        return f"{SOURCES} {_digest_of_file(self._py_file)}"

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> Any:
        """Give the place of a function; None if it is not ours, so that numba looks for one itself."""
        if not str(py_func.__module__).startswith(_OURS) or not Path(py_file).exists():
            return None
        found = cls(py_func, py_file)
        return found if _can_keep(found.get_cache_path()) else None


if _OurLocator not in _numba.CacheImpl._locator_classes:
    _numba.CacheImpl._locator_classes.insert(0, _OurLocator)


def _constants_of(module: str, constants: Any, name: str) -> Any:
    """Give the constants of a compiled function, as numba does, but import none of numba's modules for that.

    Whatever compiled code has inlined of numba's own has an entry of its own, with the globals of its module. Code that
    was compiled without Python objects, as ours, asks for constants alone.
    """
    if module.partition(".")[0] != "numba" or module in sys.modules:
        return _environment._rebuild_env(module, constants, name)
    found = _environment.lookup_environment(name)
    if found is None:
        found = _environment.Environment({"__name__": module})
        found.consts[:] = constants
        found.env_name = name
        _environment.Environment._memo[name] = found
    return found


class _Unpickler(pickle.Unpickler):
    """Reads compiled code."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Find what is named; in place of numba's, our function that gives constants."""
        found = super().find_class(module_name, global_name)
        return _constants_of if found is _environment._rebuild_env else found


class _FileOfEach(_numba.IndexDataCacheFile):  # type: ignore[misc]
    """The compiled code of one function: a file for each signature, whose name says which.

    numba numbers these files, and keeps their numbers in an index. Two processes that compile a function for two
    signatures at the same time can both take the same number, and a third would then run code that expects other
    arguments. Here no index is needed, nor read.
    """

    def save(self, key: Any, data: Any) -> None:
        """Write the compiled code of one signature."""
        if self._is_ours():
            self._save_data(self._name(key), data)
        else:
            super().save(key, data)

    def load(self, key: Any) -> Any:
        """Read the compiled code of one signature; None if there is none that can be read, and it is compiled anew."""
        if not self._is_ours():
            return super().load(key)
        try:
            with open(self._data_path(self._name(key)), "rb") as file:  # noqa: PTH123  as numba does
                return _Unpickler(file).load()
        except Exception:  # what a file that was cut short or damaged makes of unpickling can be anything
            return None

    def _is_ours(self) -> bool:
        return Path(FOLDER) in Path(self._cache_path).parents and str(self._source_stamp).startswith(SOURCES)

    def _name(self, key: Any) -> str:
        digest = hashlib.sha256(repr((self._source_stamp, key)).encode()).hexdigest()[:20]
        return f"{self._index_name.removesuffix('.nbi')}.{digest}.nbc"


_numba.IndexDataCacheFile = _FileOfEach


@functools.cache
def _name_symbols() -> None:
    """Tell the linker where the functions are with which compiled code counts references to arrays."""
    for name, address in _runtime._nrt.c_helpers.items():
        binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


class _LightCache(_numba.FunctionCache):  # type: ignore[misc]
    """Loads our kernels without making the compiler ready; if one must be compiled, numba does that itself."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load the compiled code of one signature; None if there is none."""
        if not isinstance(self._impl.locator, _OurLocator):
            return super().load_overload(sig, target_context)
        _name_symbols()
        kept = self._cache_file.load(self._index_key(sig, target_context.codegen())) if self._enabled else None
        return None if kept is None else load(target_context, kept)


_dispatcher.FunctionCache = _LightCache
