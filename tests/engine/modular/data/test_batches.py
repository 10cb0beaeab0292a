"""Batches: every sample once an epoch, decided by seed and number alone; changes that move images and no colours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.modular.data.batches import Augmentation, Normalisation, batches_of, order_of, training_batch
from dovetail.engine.modular.data.images import Images

PIXELS = np.random.default_rng(1).integers(0, 256, (23, 3, 6, 5), np.uint8)
IMAGES = Images(PIXELS, np.arange(23, dtype=np.int64) % 4)


@given(st.integers(0, 99), st.integers(0, 9), st.integers(1, 9))
@settings(max_examples=30)
def test_an_epoch_has_every_sample_once(seed: int, epoch: int, size: int) -> None:
    """The batches of an epoch are all samples, in an order that seed and epoch decide."""
    order = order_of(seed, epoch, len(IMAGES))
    taken = [
        training_batch(IMAGES, order, size, batch, Augmentation(), (seed, epoch))[1].tolist()
        for batch in range(-(-len(IMAGES) // size))
    ]
    assert IMAGES.labels[order].tolist() == [label for batch in taken for label in batch]
    assert list(range(len(IMAGES))) == sorted(order.tolist())
    assert order.tolist() == order_of(seed, epoch, len(IMAGES)).tolist()
    assert order.tolist() != order_of(seed, epoch + 1, len(IMAGES)).tolist()


def test_changes_are_crops_of_the_padded_image() -> None:
    """Every changed image is a crop of the padded one, mirrored or not, and both, and several places, occur."""
    changed = Augmentation(2, True)(torch.from_numpy(PIXELS), np.random.default_rng(0)).numpy()
    padded = np.pad(PIXELS, ((0, 0), (0, 0), (2, 2), (2, 2)))
    found = []
    for sample, image in enumerate(changed):
        crops = [
            (top, left, flipped)
            for flipped in (False, True)
            for top in range(5)
            for left in range(5)
            if np.array_equal(image, _crop(padded[sample], PIXELS[sample], top, left, flipped))
        ]
        assert 1 == len(crops)
        found += crops
    assert {False, True} == {flipped for *_, flipped in found}
    assert len({place for *place, _ in map(list, found) for place in [tuple(place)]}) > 5


def _crop(padded: np.ndarray, image: np.ndarray, top: int, left: int, flipped: bool) -> np.ndarray:
    source = np.pad(image[:, :, ::-1], ((0, 0), (2, 2), (2, 2))) if flipped else padded
    return source[:, top : top + 6, left : left + 5]


def test_no_changes_leave_images_alone() -> None:
    """Without padding and flips an image stays as it is."""
    assert torch.equal(torch.from_numpy(PIXELS), Augmentation()(torch.from_numpy(PIXELS), np.random.default_rng(0)))


def test_normalised_images_have_mean_0_and_deviation_1() -> None:
    """Mean and deviation are those of the training images, as numpy computes them; one colour alone is no error."""
    normalise = Normalisation.of(IMAGES)
    values = PIXELS / 255
    assert pytest.approx(values.mean(axis=(0, 2, 3))) == np.array(normalise.mean)
    assert pytest.approx(values.std(axis=(0, 2, 3))) == np.array(normalise.deviation)
    done = normalise(torch.from_numpy(PIXELS)).numpy()
    assert pytest.approx(0, abs=1e-5) == done.mean()
    assert pytest.approx(1, abs=1e-5) == done.std()
    flat = Normalisation.of(Images(np.full((2, 1, 3, 3), 9, np.uint8), np.zeros(2, np.int64)))
    assert (1.0,) == flat.deviation


def test_all_images_in_order() -> None:
    """Counting and evaluation see every image once, in order."""
    parts = list(batches_of(IMAGES, 5))
    assert PIXELS.tobytes() == np.concatenate([pixels.numpy() for pixels, _ in parts]).tobytes()
    assert IMAGES.labels.tolist() == torch.cat([labels for _, labels in parts]).tolist()
