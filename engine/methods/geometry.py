"""From dot products to coefficients: what slerp and its relatives need to know of a tensor's vectors.

Every method here gives a linear combination of the vectors whose coefficients depend on their lengths and angles alone.
A `Geometry` maps Gram matrices, float64[..., V, V] over any number of rows, columns or tensors at once, to
coefficients, float64[..., V]. Only basic arithmetic, square roots and numpy's trigonometric functions are used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


class Geometry(Protocol):
    """How coefficients follow from dot products."""

    def coefficients(self, grams: Doubles) -> Doubles:
        """Give the coefficient of every vector."""
        ...


def norms(grams: Doubles) -> Doubles:
    """Give the vectors' lengths, float64[..., V]."""
    return np.sqrt(np.diagonal(grams, axis1=-2, axis2=-1))


def _pair(first: Doubles, second: Doubles) -> Doubles:
    return np.stack((first, second), axis=-1)


def _arc(cosine: Doubles, t: float, linear: NDArray[np.bool_]) -> Doubles:
    """Give sin((1 - t) a) / sin a and sin(t a) / sin a for the angle a, or 1 - t and t where it is to be linear."""
    angle = np.arccos(np.where(linear, 0.0, cosine))
    sine = np.sin(angle)
    return _pair(
        np.where(linear, 1.0 - t, np.sin((1.0 - t) * angle) / sine),
        np.where(linear, t, np.sin(t * angle) / sine),
    )


@dataclass(frozen=True, slots=True)
class Slerp:
    """Spherical interpolation of two vectors as they are, https://en.wikipedia.org/wiki/Slerp.

    Linear where the cosine of their angle is beyond +-0.9995. Lengths up to 1e-8 count as 1. As in mergekit.
    """

    t: float
    """0 for the first vector, 1 for the second."""

    def coefficients(self, grams: Doubles) -> Doubles:
        """Give the coefficients of two vectors."""
        length = norms(grams)
        length = np.where(length > 1e-8, length, 1.0)
        cosine = np.clip(grams[..., 0, 1] / (length[..., 0] * length[..., 1]), -1.0, 1.0)
        return _arc(cosine, self.t, np.abs(cosine) > 0.9995)


@dataclass(frozen=True, slots=True)
class NuSlerp:
    """Spherical interpolation that is linear only where the vectors are parallel to within rounding.

    mergekit decides that in float32: where 1 - cos^2, so computed, is at most 1e-16. Lengths below 1e-7 count as 1e-7.
    """

    t: float
    """0 for the first vector, 1 for the second."""

    def coefficients(self, grams: Doubles) -> Doubles:
        """Give the coefficients of two vectors."""
        length = np.maximum(norms(grams), 1e-7)
        cosine = np.clip(grams[..., 0, 1] / (length[..., 0] * length[..., 1]), -1.0, 1.0)
        single = cosine.astype(np.float32)
        return _arc(cosine, self.t, (np.float32(1.0) - single * single) <= np.float32(1e-16))


@dataclass(frozen=True, slots=True)
class MultiSlerp:
    """The direction of the weighted mean of unit vectors, times their weighted mean length.

    mergekit goes from the normalised mean along the tangent vector that is the weighted mean of the vectors'
    projections to the tangent space there. That vector is zero by construction (the projection of the mean itself), so
    that the exponential map leaves the mean where it is; in mergekit it is rounding noise.
    """

    weights: tuple[float, ...]
    """The vectors' weights."""
    epsilon: float
    """Added to lengths before dividing by them."""

    def coefficients(self, grams: Doubles) -> Doubles:
        """Give the coefficients of any number of vectors; NaN where the weighted mean has no direction.

        Two vectors that balance out are interpolated linearly, as in mergekit. Vectors that are all zero, such as the
        task vectors of frozen layers, have the mean zero; mergekit refuses more than two.
        """
        weights, length = np.array(self.weights), norms(grams)
        units = weights / (length + self.epsilon)
        mean = np.sqrt(np.maximum(np.einsum("...i,...ij,...j->...", units, grams, units), 0.0))[..., np.newaxis]
        nowhere = mean < self.epsilon
        rest = np.where(length.max(axis=-1, keepdims=True) > 0, weights if len(weights) == 2 else np.nan, 0.0)
        scale = np.sum(weights * length, axis=-1, keepdims=True)
        # The angle gone along the zero tangent is not zero but epsilon, which keeps the formula from dividing by zero.
        scale = scale * np.cos(self.epsilon)
        return np.where(nowhere, rest, scale * units / np.where(nowhere, 1.0, mean))


