"""Methods that work with the directions of whole tensors or rows, in float64 and rounded once at the end."""

from __future__ import annotations

import numpy as np

from tests.oracles.result import Case, Doubles, Floats, Result, partial_sums, rounded


def _double(*arrays: Floats) -> list[Doubles]:
    return [array.astype(np.float64) for array in arrays]


def _norm(values: Doubles, axis: int | None = None) -> Doubles:
    return np.sqrt(np.sum(values * values, axis=axis, keepdims=axis is not None))


def _arc(t: float, theta: Doubles) -> tuple[Doubles, Doubles]:
    """Compute the shares of both ends of an arc at the part `t` of its angle."""
    return np.sin((1 - t) * theta) / np.sin(theta), np.sin(t * theta) / np.sin(theta)


def slerp(case: Case) -> Result:
    """Interpolate along the arc between two tensors, or linearly if they are nearly parallel or opposite."""
    t = float(case.parameters["t"])
    a, b = _double(case.origin, case.models[0])
    lengths = [float(_norm(each)) for each in (a, b)]
    a_length, b_length = (length if length > 1e-8 else 1.0 for length in lengths)
    cosine = np.clip(np.sum((a / a_length) * (b / b_length)), -1.0, 1.0)
    share_a, share_b = (1 - t, t) if abs(cosine) > 0.9995 else _arc(t, np.arccos(cosine))
    return rounded(share_a * a + share_b * b, share_a * a, share_b * b)


def nuslerp(case: Case) -> Result:
    """Interpolate along the arc between two models or, with a base, between their task vectors.

    There is one arc for the whole tensors, or one for each row (``nuslerp_flatten: false``), or one for each vector
    along the first axis (``nuslerp_row_wise: true`` as well). The interpolation is linear where the square of the
    cosine, rounded to float32, is 1.
    """
    first, second = (float(weight) for weight in case.each("weight"))
    t = 0.5 if abs(first + second) < 1e-6 else second / (first + second)
    a, b = _double(*(case.models if case.base is None else case.taus()))
    shape = a.shape
    axis = 0 if case.parameters["nuslerp_row_wise"] else -1
    if case.parameters["nuslerp_flatten"] or a.ndim == 0:
        a, b, axis = a.ravel(), b.ravel(), -1
    units = [each / np.maximum(_norm(each, axis), 1e-7) for each in (a, b)]
    cosine = np.clip(np.sum(units[0] * units[1], axis=axis, keepdims=True), -1.0, 1.0)
    straight = np.square(cosine.astype(np.float32)) == 1
    share_a, share_b = _arc(t, np.arccos(np.where(straight, 0.0, cosine)))
    share_a, share_b = np.where(straight, 1 - t, share_a), np.where(straight, t, share_b)
    from_a, from_b = (share_a * a).reshape(shape), (share_b * b).reshape(shape)
    if case.base is None:
        return rounded(from_a + from_b, from_a, from_b)
    return rounded(case.base.astype(np.float64) + (from_a + from_b), case.base, from_a, from_b)


