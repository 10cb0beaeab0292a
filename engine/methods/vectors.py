"""The rows that stand in a plan for a method of which the models' kept changes are stored, or merged from a store.

No recipe can name them. A plan has them in place of the row of the table of methods that its recipe names. Every plan
asks whether it has one, so what these rows compute with is imported only where they are used.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from dovetail.engine.errors import RecipeError
from dovetail.engine.kernels.convert import ITEMSIZES
from dovetail.engine.methods.method import Masks, Method
from dovetail.engine.methods.outputs import Output
from dovetail.engine.methods.program import Bytes, Chunk, Problem
from dovetail.io.files.checksum import array_checksum

if TYPE_CHECKING:
    from dovetail.engine.methods.keeping import Kept

_MAKING: Final = "vectors of "
_USING: Final = " from vectors"

_MEMBERS: Final = "it has no task vectors that could be kept: it merges the models' weights themselves"
_MIXED: Final = "what it takes of a model depends on how the models' values compare, and on no mask of its own"


def refuse_unstorable(method: Method) -> Masks:
    """Give what models keep by a method.

    Raises
    ------
    RecipeError
        That cannot be stored; the text says why.

    """
    if method.masks is not None:
        return method.masks
    why = _MIXED if method.base == "origin" else _MEMBERS
    if method.plug_in is not None:
        why = f"it comes from {method.plug_in}, and plug-ins cannot say what they keep of a model"
    raise RecipeError(
        f"task vectors of {method.name} cannot be stored: {why}",
        "a method that prunes each model's changes before it weighs them, such as cabs, ties or dare_linear",
        "merge the models themselves",
    )


def making(method: Method) -> Method:
    """Give the row of plans that store what models keep by a method."""
    return replace(
        method,
        name=_MAKING + method.name,
        program=partial(_make_kept, method),
        outputs=partial(_outputs, method),
        by_name=True,
    )


def using(method: Method) -> Method:
    """Give the row of plans that merge what models keep by a method from a store."""
    masks = refuse_unstorable(method)
    return replace(method, name=method.name + _USING, program=masks.program, trial=partial(_try, masks))


def is_making(method: Method) -> bool:
    """Whether a row is one of those that `making` gives."""
    return method.name.startswith(_MAKING)


def method_behind(name: str) -> tuple[str, bool] | None:
    """Tell of the name of such a row its method, and whether it makes stores; None for all other names."""
    if name.startswith(_MAKING):
        return name.removeprefix(_MAKING), True
    return (name.removesuffix(_USING), False) if name.endswith(_USING) else None


def _make_kept(method: Method, problem: Problem) -> Kept:
    from dovetail.engine.methods.keeping import kept_program

    return kept_program(method, problem, max(1, problem.length))


def _outputs(method: Method, problem: Problem) -> tuple[Output, ...]:
    from dovetail.engine.methods.keeping import kept_outputs

    return kept_outputs(problem, _make_kept(method, problem))


def _try(masks: Masks, problem: Problem) -> None:
    """Merge made-up parts once."""
    from dovetail.engine.methods.stored import StoredSum

    assert problem.base_code is not None
    codes = (problem.base_code, *problem.model_codes)
    program = StoredSum(masks.program(problem), codes, problem.out_code, problem.length, problem.length, "")
    base = np.zeros(problem.length * ITEMSIZES[codes[0]], np.uint8)
    parts = tuple(_made_up(base, problem.length, ITEMSIZES[code]) for code in codes[1:])
    chunk = Chunk(0, 0, problem.length, 0, base, parts)
    program.apply(chunk, None, np.zeros(problem.length * ITEMSIZES[problem.out_code], np.uint8))


def _made_up(base: Bytes, elements: int, size: int) -> Bytes:
    """Make the packed part of a model that keeps its first element, a zero."""
    from dovetail.io.zarr.packed import HEADER
    from dovetail.io.zarr.vectors import mark_bytes

    row = np.zeros(mark_bytes(elements), np.uint8)
    header = row[: HEADER.itemsize].view(HEADER)[0]
    header["count"], header["base"], header["scale"] = 1, array_checksum(base.data), 1
    row[HEADER.itemsize] = 1
    return np.concatenate([row, np.zeros(8, np.uint8)])