@dataclass(frozen=True, slots=True)
class Karcher:
    """The Riemannian mean of directions with equal weights, times the mean length, https://arxiv.org/abs/2603.04972.

    Every step stays within the span of the vectors, so that their dot products are enough. Vectors no longer than the
    tolerance have no direction and only lower the mean length, as in mergekit.
    """

    count: int
    """Number of vectors."""
    max_iter: int
    """Most steps."""
    tol: float
    """Length of a step, or angle, that counts as none."""

    def coefficients(self, grams: Doubles) -> Doubles:
        """Give the coefficients of any number of vectors of one tensor."""
        length = norms(grams)
        valid = length > self.tol
        if not valid.any():
            return np.where(np.isfinite(length), 0.0, np.nan)
        inverse = np.where(valid, 1.0 / np.where(valid, length, 1.0), 0.0)
        units = grams * inverse[:, np.newaxis] * inverse[np.newaxis, :]
        weights = valid / valid.sum()
        mean = self._start(units, weights, valid)
        for _ in range(self.max_iter):
            tangent = self._tangent(units, weights, mean)
            size = _length(units, tangent)
            if not size >= self.tol:
                break
            mean = np.cos(size) * mean + np.sin(size) / size * tangent
            norm = _length(units, mean)
            mean = mean / norm if norm > self.tol else mean
        return np.asarray(length.mean() * mean * inverse)

    def _start(self, units: Doubles, weights: Doubles, valid: NDArray[np.bool_]) -> Doubles:
        """Begin at the normalised mean, or at the first direction if they cancel out."""
        size = _length(units, weights)
        if size < self.tol:
            first = np.zeros(len(weights))
            first[np.argmax(valid)] = 1.0
            return first
        return weights / size

    def _tangent(self, units: Doubles, weights: Doubles, mean: Doubles) -> Doubles:
        """Give the mean of the logarithms of the directions at `mean`, in coefficients."""
        cosine = np.clip(units @ mean, -1.0, 1.0)
        angle = np.arccos(cosine)
        used = (weights > 0) & ~(angle < self.tol)
        factor = np.where(used, weights * angle / np.where(used, np.sin(angle), 1.0), 0.0)
        return np.asarray(factor - np.sum(factor * cosine) * mean)


def _length(units: Doubles, coefficients: Doubles) -> float:
    return math.sqrt(max(float(coefficients @ units @ coefficients), 0.0))


@dataclass(frozen=True, slots=True)
class ModelStock:
    """Between the base and the mean of the models, by the mean angle of their task vectors.

    https://arxiv.org/abs/2403.19522, equation 4: t = N cos / (1 + (N - 1) cos), W = t mean + (1 - t) W0. Products of
    lengths below 1e-6 count as 1e-6, and t is 0 where its denominator is below 1e-6, as in mergekit.
    """

    count: int
    """Number of models."""

    def coefficients(self, grams: Doubles) -> Doubles:
        """Give the base's coefficient, then the models', from the dot products of task vectors."""
        length = norms(grams)
        first, second = np.triu_indices(self.count, 1)
        products = np.maximum(length[..., first] * length[..., second], 1e-6)
        cosine = np.clip(grams[..., first, second] / products, -1.0, 1.0).mean(axis=-1)
        denominator = 1.0 + (self.count - 1) * cosine
        singular = np.abs(denominator) < 1e-6
        t = np.where(singular, 0.0, self.count * cosine / np.where(singular, 1.0, denominator))
        return np.stack((1.0 - t, *(t / self.count,) * self.count), axis=-1)
