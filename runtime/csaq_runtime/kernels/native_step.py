"""The compiled step as a Python callable that releases the GIL.

Numba is only imported when the object cache of `compile` has no code yet.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from importlib.metadata import version

from csaq_runtime.kernels.compile import load_module
from csaq_runtime.simd.target import host_target

ENTRY = "csaq_step"


def _emit() -> str:
    from csaq_runtime.kernels.forward import emit_step

    return emit_step(ENTRY)


@cache
def native_step() -> Callable[[int, int], None]:
    """`run(address of a STEP record, thread number)`; see `forward.run_step`."""
    address = load_module(f"step-numba-{version('numba')}", host_target(), _emit)(ENTRY)
    function = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_int64] * 4)(address)

    def run(step_address: int, thread: int) -> None:
        # Numba's convention: where to put the result, where to put an exception (never used).
        slots = (ctypes.c_int64 * 2)()
        place = ctypes.addressof(slots)
        function(place, place + 8, step_address, thread)

    return run
