"""The compiled step as a Python callable that releases the GIL, and the attention it calls.

They are two modules, so that two processes compile them. Numba is only imported when the object
cache of `compile` has no code yet.
"""

import ctypes
import hashlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from csaq_runtime.kernels.compile import load_module
from csaq_runtime.simd.target import host_target

ENTRY = "csaq_part"


def step_names() -> list[str]:
    """Names of the step's modules in the object cache; they differ between Numba's versions."""
    return [f"{part}-numba-{_numba_version()}" for part in ("step", "attention")]


@cache
def _numba_version() -> str:
    """Digest of the file in which Numba states it: `importlib.metadata` takes longer to import."""
    spec = find_spec("numba")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'numba'", name="numba")
    stated = Path(spec.origin).with_name("_version.py").read_bytes()
    return hashlib.sha256(stated).hexdigest()[:8]


def _emit_step() -> str:
    from csaq_runtime.kernels.serve import emit_serve

    return emit_serve(ENTRY)


def _emit_attention() -> str:
    from csaq_runtime.kernels.attention_layer import emit_attention

    return emit_attention(ENTRY)


@cache
def native_attention() -> int:
    """Address of `attention_layer.attend_layer`."""
    return load_module(step_names()[1], host_target(), _emit_attention)(ENTRY)


@cache
def native_serve() -> Callable[[int, int, int], int]:
    """`serve(address of a mailbox, thread, seen)`; see `kernels/serve.py`."""
    address = load_module(step_names()[0], host_target(), _emit_step)(ENTRY)
    function = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_int64] * 5)(address)

    def serve(mailbox: int, thread: int, seen: int) -> int:
        # Numba's convention: where to put the result, where to put an exception (not read).
        slots = (ctypes.c_int64 * 2)()
        place = ctypes.addressof(slots)
        # Only a step compiled with NUMBA_BOUNDSCHECK=1 can fail.
        if function(place, place + 8, mailbox, thread, seen):
            raise IndexError("the step left its arrays")
        return slots[0]

    return serve
