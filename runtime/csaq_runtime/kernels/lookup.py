"""Codes that index a table of 16 int8 values: one byte shuffle per 64 weights."""

from typing import Any

from llvmlite import ir

from csaq_runtime.simd.integer_dot import BIAS
from csaq_runtime.simd.target import Target
from csaq_runtime.simd.vector import BYTES_64, call_llvm, constant, join, parts, zeros

IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""`kvalues_iq4nl` of ggml-common.h: IQ4_NL and IQ4_XS."""

MXFP4_VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""`kvalues_mxfp4` of ggml-common.h: FP4 (E2M1) values, doubled."""


def lookup_biased(b: Any, target: Target, indices: Any, values: tuple[int, ...]) -> Any:
    """`values[index] + 128` for 64 indices 0 … 15: codes for `dot_biased`."""
    return lookup(b, target, indices, [value + BIAS for value in values])


def lookup(b: Any, target: Target, indices: Any, table: list[int]) -> Any:
    """`table[index]` for 64 indices 0 … 15, 16 values of 0 … 255."""
    if {"avx512f", "avx512bw"} <= target.features:
        return _shuffle(b, "llvm.x86.avx512.pshuf.b.512", table, indices)
    if target.has_avx2:
        return _by_parts(b, 2, "llvm.x86.avx2.pshuf.b", table, indices)
    if "ssse3" in target.features:
        return _by_parts(b, 4, "llvm.x86.ssse3.pshuf.b.128", table, indices)
    if target.is_arm:
        return _by_parts(b, 4, "llvm.aarch64.neon.tbl1.v16i8", table, indices)
    return _compare(b, table, indices)


def _shuffle(b: Any, name: str, table: list[int], indices: Any) -> Any:
    repeated = ir.Constant(indices.type, table * (indices.type.count // len(table)))
    return call_llvm(b, name, indices.type, [repeated, indices])


def _by_parts(b: Any, n_part: int, name: str, table: list[int], indices: Any) -> Any:
    return join(b, [_shuffle(b, name, table, piece) for piece in parts(b, indices, n_part)])


def _compare(b: Any, table: list[int], indices: Any) -> Any:
    result = zeros(BYTES_64)
    for index, value in enumerate(table):
        hit = b.icmp_unsigned("==", indices, constant(BYTES_64, index))
        result = b.select(hit, constant(BYTES_64, value), result)
    return result
