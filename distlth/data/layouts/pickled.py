"""Read the data of a pickle without running it: strings, numbers, lists, dictionaries and arrays of bytes.

A pickle is a program, and one from the net may do anything to whoever loads it. Here its instructions are
taken apart by `pickletools`, which runs none; those that would import or call something leave a note of what.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distlth.errors import DataError

_RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_MARK = object()


@dataclass(frozen=True)
class Named:
    """Something that loading the pickle would have imported."""

    name: str


@dataclass
class Made:
    """What calling `callee` would have made, and the state that it would then have been given."""

    callee: Any
    arguments: Any
    state: Any = None


def read_pickle(path: Path, data: bytes) -> Any:
    """Return what the pickle `data` of the file `path` holds; DataError unless it is plain data."""
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in _IGNORED:
                continue
            if opcode.name not in _STEPS:
                raise DataError(f"{path}: a pickle with more than plain data in it ({opcode.name})")
            _STEPS[opcode.name](machine, argument)
        return machine.stack.pop()
    except (IndexError, KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"{path}: not a pickle, or a damaged one") from None


def byte_array(value: Any) -> npt.NDArray[np.uint8] | None:
    """Return a pickled numpy array of uint8; None for anything else."""
    if not isinstance(value, Made) or value.callee not in [Named(name) for name in _RECONSTRUCT]:
        return None
    _version, shape, dtype, is_fortran, data = value.state
    data = data.encode("latin-1") if isinstance(data, str) else data
    if dtype.arguments[0] not in ("u1", "|u1", b"u1") or is_fortran or not isinstance(data, bytes):
        return None
    return np.frombuffer(data, np.uint8).reshape(shape)


class _Machine:
    """A pickle's stack and memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> list[Any]:
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def pop_to_mark(self) -> list[Any]:
        place = max(index for index, value in enumerate(self.stack) if value is _MARK)
        taken = self.stack[place + 1 :]
        del self.stack[place:]
        return taken

    def call(self) -> None:
        callee, arguments = self.pop(2)
        if callee == Named("_codecs encode"):  # how Python 3 writes bytes for Python 2
            text, encoding = arguments
            self.push(text.encode(encoding if encoding == "latin1" else "ascii"))
        else:
            self.push(Made(callee, arguments))

    def build(self) -> None:
        made, state = self.pop(2)
        if not isinstance(made, Made):
            raise TypeError
        made.state = state
        self.push(made)

    def put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def set_items(self, items: list[Any]) -> None:
        target: dict[Any, Any] = self.stack[-1]
        target.update(zip(items[::2], items[1::2], strict=True))


_Step = Callable[[_Machine, Any], object]


def _constant(make: Callable[[], Any]) -> _Step:
    return lambda machine, _: machine.push(make())


def _tuple(size: int) -> _Step:
    return lambda machine, _: machine.push(tuple(machine.pop(size)))


_IGNORED = frozenset(("PROTO", "FRAME", "STOP"))
_VALUES = (
    *("BININT", "BININT1", "BININT2", "INT", "LONG1", "BINFLOAT"),
    *("SHORT_BINSTRING", "BINSTRING", "STRING", "SHORT_BINUNICODE", "BINUNICODE", "UNICODE"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
)
_STEPS: dict[str, _Step] = {
    **dict.fromkeys(_VALUES, lambda machine, value: machine.push(value)),
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "EMPTY_DICT": _constant(dict),
    "EMPTY_LIST": _constant(list),
    "EMPTY_TUPLE": _constant(tuple),
    "MARK": _constant(lambda: _MARK),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "APPEND": lambda machine, _: machine.stack[-2].append(machine.pop(1)[0]),
    "APPENDS": lambda machine, _: (items := machine.pop_to_mark(), machine.stack[-1].extend(items)),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "GLOBAL": lambda machine, name: machine.push(Named(name)),
    "STACK_GLOBAL": lambda machine, _: machine.push(Named(" ".join(machine.pop(2)))),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPUT": lambda machine, place: machine.put(place),
    "LONG_BINPUT": lambda machine, place: machine.put(place),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "BINGET": lambda machine, place: machine.push(machine.memo[place]),
    "LONG_BINGET": lambda machine, place: machine.push(machine.memo[place]),
}
