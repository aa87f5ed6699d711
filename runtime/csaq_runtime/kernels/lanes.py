"""Sixteen float32 lanes as a Numba type, so that jitted Python can hold and combine vectors.

Thin wrappers around `simd.vector`: each intrinsic emits one LLVM operation, legalized to the
instruction set Numba compiles for. Addresses are int64 bytes and are not checked.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from csaq_runtime.simd import convert, vector
from csaq_runtime.simd.target import numba_target


class LanesType(types.Type):  # type: ignore[misc]
    """Numba's name for a vector of 16 float32 values held in registers."""

    def __init__(self) -> None:
        super().__init__(name="lanes")


LANES = LanesType()
N_LANE = 16


@register_model(LanesType)
class LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    """Tells Numba that `LanesType` values are LLVM vectors."""

    def __init__(self, manager: Any, lanes_type: LanesType) -> None:
        super().__init__(manager, lanes_type, vector.F32_X16)


def operation(result: Any, arguments: list[Any], emit: Callable[..., Any]) -> Any:
    """A Numba intrinsic of fixed types; `emit(builder, target, *values)` appends its code."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value = emit(builder, numba_target(context), *values)
        return context.get_dummy_value() if result is types.void else value

    signature = result(*arguments)
    typings: dict[int, Callable[..., Any]] = {
        0: lambda context: (signature, generate),
        1: lambda context, a: (signature, generate),
        2: lambda context, a, b: (signature, generate),
        3: lambda context, a, b, c: (signature, generate),
        8: lambda context, a, b, c, d, e, f, g, h: (signature, generate),
    }
    return intrinsic(typings[len(arguments)])


ADDRESS, SCALAR, NOTHING = types.int64, types.float32, types.void


def _load_half(b: Any, target: Any, address: Any) -> Any:
    return convert.half_to_float(b, target, vector.load(b, address, vector.I16_X16))


def _store_half(b: Any, target: Any, address: Any, value: Any) -> None:
    vector.store(b, convert.float_to_half(b, target, value), address)


def _store_half_scalar(b: Any, target: Any, address: Any, value: Any) -> None:
    half = convert.float_to_half(b, target, vector.splat(b, value, 4))
    vector.store(b, b.extract_element(half, ir.Constant(vector.I32, 0)), address)


def _store_code(b: Any, target: Any, address: Any, value: Any) -> None:
    """A float32 scalar, rounded to int8."""
    rounded = vector.call_llvm(b, "llvm.rint.f32", vector.F32, [value])
    vector.store(b, b.fptosi(rounded, vector.I8), address)


def _store_codes(b: Any, target: Any, address: Any, value: Any) -> None:
    """Sixteen float32, rounded to int8."""
    rounded = vector.call_llvm(b, "llvm.rint.v16f32", vector.F32_X16, [value])
    codes = b.trunc(b.fptosi(rounded, vector.I32_X16), vector.BYTES_16)
    vector.store(b, codes, address)


def _larger(b: Any, x: Any, y: Any) -> Any:
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def _reduce(combine: Callable[..., Any]) -> Callable[..., Any]:
    """Combine the lanes pairwise: halves, quarters, … always in the same order."""

    def emit(b: Any, target: Any, value: Any) -> Any:
        while value.type.count > 2:
            value = combine(b, *vector.parts(b, value, 2))
        first, second = (ir.Constant(vector.I32, lane) for lane in (0, 1))
        return combine(b, b.extract_element(value, first), b.extract_element(value, second))

    return emit


EXP_COEFFICIENTS = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)


def _exp(b: Any, target: Any, x: Any) -> Any:
    """e^x to 2e-7 relative for -87 ≤ x ≤ 88, clamped outside; polynomial of Cephes' `expf`."""

    def lanes(value: float) -> Any:
        return vector.constant(vector.F32_X16, value)

    x = b.select(b.fcmp_ordered("<", x, lanes(-87.0)), lanes(-87.0), x)
    x = b.select(b.fcmp_ordered(">", x, lanes(88.0)), lanes(88.0), x)
    scaled = b.fmul(x, lanes(1.4426950216293335))
    power = vector.call_llvm(b, "llvm.rint.v16f32", vector.F32_X16, [scaled])
    rest = vector.fused_multiply_add(b, power, lanes(-0.693145751953125), x)
    rest = vector.fused_multiply_add(b, power, lanes(-1.4286068203094172e-06), rest)
    total = lanes(0.0)
    for coefficient in EXP_COEFFICIENTS:
        total = vector.fused_multiply_add(b, total, rest, lanes(_single(coefficient)))
    series = vector.fused_multiply_add(b, b.fmul(rest, rest), total, b.fadd(rest, lanes(1.0)))
    exponent = b.add(b.fptosi(power, vector.I32_X16), vector.constant(vector.I32_X16, 127))
    shifted = b.shl(exponent, vector.constant(vector.I32_X16, 23))
    return b.fmul(series, b.bitcast(shifted, vector.F32_X16))


def _single(value: float) -> float:
    """`value` rounded to float32, as LLVM demands of its float constants."""
    return float(np.float32(value))


load = operation(LANES, [ADDRESS], lambda b, t, a: vector.load(b, a, vector.F32_X16))
store = operation(NOTHING, [ADDRESS, LANES], lambda b, t, a, x: vector.store(b, x, a))
load_half = operation(LANES, [ADDRESS], _load_half)
store_half = operation(NOTHING, [ADDRESS, LANES], _store_half)
load_splat = operation(LANES, [ADDRESS], lambda b, t, a: vector.splat_load(b, a, vector.F32))
load_scalar = operation(SCALAR, [ADDRESS], lambda b, t, a: vector.load(b, a, vector.F32))
store_scalar = operation(NOTHING, [ADDRESS, SCALAR], lambda b, t, a, x: vector.store(b, x, a))
store_half_scalar = operation(NOTHING, [ADDRESS, SCALAR], _store_half_scalar)
store_code = operation(NOTHING, [ADDRESS, SCALAR], _store_code)
store_codes = operation(NOTHING, [ADDRESS, LANES], _store_codes)
magnitude = operation(
    LANES, [LANES], lambda b, t, x: vector.call_llvm(b, "llvm.fabs.v16f32", vector.F32_X16, [x])
)
splat = operation(LANES, [SCALAR], lambda b, t, x: vector.splat(b, x))
zero = operation(LANES, [], lambda b, t: vector.zeros(vector.F32_X16))
add = operation(LANES, [LANES, LANES], lambda b, t, x, y: b.fadd(x, y))
subtract = operation(LANES, [LANES, LANES], lambda b, t, x, y: b.fsub(x, y))
multiply = operation(LANES, [LANES, LANES], lambda b, t, x, y: b.fmul(x, y))
divide = operation(LANES, [LANES, LANES], lambda b, t, x, y: b.fdiv(x, y))
negate = operation(LANES, [LANES], lambda b, t, x: b.fneg(x))
larger = operation(LANES, [LANES, LANES], lambda b, t, x, y: _larger(b, x, y))
multiply_add = operation(
    LANES, [LANES, LANES, LANES], lambda b, t, x, y, z: vector.fused_multiply_add(b, x, y, z)
)
square_root = operation(
    SCALAR, [SCALAR], lambda b, t, x: vector.call_llvm(b, "llvm.sqrt.f32", vector.F32, [x])
)
exponential = operation(LANES, [LANES], _exp)
total = operation(SCALAR, [LANES], _reduce(lambda b, x, y: b.fadd(x, y)))
largest = operation(SCALAR, [LANES], _reduce(_larger))
