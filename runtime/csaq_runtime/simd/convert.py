"""float16 and bfloat16 ↔ float32 on LLVM vectors, exact on CPUs without the instructions.

Works on vectors of any length; a half is handled as int16 bits where the CPU
has no conversion, because LLVM would emit a library call that the JIT cannot
resolve.
"""

from typing import Any

from llvmlite import ir

from csaq_runtime.simd.target import Target
from csaq_runtime.simd.vector import F32, HALF, I16, I32, constant


def half_to_float(b: Any, target: Target, bits: Any) -> Any:
    """float16 bits (vector of i16) → float32."""
    n = bits.type.count
    if target.has_half_conversion:
        return b.fpext(b.bitcast(bits, ir.VectorType(HALF, n)), ir.VectorType(F32, n))
    wide, floats = ir.VectorType(I32, n), ir.VectorType(F32, n)
    word = b.zext(bits, wide)
    magnitude = b.shl(b.and_(word, constant(wide, 0x7FFF)), constant(wide, 13))
    # Rebias the exponent by a multiplication: it also normalises subnormals.
    value = b.bitcast(b.fmul(b.bitcast(magnitude, floats), constant(floats, 2.0**112)), wide)
    special = b.icmp_unsigned(">=", magnitude, constant(wide, 0x7C00 << 13))
    value = b.select(special, b.or_(magnitude, constant(wide, 0x7F800000)), value)
    sign = b.shl(b.and_(word, constant(wide, 0x8000)), constant(wide, 16))
    return b.bitcast(b.or_(value, sign), floats)


def float_to_half(b: Any, target: Target, value: Any) -> Any:
    """float32 → float16 bits (vector of i16), rounded to nearest even."""
    n = value.type.count
    if target.has_half_conversion:
        return b.bitcast(b.fptrunc(value, ir.VectorType(HALF, n)), ir.VectorType(I16, n))
    wide, floats = ir.VectorType(I32, n), ir.VectorType(F32, n)
    word = b.bitcast(value, wide)
    magnitude = b.and_(word, constant(wide, 0x7FFFFFFF))
    half = b.select(
        b.icmp_unsigned("<", magnitude, constant(wide, 0x38800000)),
        _small_to_half(b, b.bitcast(magnitude, floats), wide),
        _normal_to_half(b, magnitude, wide),
    )
    # From 65520 on: infinity; NaN keeps a set mantissa bit.
    big = b.icmp_unsigned(">=", magnitude, constant(wide, 0x477FF000))
    nan = b.icmp_unsigned(">", magnitude, constant(wide, 0x7F800000))
    half = b.select(big, constant(wide, 0x7C00), half)
    half = b.select(nan, constant(wide, 0x7E00), half)
    sign = b.and_(b.lshr(word, constant(wide, 16)), constant(wide, 0x8000))
    return b.trunc(b.or_(half, sign), ir.VectorType(I16, n))


def _normal_to_half(b: Any, magnitude: Any, wide: Any) -> Any:
    odd = b.and_(b.lshr(magnitude, constant(wide, 13)), constant(wide, 1))
    rounded = b.add(b.add(magnitude, constant(wide, 0xFFF - (112 << 23))), odd)
    return b.lshr(rounded, constant(wide, 13))


def _small_to_half(b: Any, magnitude: Any, wide: Any) -> Any:
    # Adding 0.5 moves a half's last subnormal bit to a float's last mantissa bit.
    moved = b.fadd(magnitude, constant(magnitude.type, 0.5))
    return b.sub(b.bitcast(moved, wide), constant(wide, 0x3F000000))


def bfloat_to_float(b: Any, bits: Any) -> Any:
    """bfloat16 bits (vector of i16) → float32."""
    n = bits.type.count
    wide = ir.VectorType(I32, n)
    word = b.shl(b.zext(bits, wide), constant(wide, 16))
    return b.bitcast(word, ir.VectorType(F32, n))


def round_to_half(b: Any, target: Target, value: Any) -> Any:
    """float32 → the nearest float16, as float32."""
    return half_to_float(b, target, float_to_half(b, target, value))
