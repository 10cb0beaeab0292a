"""Images with labels, as they lie in memory: bytes of colours, in the layout that convolutions take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dovetail.engine.errors import DataError

HELD_OUT: Final = 10
"""Every so manieth training image of each class is for validation where a data set has no validation set."""

MOST_PIXELS: Final = 4096
"""Most pixels of an image's height or width."""


@dataclass(frozen=True, slots=True)
class Images:
    """Images of one kind, with their classes."""

    pixels: NDArray[np.uint8]
    """Of shape (samples, channels, height, width), from 0 to 255."""
    labels: NDArray[np.int64]
    """Class of each image, of shape (samples,)."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Images:
        """Give some of the images."""
        return Images(self.pixels[chosen], self.labels[chosen])

    def of_classes(self, classes: Sequence[int]) -> Images:
        """Give the images of some classes, which are numbered anew, in the given order."""
        numbers = {each: number for number, each in enumerate(classes)}
        chosen = self.take(np.isin(self.labels, list(classes)))
        return Images(chosen.pixels, np.array([numbers[int(label)] for label in chosen.labels], np.int64))


@dataclass(frozen=True, slots=True)
class DataSet:
    """Images to train on, to choose by, and to test with."""

    name: str
    """How the user named it."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of their labels."""
    train: Images
    """Images to train on."""
    validation: Images
    """Images by which anything is chosen: when to stop, temperatures."""
    test: Images
    """Images for the final figures alone."""

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return int(self.train.pixels.shape[1])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        height, width = self.train.pixels.shape[2:]
        return int(height), int(width)


def make_data_set(
    name: str, classes: Sequence[str], train: Images, test: Images, validation: Images | None = None
) -> DataSet:
    """Check images and put them together; without a validation set, a part of the training set becomes one.

    Raises
    ------
    DataError
        The images have other shapes than one another, or labels that are no class, or a set or class has no image.

    """
    for kind, images in (("training", train), ("validation", validation), ("test", test)):
        if images is not None:
            _check(name, kind, images, len(classes), train.pixels.shape[1:])
    if len(set(classes)) != len(classes) or len(classes) < 2:
        raise DataError(f"{name} has the classes {', '.join(classes)}", "at least two, each once", "correct the data")
    missing = sorted(set(range(len(classes))) - set(np.unique(train.labels).tolist()))
    if missing:
        raise DataError(
            f"{name} has no training image of {classes[missing[0]]!r}", "images of every class", "correct the data"
        )
    if validation is None:
        train, validation = hold_out(train)
        if not len(validation):
            raise DataError(
                f"{name} has less than {HELD_OUT} training images of every class, and no validation set",
                "images to choose by",
                "add a validation set",
            )
    return DataSet(name, tuple(classes), _writable(train), _writable(validation), _writable(test))


def _writable(images: Images) -> Images:
    """Copy images that are a view of a file's bytes: torch takes no arrays that are read-only."""
    return Images(np.require(images.pixels, requirements="W"), np.require(images.labels, requirements="W"))


def hold_out(images: Images) -> tuple[Images, Images]:
    """Divide images into those to train on and those to choose by: every `HELD_OUT`-th of each class."""
    held = np.zeros(len(images), bool)
    for label in np.unique(images.labels):
        held[np.flatnonzero(images.labels == label)[HELD_OUT - 1 :: HELD_OUT]] = True
    return images.take(~held), images.take(held)


def _check(name: str, kind: str, images: Images, classes: int, shape: Sequence[int]) -> None:
    """Refuse images that do not fit the others; raises a DataError."""
    pixels, labels = images.pixels, images.labels
    where = f"the {kind} set of {name}"
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise DataError(
            f"{where} has pixels of dtype {pixels.dtype} and shape {pixels.shape}",
            "bytes of shape (samples, 1 or 3 channels, height, width)",
            "store the images so",
        )
    if not len(labels) or labels.shape != (len(pixels),):
        raise DataError(f"{where} has {len(pixels)} images and {labels.size} labels", "as many of both", "")
    if tuple(pixels.shape[1:]) != tuple(shape) or max(pixels.shape[2:]) > MOST_PIXELS:
        raise DataError(
            f"{where} has images of shape {pixels.shape[1:]}",
            f"{tuple(shape)} as in the training set, at most {MOST_PIXELS} pixels wide and high",
            "scale the images to one size",
        )
    if not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(
            f"{where} has labels from {labels.min()} to {labels.max()}", f"0 to {classes - 1}", "correct the labels"
        )
