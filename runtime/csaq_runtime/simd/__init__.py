"""A small SIMD layer over LLVM: vectors, integer dot products, conversions, atomics.

`vector`, `integer_dot`, `convert`, `reduce`, `math`, `prefetch` append to an
llvmlite builder and serve both generated kernels and Numba intrinsics;
`numba_vector`, `atomic` and `call` are the Numba intrinsics. Instructions are
chosen by `target` when code is generated.
"""
