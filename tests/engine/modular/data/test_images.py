"""Data sets as they lie in memory, and the one that is made."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.engine.errors import DataError
from dovetail.engine.modular.data.images import Images, hold_out, make_data_set
from dovetail.engine.modular.data.shapes import SHAPES, make_shapes


def images(samples: int, classes: int = 2, size: int = 4) -> Images:
    """Make black images of all classes in turn."""
    labels = np.arange(samples, dtype=np.int64) % classes
    return Images(np.zeros((samples, 1, size, size), np.uint8), labels)


def test_shapes_are_the_same_in_every_call() -> None:
    """The made data set does not change, and has as many images of every class."""
    first, second = make_shapes(200, 50, 100), make_shapes(200, 50, 100)
    assert tuple(SHAPES) == first.classes
    for kind, count in (("train", 20), ("validation", 5), ("test", 10)):
        one, other = getattr(first, kind), getattr(second, kind)
        assert one.pixels.tobytes() == other.pixels.tobytes()
        assert [count] * 10 == np.bincount(one.labels).tolist()
    assert first.train.pixels[:50].tobytes() != first.validation.pixels.tobytes()


def test_shapes_can_be_told_apart() -> None:
    """The mean images of classes differ, and each is nearest to that of its own class in another set."""
    data = make_shapes(1000, 50, 1000)
    means = [
        np.stack([each.pixels[each.labels == label].mean(axis=(0, 1)) for label in range(10)]).reshape(10, -1)
        for each in (data.train, data.test)
    ]
    distances = ((means[0][:, None] - means[1][None]) ** 2).sum(axis=2)
    assert list(range(10)) == distances.argmin(axis=1).tolist()


def test_every_tenth_image_of_a_class_is_for_validation() -> None:
    """Without a validation set, every tenth training image of each class is held out, and none is in both."""
    pixels = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)
    labels = np.array([0] * 25 + [1] * 15, np.int64)
    train, held = hold_out(Images(pixels, labels))
    assert [9, 19, 34] == held.pixels.reshape(-1).tolist()
    assert sorted({*range(40)} - {9, 19, 34}) == train.pixels.reshape(-1).tolist()
    assert [0, 0, 1] == held.labels.tolist()


def test_images_of_some_classes_in_their_order() -> None:
    """Chosen classes get the numbers of their order."""
    chosen = images(6, classes=3).of_classes([2, 0])
    assert [1, 0, 1, 0] == chosen.labels.tolist()


@pytest.mark.parametrize(
    ("train", "test", "text"),
    [
        (images(40), images(2, size=5), r"test set of x has images of shape \(1, 5, 5\); expected \(1, 4, 4\)"),
        (
            images(40),
            Images(images(2).pixels, np.array([0, 2])),
            "test set of x has labels from 0 to 2; expected 0 to 1",
        ),
        (Images(images(40).pixels, np.zeros(40, np.int64)), images(2), "no training image of 'b'"),
        (Images(images(40).pixels[:, 0], images(40).labels), images(2), "pixels of dtype uint8 and shape"),
        (images(40), Images(images(2).pixels, np.array([0])), "2 images and 1 labels"),
        (images(8), images(2), "less than 10 training images of every class"),
    ],
    ids=["size", "label", "class", "dimensions", "count", "few"],
)
def test_sets_that_do_not_fit(train: Images, test: Images, text: str) -> None:
    """What cannot be trained with is refused with what was found and expected."""
    with pytest.raises(DataError, match=text):
        make_data_set("x", ("a", "b"), train, test)


def test_images_of_files_can_be_given_to_torch() -> None:
    """Arrays that are read-only, as views of a file's bytes are, are copied, and others are not."""
    pixels = np.frombuffer(bytes(60 * 64), np.uint8).reshape(60, 1, 8, 8)
    labels = np.arange(60, dtype=np.int64) % 2
    made = make_data_set("made", ("a", "b"), Images(pixels, labels), Images(pixels, labels))
    assert all(part.pixels.flags.writeable for part in (made.train, made.validation, made.test))
    assert made.test.labels is labels
    assert np.array_equal(pixels, made.test.pixels)
