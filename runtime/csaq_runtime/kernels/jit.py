"""How the parts of a step are compiled: by Numba, with nothing that needs Python at run time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import llvmlite.binding as llvm
import numba
import numpy as np
from numba.core import event
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.cpu import CPUContext

Function = TypeVar("Function", bound=Callable[..., Any])

ZERO: Any = np.int64(0)
"""For calls: to Numba a Python 0 is a type of its own, and what it is passed to compiles again."""


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
    with _without_machine_code(), global_compiler_lock:
        function.compile(signature)
        whole = function.overloads[signature]
        whole.library._ensure_finalized()
        name: str = whole.fndesc.llvm_func_name
        text: str = whole.library.get_llvm_str()
    lines = text.replace(name, entry).splitlines()
    # Arrays are views of addresses, which nobody counts references to.
    kept = [line for line in lines if not _counts_references(line)]
    module = llvm.parse_assembly("\n".join(kept))
    for inner in module.functions:
        # So that what is inlined or not called at all goes: it may call Numba's run time.
        if not inner.is_declaration and inner.name != entry:
            inner.linkage = llvm.Linkage.internal
    return str(module)


@contextmanager
def _without_machine_code() -> Iterator[None]:
    """Spare the machine code of each part, which nobody calls, and reports: a third of the time.

    Numba wants a built-in function for each; a method of a list of its own is one. These are its
    inner parts: a version that has others compiles all, and is merely slower.
    """
    replaced: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
        (CPUContext, "get_executable", lambda *_: [].append),
        (JITCodeLibrary, "_finalize_specific", lambda _: None),
        (event, "broadcast", lambda _: None),
    )
    if not all(hasattr(owner, name) for owner, name, _ in replaced):
        yield
        return
    kept = [getattr(owner, name) for owner, name, _ in replaced]
    try:
        for owner, name, function in replaced:
            setattr(owner, name, function)
        yield
    finally:
        for (owner, name, _), function in zip(replaced, kept, strict=True):
            setattr(owner, name, function)


def _counts_references(line: str) -> bool:
    return "call void @NRT_incref(" in line or "call void @NRT_decref(" in line
