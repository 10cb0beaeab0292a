"""Arrays and torch tensors as stored elements, and back, without copies and whatever the dtype.

torch is used where a caller has brought it along, and imported by nothing here but `to_torch`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dovetail.io.checkpoint import Checkpoint, TensorInfo
from dovetail.io.dtypes import DTYPES, DType, to_numpy
from dovetail.io.errors import UnsupportedError
from dovetail.io.extras import require
from dovetail.io.sources.array import ArraySource

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BY_NUMPY_NAME = {dtype.zarr_name: dtype for dtype in DTYPES.values()}
_BY_TORCH_NAME = {dtype.torch_name: dtype for dtype in DTYPES.values()}


def is_torch(value: Any) -> bool:
    """Whether a value is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_array(value: Any) -> bool:
    """Whether a value is a torch tensor, a numpy array, or an array that numpy can see as one."""
    return is_torch(value) or hasattr(value, "__array__")


def checkpoint_of(name: str, tensors: Mapping[str, Any]) -> Checkpoint:
    """Make the catalogue of tensors that are in memory; contiguous ones are not copied.

    Parameters
    ----------
    name
        What errors call the checkpoint.
    tensors
        Arrays or torch tensors by name. They must stay as they are while the checkpoint is in use.

    Raises
    ------
    UnsupportedError
        A value is no array, or of a dtype or layout that is not read.

    """
    return Checkpoint(
        path=Path(name),
        folder=None,
        tensors={key: _info(key, value, name) for key, value in tensors.items()},
        metadata={},
        files=(),
    )


def _info(key: str, value: Any, checkpoint: str) -> TensorInfo:
    """Describe one tensor."""
    if not isinstance(key, str) or not is_array(value):
        raise UnsupportedError(
            f"{checkpoint}: entry {key!r} is of type {type(value).__name__}",
            "a name in text with an array or a torch tensor",
            "leave out what is no tensor",
        )
    place = f"{checkpoint}: tensor {key!r}"
    dtype, shape, data = _torch_elements(value, place) if is_torch(value) else _numpy_elements(value, place)
    data.flags.writeable = False
    return TensorInfo(key, dtype, shape, ArraySource(data, dtype.itemsize))


def _torch_elements(tensor: Any, place: str) -> tuple[DType, tuple[int, ...], NDArray[np.uint8]]:
    """Give dtype, shape and bytes of a torch tensor, which may be on any device."""
    torch = sys.modules["torch"]
    dtype = _BY_TORCH_NAME.get(str(tensor.dtype).removeprefix("torch."))
    if dtype is None or tensor.layout != torch.strided or tensor.is_meta:
        kind = "without data" if tensor.is_meta else f"{tensor.dtype}, {tensor.layout}"
        raise _unsupported(place, kind)
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return dtype, tuple(tensor.shape), flat.view(torch.uint8).numpy()[:]  # a view, of which the flags are ours


def _numpy_elements(value: Any, place: str) -> tuple[DType, tuple[int, ...], NDArray[np.uint8]]:
    """Give dtype, shape and bytes of an array."""
    array = np.asarray(value)
    dtype = _BY_NUMPY_NAME.get(array.dtype.name)
    if dtype is None:
        raise _unsupported(place, str(array.dtype))
    native = array.astype(to_numpy(dtype), order="C", copy=False)
    flat = np.require(native.reshape(-1), requirements=["C", "A"])
    return dtype, array.shape, flat.view(np.uint8)[:]


def _unsupported(place: str, kind: str) -> UnsupportedError:
    names = ", ".join(dtype.torch_name for dtype in DTYPES.values())
    return UnsupportedError(f"{place} is {kind}", f"a dense tensor of one of {names}", "convert it first")


def to_array(data: NDArray[np.uint8], dtype: DType, shape: tuple[int, ...]) -> NDArray[Any]:
    """Give bytes as a numpy array that shares them; dtypes that numpy lacks are those of `ml_dtypes`."""
    array: NDArray[Any] = data.view(to_numpy(dtype)).reshape(shape)
    return array


def to_torch(data: NDArray[np.uint8], dtype: DType, shape: tuple[int, ...]) -> Any:
    """Give writable bytes as a torch tensor that shares them.

    Raises
    ------
    UnsupportedError
        torch is not installed, or has no such dtype.

    """
    require("torch", "torch", "torch tensors")
    import torch

    kind = getattr(torch, dtype.torch_name, None)
    if kind is None:
        raise UnsupportedError(f"torch {torch.__version__} has no dtype {dtype}", "a newer torch", "upgrade torch")
    if not data.size:  # torch sees no bytes as no other elements
        return torch.empty(shape, dtype=kind)
    return torch.from_numpy(data).view(kind).reshape(shape)
