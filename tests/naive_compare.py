"""Differences of tensors by their definitions, slowly: the oracle of the kernel that compares.

Finite values are fractions, and a dtype is the list of its numbers. Nothing here imports the code under test.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Difference:
    """The differences that the oracle finds between two tensors."""

    changed: int
    unmatched: int
    max_abs: Fraction
    max_rel: Fraction
    max_ulp: int


def mantissa_bits(dtype: np.dtype[Any]) -> int:
    """Give the number of stored bits of a dtype's mantissa."""
    return {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7, "float8_e4m3fn": 3, "float8_e5m2": 2}[
        dtype.name
    ]


def least_exponent(dtype: np.dtype[Any]) -> int:
    """Give the exponent of the least normal number of a dtype."""
    return {
        "float64": -1022,
        "float32": -126,
        "float16": -14,
        "bfloat16": -126,
        "float8_e4m3fn": -6,
        "float8_e5m2": -14,
    }[dtype.name]


def greatest(dtype: np.dtype[Any]) -> Fraction:
    """Give the greatest number of a dtype."""
    top = {"float64": 1023, "float32": 127, "float16": 15, "bfloat16": 127, "float8_e4m3fn": 8, "float8_e5m2": 15}
    ones = Fraction(2) - Fraction(1, 2 ** mantissa_bits(dtype))
    if dtype.name == "float8_e4m3fn":
        ones -= Fraction(1, 8)  # the last pattern is NaN
    return ones * Fraction(2) ** top[dtype.name]


def position(value: Fraction, dtype: np.dtype[Any]) -> int:
    """Round to the nearest number of a dtype, ties to even, and give its position, counted from zero."""
    bits, least = mantissa_bits(dtype), least_exponent(dtype)
    magnitude = abs(value)
    exponent = least
    while magnitude >= Fraction(2) ** (exponent + 1):
        exponent += 1
    steps = magnitude / (Fraction(2) ** (exponent - bits))
    count = int(steps)
    rest = steps - count
    if rest > Fraction(1, 2) or (rest == Fraction(1, 2) and count % 2):
        count += 1
    # A number with exponent e comes after all numbers with lesser exponents.
    found = count + (exponent - least) * 2**bits
    one_past = _index(greatest(dtype), dtype) + 1
    found = min(found, one_past)
    return -found if value < 0 else found


def _index(value: Fraction, dtype: np.dtype[Any]) -> int:
    bits, least = mantissa_bits(dtype), least_exponent(dtype)
    exponent = least + bisect_left(range(4096), True, key=lambda e: value < Fraction(2) ** (least + e + 1))
    return int(value / Fraction(2) ** (exponent - bits)) + (exponent - least) * 2**bits


def compare(first: NDArray[Any], second: NDArray[Any]) -> Difference:
    """Compare two tensors of floating-point numbers."""
    dtype = min(first.dtype, second.dtype, key=mantissa_bits)
    changed = unmatched = ulp = 0
    largest = relative = Fraction(0)
    for one, other in zip(first.ravel(), second.ravel(), strict=True):
        a, b = float(one), float(other)
        if a == b or (a != a and b != b):
            continue
        changed += 1
        if not (np.isfinite(a) and np.isfinite(b)):
            unmatched += 1
            continue
        p, q = Fraction(a), Fraction(b)
        largest = max(largest, abs(p - q))
        relative = max(relative, abs(p - q) / max(abs(p), abs(q)))
        ulp = max(ulp, abs(position(p, dtype) - position(q, dtype)))
    return Difference(changed, unmatched, largest, relative, ulp)
