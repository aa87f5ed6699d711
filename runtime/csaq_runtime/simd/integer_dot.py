"""Four-byte dot products into int32, with the best instruction of the target.

The accumulators are 16 int32; lane i receives bytes 4i … 4i+3. All variants
give identical integers; which one is taken depends on `Target` only:
AVX-512 VNNI, AVX-VNNI/AVX-512VL on 32 bytes, AVX2 `pmaddubsw`, NEON `usdot` or
`sdot`, or int16 multiplications.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from csaq_runtime.simd.target import Target
from csaq_runtime.simd.vector import (
    BYTES_64,
    I16,
    I16_X32,
    I32_X16,
    as_i32,
    call_llvm,
    constant,
    join,
    parts,
    zeros,
)

BIAS = 128
"""Signed codes are stored plus this (`code ^ 0x80`), see `dot_biased`."""


def dot_unsigned(b: Any, target: Target, total: Any, codes: Any, x: Any) -> Any:
    """`total += Σ₄ codes · x` for uint8 codes ≤ 127 and int8 x ≥ -127."""
    if target.has_vnni_512:
        arguments = [total, as_i32(b, codes), as_i32(b, x)]
        return call_llvm(b, "llvm.x86.avx512.vpdpbusd.512", I32_X16, arguments)
    if target.has_vnni_256:
        return _by_parts(b, 2, _vnni_256, total, codes, x)
    if target.has_avx2:
        return _by_parts(b, 2, _avx2_unsigned, total, codes, x)
    if target.is_arm and "i8mm" in target.features:
        return _by_parts(b, 4, _neon("usdot"), total, codes, x)
    if target.is_arm and "dotprod" in target.features:
        return _by_parts(b, 4, _neon("sdot"), total, codes, x)
    return _as_pairs(b, target, total, codes, x, b.lshr)


def dot_biased(b: Any, target: Target, total: Any, biased: Any, x: Any) -> Any:
    """`total += Σ₄ code · x` for int8 codes stored as `biased = code ^ 0x80`.

    Targets with a mixed-sign dot product multiply the biased bytes as they are,
    so there `total` must start at `-128 · Σ x` (`biased_start`); the others
    take the bias off first and start at zero.
    """
    if target.has_mixed_sign_dot:
        return dot_unsigned(b, target, total, biased, x)
    codes = b.xor(biased, constant(BYTES_64, -BIAS))
    if target.is_arm and "dotprod" in target.features:
        return _by_parts(b, 4, _neon("sdot"), total, codes, x)
    if target.has_avx2:
        return _by_parts(b, 2, _avx2_signed, total, codes, x)
    return _as_pairs(b, target, total, codes, x, b.ashr)


def biased_start(target: Target, correction: Callable[[], Any]) -> Any:
    """What a `dot_biased` accumulator starts at: `correction()` = -128 · Σ x, or zero."""
    return correction() if target.has_mixed_sign_dot else zeros(I32_X16)


def dot_pairs(b: Any, target: Target, total: Any, x: Any, y: Any) -> Any:
    """`total += Σ₂ x · y` over int16 pairs; x, y: 16 int32, each two int16."""
    if target.has_vnni_512:
        return call_llvm(b, "llvm.x86.avx512.vpdpwssd.512", I32_X16, [total, x, y])
    if target.has_avx2:
        return _by_parts(b, 2, _avx2_pairs, total, b.bitcast(x, I16_X32), b.bitcast(y, I16_X32))
    if "sse2" in target.features:
        return _by_parts(b, 4, _sse2_pairs, total, b.bitcast(x, I16_X32), b.bitcast(y, I16_X32))
    low = b.mul(_low_half(b, x), _low_half(b, y))
    high = b.mul(b.ashr(x, constant(I32_X16, 16)), b.ashr(y, constant(I32_X16, 16)))
    return b.add(total, b.add(low, high))


_Step = Callable[[Any, Any, Any, Any], Any]
_Shift = Callable[[Any, Any], Any]


def _by_parts(b: Any, n_part: int, step: _Step, total: Any, codes: Any, x: Any) -> Any:
    """Apply a narrower instruction to each register's share and join the results."""
    pieces = zip(*(parts(b, vector, n_part) for vector in (total, codes, x)), strict=True)
    return join(b, [step(b, *piece) for piece in pieces])


def _vnni_256(b: Any, total: Any, codes: Any, x: Any) -> Any:
    arguments = [total, b.bitcast(codes, total.type), b.bitcast(x, total.type)]
    return call_llvm(b, "llvm.x86.avx512.vpdpbusd.256", total.type, arguments)


def _avx2_unsigned(b: Any, total: Any, codes: Any, x: Any) -> Any:
    # pmaddubsw saturates int16 only beyond 2 · 127 · 128: codes ≤ 127 are safe.
    pairs = call_llvm(b, "llvm.x86.avx2.pmadd.ub.sw", ir.VectorType(I16, 16), [codes, x])
    return _avx2_pairs(b, total, pairs, constant(ir.VectorType(I16, 16), 1))


def _avx2_signed(b: Any, total: Any, codes: Any, x: Any) -> Any:
    # |code| · (x with code's sign): |code| ≤ 128 and |x| ≤ 127 keep pairs within int16.
    magnitude = call_llvm(b, "llvm.abs.v32i8", codes.type, [codes, ir.Constant(ir.IntType(1), 0)])
    signed = call_llvm(b, "llvm.x86.avx2.psign.b", codes.type, [x, codes])
    return _avx2_unsigned(b, total, magnitude, signed)


def _avx2_pairs(b: Any, total: Any, x: Any, y: Any) -> Any:
    return b.add(total, call_llvm(b, "llvm.x86.avx2.pmadd.wd", total.type, [x, y]))


def _neon(instruction: str) -> _Step:
    def step(b: Any, total: Any, codes: Any, x: Any) -> Any:
        name = f"llvm.aarch64.neon.{instruction}.v4i32.v16i8"
        return call_llvm(b, name, total.type, [total, codes, x])

    return step


def _sse2_pairs(b: Any, total: Any, x: Any, y: Any) -> Any:
    return b.add(total, call_llvm(b, "llvm.x86.sse2.pmadd.wd", total.type, [x, y]))


def _low_half(b: Any, vector: Any) -> Any:
    """Bits 0 … 15 of every int32, sign-extended."""
    sixteen = constant(I32_X16, 16)
    return b.ashr(b.shl(vector, sixteen), sixteen)


def _as_pairs(b: Any, target: Target, total: Any, codes: Any, x: Any, shift: _Shift) -> Any:
    """Four-byte dot products as two int16 ones; `shift` extends codes (lshr: as unsigned)."""
    eight = constant(I16_X32, 8)
    codes, x = b.bitcast(codes, I16_X32), b.bitcast(x, I16_X32)
    even = shift(b.shl(codes, eight), eight), b.ashr(b.shl(x, eight), eight)
    odd = shift(codes, eight), b.ashr(x, eight)
    for code_half, x_half in (even, odd):
        total = dot_pairs(b, target, total, as_i32(b, code_half), as_i32(b, x_half))
    return total
