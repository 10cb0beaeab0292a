"""The types that numba gives to arrays, found without numpy's masked arrays.

numba refuses masked arrays, and imports `numpy.ma` to know them, which takes longer than to load a kernel. Where
nobody has imported that, there are none.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numba.core import types
from numba.core.errors import NumbaNotImplementedError
from numba.core.typing import typeof
from numba.np import numpy_support

_typeof: Any = typeof
_support: Any = numpy_support
_types: Any = types
_usual = _typeof.typeof_impl.dispatch(np.ndarray)


def type_of_array(array: np.ndarray[Any, Any], context: Any) -> Any:
    """Give the type of an array, as numba does; what it refuses, it refuses here."""
    if "numpy.ma" in sys.modules:
        return _usual(array, context)
    try:
        dtype = _support.from_dtype(array.dtype)
    except NumbaNotImplementedError:
        return _usual(array, context)
    return _types.Array(dtype, array.ndim, _support.map_layout(array), readonly=not array.flags.writeable)


_typeof.typeof_impl.register(np.ndarray)(type_of_array)
