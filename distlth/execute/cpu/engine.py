"""The compiled engine, as Python builds networks for it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from distlth.errors import UserError

InstructionSet = Literal["auto", "portable", "avx2", "avx512"]
Pooling = Literal["max", "mean", "mean with padding"]
POOLINGS: tuple[Pooling, ...] = ("max", "mean", "mean with padding")
UNBOUNDED = (-math.inf, math.inf)
ERROR_BYTES = 256
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

_INT, _FLOAT, _HANDLE, _POINTER = ctypes.c_int, ctypes.c_float, ctypes.c_void_p, ctypes.c_void_p
_ARGUMENTS = {
    "convolution": (_HANDLE, _INT, _INT, _INT, _INT, _POINTER, _FLOAT, _FLOAT),
    "block": (_HANDLE, _INT, _POINTER, _INT, _POINTER, _INT, _POINTER, _POINTER),
    "affine": (_HANDLE, _INT, _INT, _POINTER, _POINTER, _INT, _FLOAT, _FLOAT),
    "pool": (_HANDLE, _INT, _INT, _POINTER),
    "mean": (_HANDLE, _INT, _INT, _INT),
    "concatenation": (_HANDLE, _POINTER, _INT),
    "pad": (_HANDLE, _INT, _INT, _INT),
    "flatten": (_HANDLE, _INT),
    "size": (_HANDLE, _POINTER, _POINTER),
    "run": (_HANDLE, _POINTER, _INT, _POINTER, _POINTER, _INT),
}


class EngineError(UserError):
    """The engine is not there, or cannot do what it is asked."""


@dataclass(frozen=True)
class Window:
    """A window that slides over images, all numbers (y, x), in pixels."""

    size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil: bool = False

    @property
    def numbers(self) -> npt.NDArray[np.int32]:
        """What the engine reads."""
        pairs = (*self.size, *self.stride, *self.padding, *self.dilation)
        return np.array([*pairs, self.ceil], np.int32)


@cache
def library() -> ctypes.CDLL:
    """Return the compiled engine.

    Raises:
        EngineError: it was not compiled.
    """
    found = sorted(Path(__file__).parent.glob("_engine*.so"))
    if not found:
        raise EngineError("the CPU engine is not compiled here; run cluster/setup.sh or pip install -e .")
    loaded = ctypes.CDLL(str(found[0]))
    for name, arguments in _ARGUMENTS.items():
        getattr(loaded, f"distlth_{name}").argtypes = (*arguments, ctypes.c_char_p)
    loaded.distlth_new.argtypes, loaded.distlth_new.restype = (ctypes.c_char_p, ctypes.c_char_p), _HANDLE
    loaded.distlth_delete.argtypes, loaded.distlth_delete.restype = (_HANDLE,), None
    loaded.distlth_isa.argtypes, loaded.distlth_isa.restype = (_HANDLE,), ctypes.c_char_p
    return loaded


def call(name: str, *arguments: Any) -> int:
    """Call a function of the engine; arrays go by their address.

    Raises:
        EngineError: it refuses.
    """
    error = ctypes.create_string_buffer(ERROR_BYTES)
    plain = [each.ctypes.data if isinstance(each, np.ndarray) else each for each in arguments]
    result: int = getattr(library(), f"distlth_{name}")(*plain, error)
    if result < 0:
        raise EngineError(error.value.decode())
    return result


def instruction_sets() -> tuple[InstructionSet, ...]:
    """Return what this machine has, fastest first."""
    return tuple(name for name in ("avx512", "avx2", "portable") if _exists(name))


def _exists(name: InstructionSet) -> bool:
    try:
        Network(name)
    except EngineError as error:
        if "instruction set" not in str(error):
            raise
        return False
    return True


class Network:
    """A network in the engine: operators by number, in the order that they were added; 0 is the input.

    The last one added makes the result. Each method returns the new operator's number, and raises EngineError
    for an operator that is not there. What only the size of images can tell is checked when it runs.
    """

    def __init__(self, instructions: InstructionSet = "auto") -> None:
        error = ctypes.create_string_buffer(ERROR_BYTES)
        self._library = library()  # __del__ may run when modules are gone
        self.handle: int | None = self._library.distlth_new(instructions.encode(), error)
        if self.handle is None:
            raise EngineError(error.value.decode())

    def __del__(self) -> None:
        if getattr(self, "handle", None) is not None:
            self._library.distlth_delete(self.handle)

    def __deepcopy__(self, memo: object) -> Network:
        return self  # nothing changes it once it is built

    def __reduce__(self) -> Any:
        raise TypeError("a network of the CPU engine cannot be pickled; save the model that it was made from")

    @property
    def instructions(self) -> str:
        """The instruction set that it runs."""
        return str(self._library.distlth_isa(self.handle).decode())

    def convolution(
        self,
        source: int,
        channels: tuple[int, int],
        window: Window,
        *,
        add: int | None = None,
        bounds: tuple[float, float] = UNBOUNDED,
    ) -> int:
        """Add a convolution from one number of `channels` to the other; its blocks follow, by `block`.

        The result of operator `add` is added to the sums, before both are clamped to `bounds`. Each output
        channel must be in one block.
        """
        return call(
            "convolution",
            self.handle,
            source,
            -1 if add is None else add,
            *channels,
            window.numbers,
            *bounds,
        )

    def block(self, convolution: int, rows: Indices, columns: Indices, weights: Floats, bias: Floats) -> None:
        """Add a dense block: `weights` (rows x columns), `bias` (rows) of these output channels.

        Columns count as in the weight: input channel, then place in the window.
        """
        row_numbers, column_numbers = rows.astype(np.int32), columns.astype(np.int32)
        contiguous = np.ascontiguousarray(weights, np.float32), np.ascontiguousarray(bias, np.float32)
        assert contiguous[0].shape == (len(rows), len(columns))
        assert contiguous[1].shape == (len(rows),)
        call(
            "block",
            self.handle,
            convolution,
            row_numbers,
            len(rows),
            column_numbers,
            len(columns),
            *contiguous,
        )

    def affine(
        self,
        source: int,
        scale: Floats | None = None,
        shift: Floats | None = None,
        *,
        add: int | None = None,
        bounds: tuple[float, float] = UNBOUNDED,
    ) -> int:
        """Add `scale` x source + `shift` (by channel) + the result of operator `add`, clamped to `bounds`."""
        parts = [None if part is None else np.ascontiguousarray(part, np.float32) for part in (scale, shift)]
        channels = next((len(part) for part in parts if part is not None), 0)
        number = -1 if add is None else add
        return call("affine", self.handle, source, number, *parts, channels, *bounds)

    def pool(self, source: int, kind: Pooling, window: Window) -> int:
        """Add a maximum or mean over windows; "mean with padding" counts the padding."""
        return call("pool", self.handle, source, POOLINGS.index(kind), window.numbers)

    def mean(self, source: int, size: tuple[int, int] = (1, 1)) -> int:
        """Add means over bins, as many as `size` says, as torch's adaptive pooling has them."""
        return call("mean", self.handle, source, *size)

    def concatenation(self, sources: Sequence[int]) -> int:
        """Add a concatenation of channels."""
        return call("concatenation", self.handle, np.array(sources, np.int32), len(sources))

    def pad(self, source: int, before: int, after: int) -> int:
        """Add channels of zeros before and after those of the source."""
        return call("pad", self.handle, source, before, after)

    def flatten(self, source: int) -> int:
        """Add what makes every pixel of every channel a channel of its own."""
        return call("flatten", self.handle, source)
