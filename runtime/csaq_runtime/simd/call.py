"""Numba intrinsics that call machine code by address, as a matter of one `call` instruction.

The addresses come from `kernels.dispatch`; the functions take int64 only and
never raise. Numba functions that use these can be cached on disk, because the
address is an argument and not part of the code.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from csaq_runtime.simd.vector import I64


def _emit_call(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
    address, *values = arguments
    signature = ir.FunctionType(ir.VoidType(), [I64] * len(values))
    builder.call(builder.inttoptr(address, signature.as_pointer()), values)
    return context.get_dummy_value()


def _signature(n_argument: int) -> Any:
    return types.void(*[types.int64] * (1 + n_argument))


@intrinsic
def call_matmul(
    _typing: Any,
    address: Any,
    w: Any,
    x_packed: Any,
    y: Any,
    y_stride: Any,
    n_col: Any,
    n_token: Any,
    group_start: Any,
    group_end: Any,
) -> Any:
    """`KernelEntry.matmul` at `address`: y[token, 16 g … 16 g + 16] for every g in the range.

    w, x_packed, y: addresses; y_stride: bytes between tokens of y.
    """
    return _signature(8), _emit_call


@intrinsic
def call_quantize(
    _typing: Any, address: Any, x: Any, x_stride: Any, n_col: Any, n_token: Any, out: Any
) -> Any:
    """`quantize_<kind>` at `address`: float32 rows, `x_stride` bytes apart, packed into `out`."""
    return _signature(5), _emit_call
