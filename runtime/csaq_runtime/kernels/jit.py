"""How the parts of a step are compiled: by Numba, without anything that needs Python at run time."""

import numba

part = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Decorator of functions that jitted code calls. Division by zero gives inf or 0, no exception."""
