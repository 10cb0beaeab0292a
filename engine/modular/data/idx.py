"""IDX files, as MNIST and Fashion-MNIST come in: a big-endian head with the shape, and bytes; gzipped or not."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.errors import DataError
from dovetail.engine.modular.data.images import DataSet, Images, make_data_set

DEBIAN: Final = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""

FASHION: Final = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip
"""Classes of Fashion-MNIST, in the order of their labels."""

MARK: Final = "train-images-idx3-ubyte"
"""Name of the file by which a folder of IDX files is known, with or without ``.gz``."""

_MOST_BYTES: Final = 2 * 2**30


def is_idx(folder: Path) -> bool:
    """Whether a folder holds a data set in IDX files."""
    return any((folder / f"{MARK}{ending}").is_file() for ending in ("", ".gz"))


def read_idx_folder(name: str, folder: Path) -> DataSet:
    """Read a data set of four IDX files: images and labels, ``train-`` and ``t10k-``.

    Classes are called as in Fashion-MNIST if the folder's path has that name in it, or else by their numbers.

    Raises
    ------
    DataError
        A file is missing or damaged, or they do not fit one another.

    """
    train, test = (_pair(folder, kind) for kind in ("train", "t10k"))
    fashion = "fashion" in f"{name}{folder}".lower()
    classes = FASHION if fashion else tuple(map(str, range(int(train.labels.max(initial=0)) + 1)))
    return make_data_set(name, classes, train, test)


def _pair(folder: Path, kind: str) -> Images:
    pixels = _read(folder / f"{kind}-images-idx3-ubyte", 3)
    labels = _read(folder / f"{kind}-labels-idx1-ubyte", 1)
    return Images(pixels[:, None], labels.astype(np.int64))


def _read(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read one file, with or without ``.gz``; raises a DataError if it is missing or damaged."""
    zipped = path.with_name(f"{path.name}.gz")
    if not path.is_file() and not zipped.is_file():
        raise DataError(f"{path} is missing, and so is {zipped.name}", "the four files of the data set", "add it")
    place = path if path.is_file() else zipped
    try:
        with place.open("rb") if place == path else gzip.open(place) as file:
            data = file.read(_MOST_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{place} cannot be read ({error})", "an IDX file", "get the file again") from error
    head = 4 + 4 * dimensions
    if len(data) < head or data[:4] != bytes([0, 0, 8, dimensions]):
        raise DataError(
            f"{place} begins with {data[:4].hex() or 'nothing'}",
            f"{bytes([0, 0, 8, dimensions]).hex()}, an IDX file of bytes in {dimensions} dimensions",
            "get the file again",
        )
    shape = tuple(int.from_bytes(data[4 * each : 4 * each + 4], "big") for each in range(1, dimensions + 1))
    if math.prod(shape) != len(data) - head:
        raise DataError(
            f"{place} has {len(data) - head:,} bytes of data",
            f"{math.prod(shape):,}, for the shape {shape} in its head",
            "get the file again",
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
