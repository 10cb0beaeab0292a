"""Listing the tensors of PyTorch files, in a process of its own: ``python -m dovetail.io.formats.torch_catalogue``.

PyTorch costs a process hundreds of megabytes, and reading a pickle is the one thing here that interprets untrusted
input as a program, if only of the few instructions that weights need. Both stay in this child: it reads paths from
its standard input, loads each file with ``weights_only=True`` onto the device ``meta``, which reads no tensor data,
and prints what it found as JSON. Whoever started it checks all of that against the file.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import sys
import warnings
from collections.abc import Mapping
from typing import Any

NESTED_KEYS = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training programs keep the tensors, beside what they need to go on training."""

_DEEPEST = 4
_MEMORY_BYTES = 8 * 2**30
_PROCESSOR_SECONDS = 600


def catalogue(path: str) -> dict[str, Any]:
    """List the tensors of one file.

    Returns
    -------
    dict
        ``tensors``: name, dtype, shape, strides (in elements), offset of the storage in the file, size of the storage,
        and offset of the first element in the storage, both in bytes. ``ignored``: names of entries that are no
        tensors. Or ``error``: why the file cannot be taken.

    """
    import torch

    try:
        content = _load(torch, path)
        state = _state_dict(torch, content)
        if isinstance(state, str):
            return {"error": state}
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
    except Exception as error:  # whatever a hostile file makes the loader raise, it is not to be taken
        return {"error": _reason(str(error)) or type(error).__name__}
    return {"tensors": tensors, "ignored": ignored}


def _reason(text: str) -> str:
    """Give the reason in PyTorch's text, without its advice, which is to trust the file."""
    found = re.search(r"(Trying to load [^\n]+|WeightsUnpickler error:\s+[^\n]+)", text)
    reason = found.group(1).removeprefix("WeightsUnpickler error:").strip() if found else text
    return re.split(r"\. |\n", reason, maxsplit=1)[0].rstrip(".")[:300]


def _load(torch: Any, path: str) -> Any:
    """Load everything but the tensors' data; each storage remembers its place in the file."""
    content = torch.load(path, map_location="meta", weights_only=True)
    probe = next(_tensors(torch, content, _DEEPEST), None)
    if probe is None or getattr(probe.untyped_storage(), "_checkpoint_offset", None) is not None:
        return content
    from torch._subclasses.fake_tensor import FakeTensorMode  # older releases remember the place only in this mode

    with FakeTensorMode():
        fake = torch.load(path, weights_only=True)
    return _as_meta(torch, fake, _DEEPEST)


def _as_meta(torch: Any, value: Any, depth: int) -> Any:
    """Put tensors of the device ``meta``, which share the storages, in the place of fake ones."""
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
    """Find the mapping that holds the tensors; a string says why there is none."""
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


def main() -> None:
    """Answer for every path on standard input, one a line as JSON; print one line of JSON for each."""
    for kind, limit in ((resource.RLIMIT_DATA, _MEMORY_BYTES), (resource.RLIMIT_CPU, _PROCESSOR_SECONDS)):
        with contextlib.suppress(ValueError, OSError):  # a lower limit of the system's stays
            resource.setrlimit(kind, (limit, limit))
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        print(json.dumps(catalogue(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
