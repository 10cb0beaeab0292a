"""The geometry of slerp and its relatives: from the dot products of vectors to the coefficients of their combination.

The result of each of these methods is a linear combination of the vectors with coefficients that depend only on the
lengths of the vectors and the angles between them. A `Geometry` maps Gram matrices, float64[..., V, V] for any number
of rows, columns or tensors at once, to coefficients, float64[..., V]. Only basic arithmetic, square roots and numpy's
trigonometric functions are used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


class Geometry(Protocol):
    """Computes the coefficients of a combination from dot products."""

    def coefficients(self, grams: Doubles) -> Doubles:
        """Compute the coefficient of every vector, float64[..., V], from Gram matrices, float64[..., V, V]."""
        ...


def norms(grams: Doubles) -> Doubles:
    """Compute the lengths of the vectors, float64[..., V]."""
    return np.sqrt(np.diagonal(grams, axis1=-2, axis2=-1))


def _pair(first: Doubles, second: Doubles) -> Doubles:
    return np.stack((first, second), axis=-1)


def _arc(cosine: Doubles, t: float, linear: NDArray[np.bool_]) -> Doubles:
    """Compute sin((1 - t) a) / sin a and sin(t a) / sin a for the angle a; 1 - t and t where `linear` is set."""
    angle = np.arccos(np.where(linear, 0.0, cosine))
    sine = np.sin(angle)
    return _pair(
        np.where(linear, 1.0 - t, np.sin((1.0 - t) * angle) / sine),
        np.where(linear, t, np.sin(t * angle) / sine),
    )


@dataclass(frozen=True, slots=True)
class Slerp:
    """Spherical interpolation of two vectors, without a change of their lengths: https://en.wikipedia.org/wiki/Slerp.

    As in mergekit, the interpolation is linear where the cosine of the angle is beyond +-0.9995, and lengths up to 1e-8
    are replaced by 1.
    """

    t: float
    """0 for the first vector, 1 for the second."""

    def coefficients(self, grams: Doubles) -> Doubles:
        """Compute the coefficients of two vectors."""
        length = norms(grams)
        length = np.where(length > 1e-8, length, 1.0)
        cosine = np.clip(grams[..., 0, 1] / (length[..., 0] * length[..., 1]), -1.0, 1.0)
        return _arc(cosine, self.t, np.abs(cosine) > 0.9995)


@dataclass(frozen=True, slots=True)
class NuSlerp:
    """Spherical interpolation that is linear only where the vectors are parallel up to rounding.

    As in mergekit, vectors are parallel where 1 - cos^2, computed in float32, is at most 1e-16, and lengths below 1e-7
    are replaced by 1e-7.
    """

    t: float
    """0 for the first vector, 1 for the second."""

    def coefficients(self, grams: Doubles) -> Doubles:
        """Compute the coefficients of two vectors."""
        length = np.maximum(norms(grams), 1e-7)
        cosine = np.clip(grams[..., 0, 1] / (length[..., 0] * length[..., 1]), -1.0, 1.0)
        single = cosine.astype(np.float32)
        return _arc(cosine, self.t, (np.float32(1.0) - single * single) <= np.float32(1e-16))


@dataclass(frozen=True, slots=True)
class MultiSlerp:
    """The direction of the weighted mean of unit vectors, times their weighted mean length.

    mergekit starts at the normalised mean and moves along a tangent vector, the weighted mean of the vectors'
    projections to the tangent space. This vector is zero by construction, because it is the projection of the mean
    itself, so that the exponential map leaves the mean in its place. In mergekit the vector is rounding noise.
    """

    weights: tuple[float, ...]
    """The vectors' weights."""
    epsilon: float
    """What is added to a length before dividing by it."""

    def coefficients(self, grams: Doubles) -> Doubles:
        """Compute the coefficients of any number of vectors; NaN where the weighted mean has no direction.

        Two vectors that cancel out are interpolated linearly, as in mergekit. If all vectors are zero, as the task
        vectors of frozen layers are, the mean is zero; mergekit refuses more than two such vectors.
        """
        weights, length = np.array(self.weights), norms(grams)
        units = weights / (length + self.epsilon)
        mean = np.sqrt(np.maximum(np.einsum("...i,...ij,...j->...", units, grams, units), 0.0))[..., np.newaxis]
        nowhere = mean < self.epsilon
        rest = np.where(length.max(axis=-1, keepdims=True) > 0, weights if len(weights) == 2 else np.nan, 0.0)
        scale = np.sum(weights * length, axis=-1, keepdims=True)
        # mergekit moves along the zero tangent by the angle epsilon, not 0, in order not to divide by zero.
        scale = scale * np.cos(self.epsilon)
        return np.where(nowhere, rest, scale * units / np.where(nowhere, 1.0, mean))


@dataclass(frozen=True, slots=True)
class Karcher:
    """The Riemannian mean of directions with equal weights, times the mean length, https://arxiv.org/abs/2603.04972.

    Every step stays within the span of the vectors, so that their dot products are enough. As in mergekit, vectors that
    are no longer than the tolerance have no direction, and only lower the mean length.
    """

    count: int
    """Number of vectors."""
    max_iter: int
    """Greatest number of steps."""
    tol: float
    """Length of a step, or angle, below which it counts as zero."""

    def coefficients(self, grams: Doubles) -> Doubles:
        """Compute the coefficients of any number of vectors of one tensor."""
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
        """Choose the start: the normalised mean, or the first direction if the directions cancel out."""
        size = _length(units, weights)
        if size < self.tol:
            first = np.zeros(len(weights))
            first[np.argmax(valid)] = 1.0
            return first
        return weights / size

    def _tangent(self, units: Doubles, weights: Doubles, mean: Doubles) -> Doubles:
        """Compute the mean of the logarithms of the directions at `mean`, as coefficients."""
        cosine = np.clip(units @ mean, -1.0, 1.0)
        angle = np.arccos(cosine)
        used = (weights > 0) & ~(angle < self.tol)
        factor = np.where(used, weights * angle / np.where(used, np.sin(angle), 1.0), 0.0)
        return np.asarray(factor - np.sum(factor * cosine) * mean)


def _length(units: Doubles, coefficients: Doubles) -> float:
    return math.sqrt(max(float(coefficients @ units @ coefficients), 0.0))


@dataclass(frozen=True, slots=True)
class ModelStock:
    """A point between the base model and the mean of the models, chosen by the mean angle between their task vectors.

    https://arxiv.org/abs/2403.19522, equation 4: t = N cos / (1 + (N - 1) cos), W = t mean + (1 - t) W0. As in
    mergekit, products of lengths below 1e-6 are replaced by 1e-6, and t is 0 where its denominator is below 1e-6.
    """

    count: int
    """Number of models."""

    def coefficients(self, grams: Doubles) -> Doubles:
        """Compute the coefficient of the base model, then those of the models, from dot products of task vectors."""
        length = norms(grams)
        first, second = np.triu_indices(self.count, 1)
        products = np.maximum(length[..., first] * length[..., second], 1e-6)
        cosine = np.clip(grams[..., first, second] / products, -1.0, 1.0).mean(axis=-1)
        denominator = 1.0 + (self.count - 1) * cosine
        singular = np.abs(denominator) < 1e-6
        t = np.where(singular, 0.0, self.count * cosine / np.where(singular, 1.0, denominator))
        return np.stack((1.0 - t, *(t / self.count,) * self.count), axis=-1)
