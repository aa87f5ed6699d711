"""AVX2: products of codes and activations added up in int16 for as long as they fit.

`pmaddubsw` gives int16 sums of two products each. Adding those up before they are widened
to int32 saves a `pmaddwd` and an addition per instruction, and the one `pmaddwd` at the end
multiplies by a scale on the way. Nothing saturates or wraps: see `longest_chain`.
"""

from typing import Any

from llvmlite import ir

from csaq_runtime.simd.vector import BYTES_32, I16_X16, I32_X8, call_llvm, constant

LARGEST_X = 127
"""Activation codes are within ±127."""


def longest_chain(largest_code: int) -> int:
    """How many `pmaddubsw` of codes 0 … `largest_code` sum up to at most 32767 in magnitude."""
    return 32767 // (2 * largest_code * LARGEST_X)


def multiply_bytes(b: Any, codes: Any, x: Any) -> Any:
    """Sums of two products: 32 uint8 codes, 32 int8 x → 16 int16."""
    return call_llvm(b, "llvm.x86.avx2.pmadd.ub.sw", I16_X16, [codes, b.bitcast(x, BYTES_32)])


def signed_codes(b: Any, biased: Any) -> tuple[Any, Any]:
    """32 int8 codes stored plus 128 → (codes, their magnitudes) as `multiply_signed` takes them."""
    codes = b.xor(biased, constant(BYTES_32, -128))
    sign_kept = ir.Constant(ir.IntType(1), 0)
    return codes, call_llvm(b, "llvm.abs.v32i8", BYTES_32, [codes, sign_kept])


def multiply_signed(b: Any, codes: tuple[Any, Any], x: Any) -> Any:
    """The same for `signed_codes`, as |code| · (x with code's sign) ≤ 128 · 127."""
    signs, magnitudes = codes
    signed = call_llvm(b, "llvm.x86.avx2.psign.b", BYTES_32, [b.bitcast(x, BYTES_32), signs])
    return multiply_bytes(b, magnitudes, signed)


def widen(b: Any, sums: Any, factors: Any) -> Any:
    """16 int16 sums times 16 int16 factors, added in pairs → 8 int32."""
    return call_llvm(b, "llvm.x86.avx2.pmadd.wd", I32_X8, [sums, factors])


def pin(b: Any, values: list[Any]) -> list[Any]:
    """The same vectors or addresses, computed at this point of the program and held in registers.

    LLVM would otherwise compute all low halves first and keep every activation in memory
    for the high ones, and likewise the address of every one.
    """
    types = [value.type for value in values]
    kinds = ["=x" if isinstance(kind, ir.VectorType) else "=r" for kind in types]
    constraints = ",".join([*kinds, *map(str, range(len(types)))])
    result = types[0] if len(types) == 1 else ir.LiteralStructType(types)
    signature = ir.FunctionType(result, types)
    value = b.asm(signature, "", f"{constraints},~{{memory}}", values, True)
    if len(types) == 1:
        return [value]
    return [b.extract_value(value, index) for index in range(len(types))]
