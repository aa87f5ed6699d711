"""Meeting point of the threads inside one step: a spin barrier on a counter in shared memory.

75 ns for two threads that are both running; after a while of spinning a thread yields its core,
so that an overloaded machine still makes progress.
"""

from typing import Any

from llvmlite import ir
from numba import types

from csaq_runtime.kernels.jit import part
from csaq_runtime.kernels.lanes import ADDRESS, NOTHING, operation
from csaq_runtime.simd.vector import I32, I64, call_llvm

SPINS_BEFORE_YIELD = 5000


def _fetch_add(b: Any, target: Any, address: Any, amount: Any) -> Any:
    return b.atomic_rmw("add", b.inttoptr(address, I64.as_pointer()), amount, "acq_rel")


def _load_acquire(b: Any, target: Any, address: Any) -> Any:
    return b.load_atomic(b.inttoptr(address, I64.as_pointer()), "acquire", 8)


def _pause(b: Any, target: Any) -> None:
    if target.is_arm:
        call_llvm(b, "llvm.aarch64.hint", ir.VoidType(), [ir.Constant(I32, 1)])
    elif target.arch == "x86_64":
        call_llvm(b, "llvm.x86.sse2.pause", ir.VoidType(), [])


fetch_add = operation(types.int64, [ADDRESS, types.int64], _fetch_add)
load_acquire = operation(types.int64, [ADDRESS], _load_acquire)
pause = operation(NOTHING, [], _pause)
yield_core = operation(types.int32, [], lambda b, target: call_llvm(b, "sched_yield", I32, []))


@part
def wait_for_all(counter: int, target: int, n_thread: int) -> int:
    """Return once all `n_thread` threads have arrived; returns the target of the next meeting.

    `counter` is the address of an int64 that only grows: every arrival adds one, and a meeting
    is over when it reaches `target`. Nobody ever resets it, so a late leaver cannot be trapped.
    """
    if n_thread > 1 and fetch_add(counter, 1) + 1 < target:
        spins = 0
        while load_acquire(counter) < target:
            pause()
            spins += 1
            if spins > SPINS_BEFORE_YIELD:
                yield_core()
    return target + n_thread
