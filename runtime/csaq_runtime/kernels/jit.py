"""How the parts of a step are compiled: by Numba, with nothing that needs Python at run time."""

from collections.abc import Callable
from typing import Any, TypeVar

import llvmlite.binding as llvm
import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def part(function: Function) -> Function:
    """Compile a function that jitted code calls; dividing by zero gives inf, no exception."""
    compiled: Function = numba.njit(
        error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True
    )(function)
    return compiled


def emit(function: Any, n_argument: int, entry: str) -> str:
    """LLVM IR of a compiled part of int64 arguments, under the name `entry`.

    Numba's convention: `entry(result*, error**, arguments …)`.
    """
    signature = (numba.int64,) * n_argument
    function.compile(signature)
    name: str = function.overloads[signature].fndesc.llvm_func_name
    text: str = function.inspect_llvm(signature)
    lines = text.replace(name, entry).splitlines()
    # Arrays are views of addresses, which nobody counts references to.
    kept = [line for line in lines if not _counts_references(line)]
    module = llvm.parse_assembly("\n".join(kept))
    for inner in module.functions:
        # So that what is inlined or not called at all goes: it may call Numba's run time.
        if not inner.is_declaration and inner.name != entry:
            inner.linkage = llvm.Linkage.internal
    return str(module)


def _counts_references(line: str) -> bool:
    return "call void @NRT_incref(" in line or "call void @NRT_decref(" in line
