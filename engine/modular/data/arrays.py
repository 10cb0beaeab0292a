"""Data sets in one file of numpy (.npz), under the names of Keras and MedMNIST."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.errors import DataError
from dovetail.engine.modular.data.images import DataSet, Images, make_data_set

KEYS: Final = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train")),
    "validation": (("validation_images", "validation_labels"), ("val_images", "val_labels"), ("x_val", "y_val")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
}
"""Names of the arrays of each set; the first pair that is there counts."""


def read_npz(name: str, path: Path) -> DataSet:
    """Read a data set from a file of numpy; pickled objects in it are refused.

    Images have the shape (samples, height, width), or with 1 or 3 channels as the second or the last dimension. An
    array ``classes`` of texts gives the names of the classes, which are else called by their numbers.

    Raises
    ------
    DataError
        The file is damaged, or arrays are missing or do not fit one another.

    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {each: file[each] for each in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read ({error})", "a file of numpy, .npz", "store the data so") from error
    train, test = _images(path, arrays, "train"), _images(path, arrays, "test")
    has_validation = any(pixels in arrays for pixels, _ in KEYS["validation"])
    validation = _images(path, arrays, "validation") if has_validation else None
    named = arrays.get("classes")
    count = int(train.labels.max(initial=0)) + 1
    classes = tuple(map(str, range(count) if named is None else named.reshape(-1).tolist()))
    return make_data_set(name, classes, train, test, validation)


def _images(path: Path, arrays: Mapping[str, NDArray[Any]], kind: str) -> Images:
    for pixels_key, labels_key in KEYS[kind]:
        if pixels_key in arrays and labels_key in arrays:
            pixels, labels = arrays[pixels_key], arrays[labels_key].reshape(-1)
            if labels.dtype.kind not in "iu":
                raise DataError(f"{labels_key} of {path} is {labels.dtype}", "integers", "store the labels so")
            return Images(_channels_second(pixels), labels.astype(np.int64))
    raise DataError(
        f"{path} has the arrays {', '.join(sorted(arrays)) or 'none'}",
        f"{' or '.join(' and '.join(pair) for pair in KEYS[kind])}",
        "name the arrays so",
    )


def _channels_second(pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.ndim == 3:
        return pixels[:, None]
    if pixels.ndim == 4 and pixels.shape[1] not in (1, 3) and pixels.shape[3] in (1, 3):
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    return pixels
