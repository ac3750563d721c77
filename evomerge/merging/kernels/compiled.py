"""Compiling loops over weights with numba, and the arithmetic that all of them use.

Arithmetic is float32, and sums are taken in an order that depends on the number of elements only,
so that the result is the same on any number of threads. Weights are arrays of stored bits: uint16
for bfloat16 (which numpy lacks), int16 for float16, float32 and float64 as they are. `widen`
converts one to float32, and `narrow` back, rounded once to nearest even.
"""

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

Array = np.ndarray[Any, Any]

_Loop = TypeVar("_Loop", bound=Callable[..., Any])

_import_lock = Lock()
"""Files with loops may be imported by several threads, when a merge first needs them."""

LANES = 64
"""Number of partial sums that `dot` keeps; they fill a few vector registers."""


def compiled(loop: _Loop) -> _Loop:
    """Compile a function on its first call, and keep its machine code on disk.

    It releases the GIL. A division by 0 gives infinity or NaN (IEEE 754).
    """
    options = {"nogil": True, "error_model": "numpy"}
    with _import_lock:
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = _machine_code()
        try:
            return cast(_Loop, numba.njit(cache=True, **options)(loop))
        except RuntimeError:  # there is no folder that machine code can be written to
            return cast(_Loop, numba.njit(**options)(loop))
        finally:
            numba.config.CACHE_DIR = before


@cache
def _machine_code() -> str:
    """Return the folder for machine code, named by a hash of all files with loops.

    numba does not compile a function again if only the file of one that it calls has changed.
    """
    version = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        version.update(file.read_bytes())
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = numba.config.CACHE_DIR or Path(home, "evomerge", "loops")
    return str(Path(folder, version.hexdigest()[:16]))


_F32, _I16, _I32 = ir.FloatType(), ir.IntType(16), ir.IntType(32)


@intrinsic  # type: ignore[untyped-decorator]
def widen(context: Any, value: Any) -> Any:
    """Return a stored weight as float32."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        (bits,) = arguments
        if value == types.uint16:
            high = builder.shl(builder.zext(bits, _I32), ir.Constant(_I32, 16))
            return builder.bitcast(high, _F32)
        if value == types.int16:
            return builder.fpext(builder.bitcast(bits, ir.HalfType()), _F32)
        return builder.fptrunc(bits, _F32) if value == types.float64 else bits

    return types.float32(value), generate


@intrinsic  # type: ignore[untyped-decorator]
def narrow(context: Any, value: Any, like: Any) -> Any:
    """Return a float32 rounded to the dtype whose bits the array `like` holds."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        number = arguments[0]
        if like.dtype == types.uint16:
            bits = builder.bitcast(number, _I32)
            sixteen, one = ir.Constant(_I32, 16), ir.Constant(_I32, 1)
            odd = builder.and_(builder.lshr(bits, sixteen), one)
            half = builder.add(builder.add(bits, ir.Constant(_I32, 0x7FFF)), odd)
            nan = builder.fcmp_unordered("uno", number, number)
            rounded = builder.select(nan, ir.Constant(_I32, 0x7FC0), builder.lshr(half, sixteen))
            return builder.trunc(rounded, _I16)
        if like.dtype == types.int16:
            return builder.bitcast(builder.fptrunc(number, ir.HalfType()), _I16)
        return builder.fpext(number, ir.DoubleType()) if like.dtype == types.float64 else number

    return like.dtype(types.float32, like), generate


@intrinsic  # type: ignore[untyped-decorator]
def fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a b + c, rounded once."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        function = ir.FunctionType(_F32, [_F32] * 3)
        declared = builder.module.declare_intrinsic("llvm.fma", [_F32], function)
        return builder.call(declared, arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


@compiled
def dot(left: Array, right: Array, lanes: Array) -> float:
    """Return the dot product of two float32 arrays of one length, as float64.

    `lanes` is a float32 buffer of `LANES` elements, for the partial sums.
    """
    lanes[:] = np.float32(0)
    whole = len(left) // LANES * LANES
    for at in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] = fma(left[at + lane], right[at + lane], lanes[lane])
    for i in range(whole, len(left)):
        lanes[i - whole] = fma(left[i], right[i], lanes[i - whole])
    total = 0.0
    for lane in range(LANES):
        total += np.float64(lanes[lane])
    return total
