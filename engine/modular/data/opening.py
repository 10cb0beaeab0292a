"""Finding the data set that a user names: one of the names below, or a path to files in a form that is recognised."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dovetail.engine.errors import DataError
from dovetail.engine.modular.data.arrays import read_npz
from dovetail.engine.modular.data.cifar import is_cifar, read_cifar
from dovetail.engine.modular.data.folders import is_folders, read_folders
from dovetail.engine.modular.data.idx import DEBIAN, is_idx, read_idx_folder
from dovetail.engine.modular.data.images import DataSet
from dovetail.engine.modular.data.shapes import make_shapes
from dovetail.io.files.home import expand_home

NAMES: Final = {
    "shapes": "2,000 grey images of ten shapes, made here in a moment",
    "fashion-mnist": "60,000 grey images of clothes, from Debian's package dataset-fashion-mnist",
}
"""Data sets that have a name, and what they are."""

_FORMS: Final = "IDX files (MNIST, Fashion-MNIST), CIFAR-10, train/CLASS/*.png and test/CLASS/*.png, or an .npz file"


def open_data(name: str) -> DataSet:
    """Make or read a data set.

    Parameters
    ----------
    name
        One of `NAMES`, or a path: a folder of IDX files, of CIFAR-10's pickles or binary files, or of folders of images
        class by class; or a file of numpy (.npz).

    Raises
    ------
    DataError
        There is no such data set, or it is damaged.

    """
    if name == "shapes":
        return make_shapes()
    if name == "fashion-mnist":
        if not is_idx(DEBIAN):
            raise DataError(
                f"{DEBIAN} does not hold Fashion-MNIST",
                "the files of Debian's package dataset-fashion-mnist",
                "apt install dataset-fashion-mnist, or give the path of a folder that has the four IDX files",
            )
        return read_idx_folder(name, DEBIAN)
    path = expand_home(Path(name))
    if path.is_file() and path.suffix == ".npz":
        return read_npz(name, path)
    nested = path / "cifar-10-batches-py"
    for is_form, read in ((is_idx, read_idx_folder), (is_cifar, read_cifar), (is_folders, read_folders)):
        for place in (path, nested):
            if place.is_dir() and is_form(place):
                return read(name, place)
    what = "is not there" if not path.exists() else "holds no data set that is recognised"
    raise DataError(f"data {name!r} {what}", f"{', '.join(NAMES)}, or a path to {_FORMS}", "")
