"""Reading pickles of plain values and arrays of bytes, without running anything that they say.

A pickle is a program. ``pickle`` itself calls any function that the program names. The reader here has no way to call:
it follows the instructions of which plain data consist, on a stack of its own, and knows by name just the three things
of which numpy makes an array, for which it puts marks of its own on the stack. Everything else is an error.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

MOST_INSTRUCTIONS: Final = 5_000_000
"""Most instructions of a pickle; a batch of CIFAR-10 has about 40,000."""


class PickleDefectError(Exception):
    """A pickle is refused; the message is worded to follow the file's name, as in "is no pickle"."""


@dataclass(frozen=True, slots=True)
class _Name:
    """A name that a pickle asks for."""

    path: str


@dataclass(slots=True)
class _Array:
    """An array that is being made, as numpy's own pickles make it: empty first, filled by a state."""

    found: Any = None


@dataclass(frozen=True, slots=True)
class _DType:
    """A dtype that is being made."""

    code: str


_RECONSTRUCT: Final = frozenset({"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"})
_KNOWN: Final = _RECONSTRUCT | {"numpy ndarray", "numpy dtype", "_codecs encode"}
_BYTES: Final = frozenset({"u1", "|u1", "uint8", "B"})
_MARK: Final = object()


def read_pickle(data: bytes) -> Any:
    """Read a pickle of numbers, texts, bytes, tuples, lists, dictionaries and numpy arrays of bytes.

    Raises
    ------
    PickleDefectError
        It is damaged, or holds anything else.

    """
    reader = _Reader()
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if number > MOST_INSTRUCTIONS:
                raise PickleDefectError(f"has more than {MOST_INSTRUCTIONS:,} instructions")
            if opcode.name == "STOP":
                return _whole(reader.stack.pop())
            reader.follow(opcode.name, argument)
    except PickleDefectError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise PickleDefectError(f"is no pickle of plain data ({str(error)[:100]})") from error
    raise PickleDefectError("ends too early")


class _Reader:
    """The stack and the memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def follow(self, name: str, argument: Any) -> None:
        """Follow one instruction."""
        if name in _VALUES:
            self.stack.append(_VALUES[name](argument))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "GLOBAL":
            self.name(argument)
        elif name in _ACTIONS:
            _ACTIONS[name](self)
        elif name not in ("PROTO", "FRAME"):
            raise PickleDefectError(f"has the instruction {name}, which plain data do not need")

    def above_mark(self) -> list[Any]:
        """Take what lies above the last mark off the stack, and the mark too."""
        place = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        found = self.stack[place + 1 :]
        del self.stack[place:]
        return found

    def pop(self, count: int) -> list[Any]:
        """Take so many values off the stack."""
        if len(self.stack) < count:
            raise IndexError("nothing on the stack")
        found = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return found

    def set_items(self, items: list[Any]) -> None:
        """Put keys and values into the dictionary on the stack."""
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise TypeError("items of no dictionary")
        target.update({_key(key): _whole(value) for key, value in zip(items[::2], items[1::2], strict=True)})

    def append(self, items: list[Any]) -> None:
        """Append values to the list on the stack."""
        if type(self.stack[-1]) is not list:
            raise TypeError("items of no list")
        self.stack[-1].extend(map(_whole, items))

    def name(self, path: str) -> None:
        """Put one of the known names on the stack."""
        if path not in _KNOWN:
            raise PickleDefectError(f"asks for {path.replace(' ', '.')[:100]}, which plain data do not need")
        self.stack.append(_Name(path))

    def stand_in(self) -> None:
        """Put on the stack what stands for the result of one of the known calls."""
        function, arguments = self.pop(2)
        path = function.path if isinstance(function, _Name) else ""
        if path in _RECONSTRUCT and arguments[0] == _Name("numpy ndarray"):
            self.stack.append(_Array())
        elif path == "numpy dtype":
            self.stack.append(_DType(str(_text(arguments[0]))))
        elif path == "_codecs encode" and _text(arguments[1]) == "latin1":
            self.stack.append(str(arguments[0]).encode("latin-1"))
        else:
            raise PickleDefectError("makes something that is no array of bytes")

    def build(self) -> None:
        """Fill the array or the dtype on the stack by its state."""
        target, state = self.pop(2)
        if isinstance(target, _Array):
            _, shape, dtype, in_columns, data = state
            if not isinstance(dtype, _DType) or dtype.code not in _BYTES:
                raise PickleDefectError("has an array that is not of bytes")
            raw = data.encode("latin-1") if isinstance(data, str) else bytes(data)
            if not all(type(each) is int and each >= 0 for each in shape) or math.prod(shape) != len(raw):
                raise PickleDefectError(f"has an array of shape {shape} and {len(raw):,} bytes")
            target.found = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if in_columns else "C")
        elif not isinstance(target, _DType):
            raise PickleDefectError("fills something that is no array")
        self.stack.append(target)


def _whole(value: Any) -> Any:
    """Give an array for the mark that stands for it; a name or a dtype is no value."""
    if isinstance(value, _Array) and value.found is not None:
        return value.found
    if isinstance(value, (_Array, _Name, _DType)) or value is _MARK:
        raise PickleDefectError("holds something that is not plain data")
    return value


def _key(key: Any) -> str | bytes | int:
    if not isinstance(key, (str, bytes, int)):
        raise TypeError("a key that is no text")
    return key


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _literal(argument: Any) -> Any:
    return argument


def _old_string(argument: Any) -> bytes:
    """Give the bytes of a text of Python 2, which `pickletools` reads as Latin-1."""
    return argument.encode("latin-1") if isinstance(argument, str) else bytes(argument)


_VALUES: Final[dict[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT"), _literal),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"), _literal),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _literal),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING", "STRING"), _old_string),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
    "MARK": lambda _: _MARK,
}
"""Instructions that put a value on the stack, and what they make of their argument."""

_ACTIONS: Final[dict[str, Callable[[_Reader], None]]] = {
    "TUPLE": lambda reader: reader.stack.append(tuple(reader.above_mark())),
    "TUPLE1": lambda reader: reader.stack.append(tuple(reader.pop(1))),
    "TUPLE2": lambda reader: reader.stack.append(tuple(reader.pop(2))),
    "TUPLE3": lambda reader: reader.stack.append(tuple(reader.pop(3))),
    "LIST": lambda reader: reader.stack.append([_whole(each) for each in reader.above_mark()]),
    "SETITEM": lambda reader: reader.set_items(reader.pop(2)),
    "SETITEMS": lambda reader: reader.set_items(reader.above_mark()),
    "APPEND": lambda reader: reader.append(reader.pop(1)),
    "APPENDS": lambda reader: reader.append(reader.above_mark()),
    "STACK_GLOBAL": lambda reader: reader.name(" ".join(map(str, reader.pop(2)))),
    "REDUCE": _Reader.stand_in,
    "BUILD": _Reader.build,
}
"""Instructions that work on what is on the stack."""
