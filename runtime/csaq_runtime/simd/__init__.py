"""A small SIMD layer over LLVM: vectors, integer dot products, conversions, prefetch.

Every function appends to an llvmlite builder and returns the new value, so the
layer serves generated kernels (`kernels.module`) and Numba intrinsics alike.
Instructions are chosen by `target` when code is generated.
"""
