"""Listing the tensors of PyTorch files in a child process: ``python -m dovetail.io.formats.torch_catalogue``.

The child process exists for two reasons. PyTorch takes hundreds of megabytes of memory. And reading a pickle means
running untrusted input as a program, even if only with the few instructions that weights need. The child reads paths
from its standard input, and loads each file with ``weights_only=True`` onto the device ``meta``, which reads no tensor
data. It prints what it finds as JSON, all of which the parent process checks against the file.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import sys
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

NESTED_KEYS = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training programs store the tensors, beside other values that they need to continue training."""

MOST_TENSORS = 1_000_000
"""Most entries of a file: a description names a tensor again in a few bytes, and what is said of it takes hundreds."""

_DEEPEST = 4
_MEMORY_BYTES = 8 * 2**30
_PROCESSOR_SECONDS = 60
_PICKLE_BYTES_PER_SECOND = 100_000


def catalogue(path: str) -> dict[str, Any]:
    """List the tensors of one file.

    Returns
    -------
    dict
        ``tensors``: for each tensor its name, dtype, shape and strides (in elements); and in bytes, the position of
        its storage in the file, the size of the storage, and the position of the first element in the storage.
        ``ignored``: the names of entries that are not tensors.
        Or only ``error``: why the file cannot be read.

    """
    import torch

    try:
        content = _load(torch, path)
        state = _state_dict(torch, content)
        if isinstance(state, str):
            return {"error": state}
        if len(state) > MOST_TENSORS:
            return {"error": f"it has {len(state)} entries, and at most {MOST_TENSORS} are read"}
        tensors, ignored = [], []
        for name, value in state.items():
            if type(value) not in (torch.Tensor, torch.nn.Parameter):
                if isinstance(value, torch.Tensor):
                    return {"error": f"entry {str(name)[:200]!r} is a {type(value).__name__}, no plain tensor"}
                ignored.append(str(name)[:200])
                continue
            if value.layout is not torch.strided or value.is_quantized or value.is_conj() or value.is_neg():
                return {"error": f"tensor {str(name)[:200]!r} is sparse, quantised or conjugated"}
            storage = value.untyped_storage()
            tensors.append(
                {
                    "name": str(name),
                    "dtype": str(value.dtype).removeprefix("torch."),
                    "shape": list(value.shape),
                    "strides": list(value.stride()),
                    "storage_offset_bytes": int(storage._checkpoint_offset),
                    "storage_bytes": storage.nbytes(),
                    "first_byte": value.storage_offset() * value.element_size(),
                }
            )
    except Exception as error:  # a hostile file can make the loader raise anything, and is refused in any case
        return {"error": _reason(str(error)) or type(error).__name__}
    return {"tensors": tensors, "ignored": ignored}


def _reason(text: str) -> str:
    """Extract the reason from PyTorch's error text, and leave out its advice, which is to trust the file."""
    found = re.search(r"(Trying to load [^\n]+|WeightsUnpickler error:\s+[^\n]+)", text)
    reason = found.group(1).removeprefix("WeightsUnpickler error:").strip() if found else text
    return re.split(r"\. |\n", reason, maxsplit=1)[0].rstrip(".")[:300]


def _load(torch: Any, path: str) -> Any:
    """Load the content of a file without tensor data; each storage keeps its position in the file as an attribute."""
    content = torch.load(path, map_location="meta", weights_only=True)
    probe = next(_tensors(torch, content, _DEEPEST), None)
    if probe is None or getattr(probe.untyped_storage(), "_checkpoint_offset", None) is not None:
        return content
    from torch._subclasses.fake_tensor import FakeTensorMode  # older releases keep the position only in this mode

    with FakeTensorMode():
        fake = torch.load(path, weights_only=True)
    return _as_meta(torch, fake, _DEEPEST)


def _as_meta(torch: Any, value: Any, depth: int) -> Any:
    """Replace fake tensors by tensors on the device ``meta`` with the same shapes, strides and storage positions."""
    if isinstance(value, torch.Tensor):
        meta = torch.empty(0, dtype=value.dtype, device="meta")
        storage = value.untyped_storage()
        made = torch.UntypedStorage(storage.nbytes(), device="meta")
        made._checkpoint_offset = storage._checkpoint_offset
        return meta.set_(made, value.storage_offset(), value.shape, value.stride())
    if isinstance(value, Mapping) and depth:
        return {name: _as_meta(torch, item, depth - 1) for name, item in value.items()}
    return value


def _tensors(torch: Any, value: Any, depth: int) -> Any:
    if isinstance(value, torch.Tensor) and value.layout is torch.strided:
        yield value
    elif isinstance(value, Mapping) and depth:
        for item in value.values():
            yield from _tensors(torch, item, depth - 1)


def _state_dict(torch: Any, content: Any) -> Any:
    """Find the mapping that holds the tensors, or return a string that says why there is none."""
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            return f"it holds a {type(content).__name__}, not a mapping of tensors by name"
        if any(isinstance(value, torch.Tensor) for value in content.values()):
            return content
        inner = [key for key in NESTED_KEYS if isinstance(content.get(key), Mapping) and content[key]]
        if not inner:
            return "it holds no tensors by name, nor under " + ", ".join(NESTED_KEYS)
        if len(inner) > 1:
            return f"it holds several sets of tensors, under {' and '.join(inner)}"
        content = content[inner[0]]
    return "its tensors are nested too deeply"


def _limit_time(path: str) -> None:
    """Let this process be killed when it takes too long for the next file: a minute, and more for long descriptions."""
    with zipfile.ZipFile(path) as archive:  # whose directory the parent process has checked
        size = sum(record.file_size for record in archive.infolist() if record.filename.endswith("/data.pkl"))
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + _PROCESSOR_SECONDS + size // _PICKLE_BYTES_PER_SECOND
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def main() -> None:
    """Read paths from standard input, each a line of JSON, and print the catalogue of each file as a line of JSON."""
    with contextlib.suppress(ValueError, OSError):  # if the system's limit is lower, it stays
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        with contextlib.suppress(ValueError, OSError):
            _limit_time(json.loads(line))
        print(json.dumps(catalogue(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
