"""Helpers for intrinsics that generate vector code: LLVM operations on vectors of a fixed length.

LLVM makes one instruction of an operation where the machine's vectors are long enough, and several where they are not.
The results are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils

I1, I8, I16, I32, I64 = ir.IntType(1), ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
F32, F64 = ir.FloatType(), ir.DoubleType()


def integer(kind: Any, value: int) -> Any:
    """Make an integer constant."""
    return ir.Constant(kind, value)


def constant(kind: Any, values: Sequence[int]) -> Any:
    """Make a vector of integer constants."""
    return ir.Constant(ir.VectorType(kind, len(values)), list(values))


def data_of(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Generate the address of the first element of an array."""
    from numba.np import arrayobj  # imports much, and is needed only to compile

    make_array: Any = arrayobj.make_array
    return make_array(kind)(context, builder, array).data


def line_of(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Generate the address of a line of an array of two dimensions."""
    from numba.np import arrayobj  # imports much, and is needed only to compile

    make_array: Any = arrayobj.make_array
    unpack_tuple: Any = cgutils.unpack_tuple
    made = make_array(kind)(context, builder, array)
    step, _ = unpack_tuple(builder, made.strides, 2)
    start = builder.ptrtoint(made.data, I64)
    return builder.inttoptr(builder.add(start, builder.mul(step, index)), made.data.type)


def line_count(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Generate the number of lines of an array of two dimensions."""
    from numba.np import arrayobj  # imports much, and is needed only to compile

    make_array: Any = arrayobj.make_array
    return builder.extract_value(make_array(kind)(context, builder, array).shape, 0)


def lines_of(context: Any, builder: Any, kind: Any, array: Any, count: int) -> list[Any]:
    """Generate the addresses of the first `count` lines of an array of two dimensions."""
    return [line_of(context, builder, kind, array, integer(I64, line)) for line in range(count)]


def declare(builder: Any, name: str, kind: Any) -> Any:
    """Find a function that LLVM provides in the module, or declare it there."""
    return builder.module.globals.get(name) or ir.Function(builder.module, kind, name)


def reserve(builder: Any, kind: Any) -> Any:
    """Reserve memory on the stack, aligned to a cache line, and give its address."""
    alloca_once: Any = cgutils.alloca_once
    memory = alloca_once(builder, kind)
    memory.align = 64
    return memory


def offset(builder: Any, element: Any, distance: int) -> Any:
    """Generate the index of the element that lies `distance` elements after another."""
    return builder.add(element, integer(I64, distance))


def load(builder: Any, data: Any, element: Any, kind: Any, count: int, align: int) -> Any:
    """Load a vector of `count` numbers from an array, from the given element on."""
    place = builder.bitcast(builder.gep(data, [element]), ir.VectorType(kind, count).as_pointer())
    return builder.load(place, align=align)


def store(builder: Any, vector: Any, data: Any, element: Any, align: int) -> None:
    """Store a vector in an array, from the given element on."""
    place = builder.bitcast(builder.gep(data, [element]), vector.type.as_pointer())
    builder.store(vector, place, align=align)


def pick(builder: Any, first: Any, second: Any, lanes: Sequence[int]) -> Any:
    """Make a vector of chosen lanes of two vectors; the lanes of the second are numbered after those of the first."""
    return builder.shuffle_vector(first, second, constant(I32, lanes))


def concatenate(builder: Any, parts: Sequence[Any]) -> Any:
    """Join vectors of equal length into one; their number is a power of two."""
    joined = list(parts)
    while len(joined) > 1:
        lanes = range(2 * joined[0].type.count)
        joined = [pick(builder, joined[i], joined[i + 1], lanes) for i in range(0, len(joined), 2)]
    return joined[0]


def fill(builder: Any, number: Any, count: int) -> Any:
    """Make a vector that has the same number in every lane."""
    nothing = ir.Constant(ir.VectorType(number.type, count), ir.Undefined)
    return pick(builder, builder.insert_element(nothing, number, integer(I32, 0)), nothing, [0] * count)


def umax(builder: Any, first: Any, second: Any) -> Any:
    """Take the larger of two unsigned integers, lane by lane."""
    return builder.select(builder.icmp_unsigned(">", first, second), first, second)


def umin(builder: Any, first: Any, second: Any) -> Any:
    """Take the smaller of two unsigned integers, lane by lane."""
    return builder.select(builder.icmp_unsigned(">", first, second), second, first)


def swap_bits(builder: Any, vectors: Sequence[Any], vector_bit: int, lane_bit: int, count: int) -> list[Any]:
    """Swap a bit of each element's vector number with a bit of its lane number: a step of a transposition."""
    swapped, distance = list(vectors), 1 << lane_bit
    upper = [count + lane - distance if lane & distance else lane for lane in range(count)]
    lower = [count + lane if lane & distance else lane + distance for lane in range(count)]
    for first in (number for number in range(len(vectors)) if not number >> vector_bit & 1):
        pair = vectors[first], vectors[first | 1 << vector_bit]
        swapped[first], swapped[first | 1 << vector_bit] = (pick(builder, *pair, lanes) for lanes in (upper, lower))
    return swapped


def count_ones(builder: Any, vector: Any) -> Any:
    """Count the bits that are set in each lane."""
    kind = vector.type
    name = f"llvm.ctpop.v{kind.count}i{kind.element.width}"
    return builder.call(declare(builder, name, ir.FunctionType(kind, [kind])), [vector])


def multiply_add(builder: Any, first: Any, second: Any, third: Any) -> Any:
    """Multiply two vectors of numbers and add a third, in one instruction where the machine has one.

    Such an instruction rounds only once, so that this is for products that are exact, which are the same either way.
    """
    kind = first.type
    name = f"llvm.fmuladd.v{kind.count}f{64 if kind.element == F64 else 32}"
    return builder.call(declare(builder, name, ir.FunctionType(kind, [kind] * 3)), [first, second, third])


def largest_lane(builder: Any, vector: Any) -> Any:
    """Take the largest of the unsigned integers in a vector."""
    kind = vector.type
    name = f"llvm.vector.reduce.umax.v{kind.count}i{kind.element.width}"
    return builder.call(declare(builder, name, ir.FunctionType(kind.element, [kind])), [vector])


def sum_lanes(builder: Any, vector: Any) -> Any:
    """Add up the lanes of a vector: the second half is added to the first until one lane is left."""
    add = builder.fadd if vector.type.element in (F32, F64) else builder.add
    half = vector.type.count // 2
    while half:
        low, high = (pick(builder, vector, vector, range(first, first + half)) for first in (0, half))
        vector, half = add(low, high), half // 2
    return builder.extract_element(vector, integer(I64, 0))


def loop(builder: Any, count: Any, state: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    """Generate a loop that runs ``state = body(i, state)`` for i from 0 to count - 1, and give the last state."""
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
