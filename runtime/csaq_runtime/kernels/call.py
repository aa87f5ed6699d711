"""Calls from jitted code to kernels whose addresses stand in memory (C ABI, int64 arguments)."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from csaq_runtime.simd.vector import I64


def _emit_call(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    address, *arguments = values
    function_type = ir.FunctionType(ir.VoidType(), [I64] * len(arguments))
    builder.call(builder.inttoptr(address, function_type.as_pointer()), arguments)
    return context.get_dummy_value()


def _signature(n_argument: int) -> Any:
    return types.void(*[types.int64] * (n_argument + 1))


@intrinsic
def call_quantize(
    context: Any, function: Any, x: Any, x_stride: Any, n_col: Any, n_token: Any, out: Any
) -> tuple[Any, Callable[..., Any]]:
    """Pack rows of float32 activations: see `weights.py` for the kernel's contract."""
    return _signature(5), _emit_call


@intrinsic
def call_matmul(
    context: Any,
    function: Any,
    weight: Any,
    x: Any,
    y: Any,
    y_stride: Any,
    n_col: Any,
    n_token: Any,
    group_start: Any,
    group_end: Any,
) -> tuple[Any, Callable[..., Any]]:
    """Multiply packed activations by 16-row groups: see `weights.py` for the contract."""
    return _signature(8), _emit_call


def _emit_part_call(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    """Numba's convention: where to put the result, where to put an exception; returns a status."""
    address, *arguments = values
    pointers = [cgutils.alloca_once(builder, kind) for kind in (I64, cgutils.voidptr_t)]
    kinds = [*(pointer.type for pointer in pointers), *[I64] * len(arguments)]
    function = builder.inttoptr(address, ir.FunctionType(ir.IntType(32), kinds).as_pointer())
    status = builder.call(function, [*pointers, *arguments])
    with cgutils.if_unlikely(builder, cgutils.is_not_null(builder, status)):
        # Only where arrays' bounds are checked.
        context.call_conv.return_user_exc(builder, IndexError, ("the step left its arrays",))
    return builder.load(pointers[0])


@intrinsic
def call_attention(
    context: Any,
    function: Any,
    step: Any,
    thread: Any,
    layer: Any,
    first: Any,
    meeting: Any,
) -> tuple[Any, Callable[..., Any]]:
    """Attend: see `attention_layer.attend_layer`."""
    return types.int64(*[types.int64] * 6), _emit_part_call
