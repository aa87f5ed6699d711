"""Four-byte dot products into int32, with the best instruction of the target.

The accumulators are 16 int32; lane i receives bytes 4i … 4i+3. All variants
give identical integers; which one is taken depends on `Target` only:
AVX-512 VNNI, AVX-VNNI/AVX-512VL on 32 bytes, AVX2 `pmaddubsw`, NEON `usdot` or
`sdot`, or plain widening multiplications.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from csaq_runtime.simd.target import Target
from csaq_runtime.simd.vector import (
    BYTES_64,
    I16,
    I16_X32,
    I32,
    I32_X16,
    as_i32,
    call_llvm,
    constant,
    join,
    parts,
    shuffle,
    undefined,
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
    return _widening(b, total, b.zext(codes, _WIDE), x)


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
    return _widening(b, total, b.sext(codes, _WIDE), x)


def biased_start(target: Target, correction: Callable[[], Any]) -> Any:
    """What a `dot_biased` accumulator starts at: `correction()` = -128 · Σ x, or zero."""
    return correction() if target.has_mixed_sign_dot else zeros(I32_X16)


def dot_pairs(b: Any, target: Target, total: Any, x: Any, y: Any) -> Any:
    """`total += Σ₂ x · y` over int16 pairs; x, y: 16 int32, each two int16."""
    if target.has_vnni_512:
        return call_llvm(b, "llvm.x86.avx512.vpdpwssd.512", I32_X16, [total, x, y])
    if target.has_avx2:
        return _by_parts(b, 2, _avx2_pairs, total, b.bitcast(x, I16_X32), b.bitcast(y, I16_X32))
    wide = ir.VectorType(I32, 32)
    product = b.mul(b.sext(b.bitcast(x, I16_X32), wide), b.sext(b.bitcast(y, I16_X32), wide))
    for lane in range(2):
        total = b.add(total, _every(b, product, lane, 2))
    return total


_WIDE = ir.VectorType(I32, 64)
_Step = Callable[[Any, Any, Any, Any], Any]


def _by_parts(b: Any, n_part: int, step: _Step, total: Any, codes: Any, x: Any) -> Any:
    """Apply a narrower instruction to each register's share and join the results."""
    pieces = zip(*(parts(b, vector, n_part) for vector in (total, codes, x)), strict=True)
    return join(b, [step(b, *piece) for piece in pieces])


def _every(b: Any, vector: Any, first: int, stride: int) -> Any:
    lanes = list(range(first, vector.type.count, stride))
    return shuffle(b, vector, undefined(vector.type), lanes)


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


def _widening(b: Any, total: Any, codes: Any, x: Any) -> Any:
    product = b.mul(codes, b.sext(x, _WIDE))
    for lane in range(4):
        total = b.add(total, _every(b, product, lane, 4))
    return total
