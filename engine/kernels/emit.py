"""A few words for writing vector code: what numba intrinsics emit, as operations of LLVM's on vectors of fixed length.

Each is one instruction on machines with vectors as long, and several on others. The results do not depend on that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.np import arrayobj

I1, I16, I32, I64 = ir.IntType(1), ir.IntType(16), ir.IntType(32), ir.IntType(64)
F32, F64 = ir.FloatType(), ir.DoubleType()


def integer(kind: Any, value: int) -> Any:
    """Give a constant."""
    return ir.Constant(kind, value)


def constant(kind: Any, values: Sequence[int]) -> Any:
    """Give a constant vector."""
    return ir.Constant(ir.VectorType(kind, len(values)), list(values))


def data_of(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Give the address of an array's first element."""
    make_array: Any = arrayobj.make_array
    return make_array(kind)(context, builder, array).data


def declare(builder: Any, name: str, kind: Any) -> Any:
    """Give a function of LLVM's, declared once in a module."""
    return builder.module.globals.get(name) or ir.Function(builder.module, kind, name)


def reserve(builder: Any, kind: Any) -> Any:
    """Give the address of memory on the stack, at a cache line."""
    alloca_once: Any = cgutils.alloca_once
    memory = alloca_once(builder, kind)
    memory.align = 64
    return memory


def offset(builder: Any, element: Any, distance: int) -> Any:
    """Give the number of the element that lies `distance` further on."""
    return builder.add(element, integer(I64, distance))


def load(builder: Any, data: Any, element: Any, kind: Any, count: int, align: int) -> Any:
    """Load `count` integers that start at an element of an array."""
    place = builder.bitcast(builder.gep(data, [element]), ir.VectorType(kind, count).as_pointer())
    return builder.load(place, align=align)


def store(builder: Any, vector: Any, data: Any, element: Any, align: int) -> None:
    """Store a vector at an element of an array."""
    place = builder.bitcast(builder.gep(data, [element]), vector.type.as_pointer())
    builder.store(vector, place, align=align)


def pick(builder: Any, first: Any, second: Any, lanes: Sequence[int]) -> Any:
    """Give the lanes of two vectors, counted through, in a new order."""
    return builder.shuffle_vector(first, second, constant(I32, lanes))


def concatenate(builder: Any, parts: Sequence[Any]) -> Any:
    """Join vectors, a power of two of the same length."""
    joined = list(parts)
    while len(joined) > 1:
        lanes = range(2 * joined[0].type.count)
        joined = [pick(builder, joined[i], joined[i + 1], lanes) for i in range(0, len(joined), 2)]
    return joined[0]


def fill(builder: Any, number: Any, count: int) -> Any:
    """Give a vector with the same number in every lane."""
    nothing = ir.Constant(ir.VectorType(number.type, count), ir.Undefined)
    return pick(builder, builder.insert_element(nothing, number, integer(I32, 0)), nothing, [0] * count)


def umax(builder: Any, first: Any, second: Any) -> Any:
    """Give the larger of unsigned integers."""
    return builder.select(builder.icmp_unsigned(">", first, second), first, second)


def umin(builder: Any, first: Any, second: Any) -> Any:
    """Give the smaller of unsigned integers."""
    return builder.select(builder.icmp_unsigned(">", first, second), second, first)


def swap_bits(builder: Any, vectors: Sequence[Any], vector_bit: int, lane_bit: int, count: int) -> list[Any]:
    """Swap a bit of the vectors' numbers with a bit of the lanes' numbers: one step of a transposition."""
    swapped, distance = list(vectors), 1 << lane_bit
    upper = [count + lane - distance if lane & distance else lane for lane in range(count)]
    lower = [count + lane if lane & distance else lane + distance for lane in range(count)]
    for first in (number for number in range(len(vectors)) if not number >> vector_bit & 1):
        pair = vectors[first], vectors[first | 1 << vector_bit]
        swapped[first], swapped[first | 1 << vector_bit] = (pick(builder, *pair, lanes) for lanes in (upper, lower))
    return swapped


def count_ones(builder: Any, vector: Any) -> Any:
    """Give the number of ones in each lane's bits."""
    kind = vector.type
    name = f"llvm.ctpop.v{kind.count}i{kind.element.width}"
    return builder.call(declare(builder, name, ir.FunctionType(kind, [kind])), [vector])


def largest_lane(builder: Any, vector: Any) -> Any:
    """Give the largest of a vector's unsigned integers."""
    kind = vector.type
    name = f"llvm.vector.reduce.umax.v{kind.count}i{kind.element.width}"
    return builder.call(declare(builder, name, ir.FunctionType(kind.element, [kind])), [vector])


def loop(builder: Any, count: Any, state: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    """Run ``state = body(i, state)`` for i from 0 to count - 1, and give the last state."""
    before = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(I64)
    index.add_incoming(integer(I64, 0), before)
    carried = [builder.phi(value.type) for value in state]
    for phi, value in zip(carried, state, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", index, count), inside, after)
    builder.position_at_end(inside)
    results = body(index, list(carried))
    index.add_incoming(builder.add(index, integer(I64, 1)), builder.block)
    for phi, value in zip(carried, results, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return carried
