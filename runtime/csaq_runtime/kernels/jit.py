"""How the parts of a step are compiled: by Numba, with nothing that needs Python at run time."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def part(function: Function) -> Function:
    """Compile a function that jitted code calls; dividing by zero gives inf, no exception."""
    compiled: Function = numba.njit(
        error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True
    )(function)
    return compiled