def multislerp(case: Case) -> Result:
    """Apply the exponential map at the normalised mean of directions, and multiply by the mean length.

    Raises
    ------
    ZeroDivisionError
        The directions of three vectors or more cancel.

    """
    if len(case.models) == 1:
        return rounded(case.models[0].astype(np.float64), exact=True)
    weights = np.array(case.each("weight"), np.float64)
    if case.parameters["normalize_weights"]:
        weights = weights / np.sum(weights)
    eps = float(case.parameters["eps"])
    vectors = _double(*(case.models if case.base is None else case.taus()))
    base = np.zeros(vectors[0].shape) if case.base is None else case.base.astype(np.float64)
    lengths = [float(_norm(vector)) for vector in vectors]
    units = [vector / (length + eps) for vector, length in zip(vectors, lengths, strict=True)]
    centre = np.asarray(sum(weight * unit for weight, unit in zip(weights, units, strict=True)))
    length = float(_norm(centre))
    if length < eps:
        if not any(lengths):  # zero vectors have no direction; with three of them or more, mergekit fails
            return rounded(base)
        if len(vectors) != 2:
            raise ZeroDivisionError("the directions cancel")
        parts = [weight * vector for weight, vector in zip(weights, vectors, strict=True)]
        return rounded(base + parts[0] + parts[1], base, *partial_sums(parts))
    centre = centre / length
    tangents = [unit - np.sum(unit * centre) * centre for unit in units]
    tangent = np.asarray(sum(weight * each for weight, each in zip(weights, tangents, strict=True)))
    angle = float(_norm(tangent)) + eps
    mean_length = float(np.dot(weights, lengths))
    change = (centre * np.cos(angle) + tangent * (np.sin(angle) / angle)) * mean_length
    parts = [weight * unit / length * mean_length for weight, unit in zip(weights, units, strict=True)]
    return rounded(base + change, base, *partial_sums(parts))


def karcher(case: Case) -> Result:
    """Find the mean of directions on the sphere, with equal weights, times the mean length (arXiv:2603.04972)."""
    if len(case.models) == 1:
        return rounded(case.models[0].astype(np.float64), exact=True)
    tolerance, most = float(case.parameters["tol"]), int(case.parameters["max_iter"])
    vectors = _double(*case.models)
    lengths = [float(_norm(vector)) for vector in vectors]
    units = [vector / length for vector, length in zip(vectors, lengths, strict=True) if length > tolerance]
    if not units:
        return rounded(np.zeros(vectors[0].shape))
    share = 1 / len(units)
    mean = np.asarray(sum(share * unit for unit in units))
    length = float(_norm(mean))
    mean = units[0] if length < tolerance else mean / length
    for _ in range(most):
        tangent = np.zeros(mean.shape)
        for unit in units:
            cosine = float(np.clip(np.sum(mean * unit), -1.0, 1.0))
            angle = float(np.arccos(cosine))
            if angle >= tolerance:
                tangent = tangent + share * (angle / np.sin(angle)) * (unit - cosine * mean)
        step = float(_norm(tangent))
        if step < tolerance:
            break
        mean = np.cos(step) * mean + np.sin(step) * (tangent / step)
        length = float(_norm(mean))
        if length > tolerance:
            mean = mean / length
    scale = sum(lengths) / len(lengths)
    return rounded(scale * mean, *partial_sums([scale * share * unit for unit in units]))


def model_stock(case: Case) -> Result:
    """Interpolate between the base and the models' mean by the mean cosine of task vectors (arXiv:2403.19522)."""
    count, shape = len(case.models), case.origin.shape
    by_row = case.parameters["filter_wise"] and len(shape) > 1
    rows = (-1, shape[-1]) if by_row else (1, -1)
    vectors = [tau.reshape(rows) for tau in _double(*case.taus())]
    cosines = []
    for i, one in enumerate(vectors):
        for other in vectors[i + 1 :]:
            lengths = np.maximum(_norm(one, 1) * _norm(other, 1), 1e-6)
            cosines.append(np.clip(np.sum(one * other, axis=1, keepdims=True) / lengths, -1.0, 1.0))
    cosine = np.mean(cosines, axis=0)
    divisor = 1 + (count - 1) * cosine
    singular = np.abs(divisor) < 1e-6
    share = np.where(singular, 0.0, count * cosine / np.where(singular, 1.0, divisor))
    base = case.origin.astype(np.float64).reshape(rows)
    average = np.asarray(sum(_double(*case.models)) / count).reshape(rows)
    to_average, to_base = (share * average).reshape(shape), ((1 - share) * base).reshape(shape)
    parts = [(share * model.reshape(rows) / count).reshape(shape) for model in _double(*case.models)]
    return rounded(to_average + to_base, to_average, to_base, *partial_sums(parts))
