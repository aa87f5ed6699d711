"""Calls from jitted code to kernels whose addresses stand in memory (C ABI, int64 arguments)."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
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
