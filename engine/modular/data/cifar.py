"""CIFAR-10 as its authors give it: in Python's pickles (cifar-10-batches-py) or in binary files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from dovetail.engine.errors import DataError
from dovetail.engine.modular.data.images import DataSet, Images, make_data_set
from dovetail.engine.modular.data.limited_pickle import PickleDefectError, read_pickle
from dovetail.io.files.smallfile import read_at_most

CLASSES: Final = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Classes of CIFAR-10, in the order of their labels."""

_SHAPE: Final = (3, 32, 32)
_PIXELS: Final = 3 * 32 * 32
_MOST_BYTES: Final = 256 * 2**20
_TRAIN: Final = tuple(f"data_batch_{number}" for number in range(1, 6))


def is_cifar(folder: Path) -> bool:
    """Whether a folder holds CIFAR-10 in one of its two forms."""
    return (folder / "data_batch_1").is_file() or (folder / "data_batch_1.bin").is_file()


def read_cifar(name: str, folder: Path) -> DataSet:
    """Read CIFAR-10.

    Pickles are untrusted programs. Only the few instructions that these files consist of are followed, by a reader that
    can make numbers, texts, lists, dictionaries and arrays of bytes, and call nothing.

    Raises
    ------
    DataError
        A file is missing or damaged.

    """
    read, ending = (_read_binary, ".bin") if (folder / "data_batch_1.bin").is_file() else (_read_python, "")
    batches = [read(folder / f"{each}{ending}") for each in _TRAIN if _is_there(folder / f"{each}{ending}")]
    pixels = np.concatenate([each.pixels for each in batches])
    train = Images(pixels, np.concatenate([each.labels for each in batches]))
    return make_data_set(name, CLASSES, train, read(folder / f"test_batch{ending}"))


def _is_there(path: Path) -> bool:
    if not path.is_file():
        raise DataError(f"{path} is missing", "all five training batches and the test batch", "get the files again")
    return True


def _contents(path: Path) -> bytes:
    try:
        data = read_at_most(path, _MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})", "a batch of CIFAR-10", "get it again") from error
    if len(data) > _MOST_BYTES:
        raise DataError(f"{path} is larger than {_MOST_BYTES:,} bytes", "a batch of CIFAR-10", "get it again")
    return data


def _read_binary(path: Path) -> Images:
    """Read records of one byte for the label and 3,072 for the pixels."""
    data = _contents(path)
    if not data or len(data) % (1 + _PIXELS):
        raise DataError(f"{path} has {len(data):,} bytes", f"a multiple of {1 + _PIXELS:,}", "get the file again")
    records = np.frombuffer(data, np.uint8).reshape(-1, 1 + _PIXELS)
    return Images(records[:, 1:].reshape(-1, *_SHAPE), records[:, 0].astype(np.int64))


def _read_python(path: Path) -> Images:
    """Read a pickled dictionary with ``data`` and ``labels``."""
    try:
        content = read_pickle(_contents(path))
    except PickleDefectError as error:
        raise DataError(f"{path} {error}", "a batch of CIFAR-10 for Python", "get the file again") from error
    found: dict[Any, Any] = content if isinstance(content, dict) else {}
    found = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in found.items()}
    pixels, labels = found.get("data"), found.get("labels")
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
        shape = getattr(pixels, "shape", None)
        raise DataError(f"{path} has data of shape {shape}", f"(samples, {_PIXELS})", "get the file again")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{path} has no list of numbers called 'labels'", "labels of CIFAR-10", "get the file again")
    return Images(pixels.reshape(-1, *_SHAPE), np.array(labels, np.int64))
