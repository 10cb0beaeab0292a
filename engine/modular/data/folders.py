"""Data sets as folders of image files: ``train/CLASS/NAME.png``, ``test/CLASS/NAME.png``, maybe ``validation``.

Reading image files needs Pillow, which nothing else of Dovetail needs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.errors import DataError
from dovetail.engine.modular.data.images import MOST_PIXELS, DataSet, Images, make_data_set
from dovetail.io.errors import UnsupportedError

ENDINGS: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
"""Endings of the files that are read; others are left alone."""

_VALIDATION: Final = ("validation", "val", "valid")


def is_folders(folder: Path) -> bool:
    """Whether a folder holds a data set as folders of images."""
    return (folder / "train").is_dir() and (folder / "test").is_dir()


def read_folders(name: str, folder: Path) -> DataSet:
    """Read a data set of image files, all of one size. Classes are the names of the folders, in alphabetic order.

    Raises
    ------
    UnsupportedError
        Pillow is not installed.
    DataError
        A file cannot be read, images differ in size, or the sets have different classes.

    """
    if importlib.util.find_spec("PIL") is None:
        raise UnsupportedError("image files need Pillow, which is not installed", "the package", "pip install pillow")
    classes = _classes(folder / "train")
    validation = next((folder / each for each in _VALIDATION if (folder / each).is_dir()), None)
    for each in (folder / "test", validation):
        if each is not None and (found := _classes(each)) != classes:
            raise DataError(
                f"{each} has the folders {', '.join(found)}",
                f"the classes of the training set: {', '.join(classes)}",
                "correct the folders",
            )
    grey = _is_grey(folder / "train" / classes[0])
    train, test = (_read_set(folder / kind, classes, grey=grey) for kind in ("train", "test"))
    chosen = None if validation is None else _read_set(validation, classes, grey=grey)
    return make_data_set(name, classes, train, test, chosen)


def _classes(folder: Path) -> tuple[str, ...]:
    found = tuple(sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")))
    if not found:
        raise DataError(f"{folder} has no folders", "one for every class", "sort the images so")
    return found


def _files(folder: Path) -> list[Path]:
    found = sorted(each for each in folder.iterdir() if each.suffix.lower() in ENDINGS)
    if not found:
        raise DataError(f"{folder} has no images", f"files that end in {', '.join(sorted(ENDINGS))}", "add images")
    return found


def _is_grey(folder: Path) -> bool:
    """Whether images have one channel, by the first of them."""
    from PIL import Image

    with _opened(Image, _files(folder)[0]) as image:
        return bool(image.mode in ("1", "L"))


def _opened(image: Any, path: Path) -> Any:
    try:
        return image.open(path)
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read ({error})", "an image", "remove or replace it") from error


def _read_set(folder: Path, classes: Sequence[str], *, grey: bool) -> Images:
    paths = [(path, label) for label, each in enumerate(classes) for path in _files(folder / each)]
    pixels: NDArray[np.uint8] | None = None
    for number, (path, _) in enumerate(paths):
        found = _pixels(path, grey=grey)
        if pixels is None:
            pixels = np.empty((len(paths), *found.shape), np.uint8)
        if found.shape != pixels.shape[1:]:
            height, width = found.shape[1:]
            raise DataError(
                f"{path} is {width} x {height} pixels",
                f"{pixels.shape[3]} x {pixels.shape[2]} as {paths[0][0]}",
                "scale the images to one size",
            )
        pixels[number] = found
    assert pixels is not None
    return Images(pixels, np.array([label for _, label in paths], np.int64))


def _pixels(path: Path, *, grey: bool) -> NDArray[np.uint8]:
    """Decode one file, unless it says that it is too large; of shape (channels, height, width)."""
    from PIL import Image

    with _opened(Image, path) as image:
        if max(image.size) > MOST_PIXELS:
            width, height = image.size
            raise DataError(f"{path} is {width} x {height} pixels", f"at most {MOST_PIXELS}", "scale the images down")
        try:
            array = np.asarray(image.convert("L" if grey else "RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"{path} cannot be read ({error})", "an image", "remove or replace it") from error
    return array[None] if grey else array.transpose(2, 0, 1)
