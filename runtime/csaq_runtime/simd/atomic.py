"""Atomics and a spin barrier for threads that run one nogil function together.

Numba intrinsics on raw addresses of int64 counters. A counter should have a
64-byte cache line to itself.
"""

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from csaq_runtime.simd.target import numba_target
from csaq_runtime.simd.vector import I32, I64, call_llvm

SPINS_BEFORE_YIELD = 20_000
"""Polls (some 0.5 ms) after which a waiting thread offers its core to others."""

_WORD = 8


def _counter(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, I64.as_pointer())


@intrinsic
def atomic_add(_typing: Any, address: Any, value: Any) -> Any:
    """Add to the counter and return what it was before (acquire and release)."""

    def emit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", _counter(builder, arguments[0]), arguments[1], "acq_rel")

    return types.int64(types.int64, types.int64), emit


@intrinsic
def atomic_load(_typing: Any, address: Any) -> Any:
    """Read the counter (acquire: later reads see what was written before its release)."""

    def emit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_counter(builder, arguments[0]), "acquire", _WORD)

    return types.int64(types.int64), emit


@intrinsic
def atomic_store(_typing: Any, address: Any, value: Any) -> Any:
    """Write the counter (release: earlier writes are visible to whoever reads it)."""

    def emit(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[1], _counter(builder, arguments[0]), "release", _WORD)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


@intrinsic
def pause(_typing: Any) -> Any:
    """Tell the core that this thread is polling (x86 `pause`, ARM `yield`)."""

    def emit(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        target = numba_target(context)
        if target.arch == "x86_64":
            call_llvm(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])
        elif target.is_arm:
            call_llvm(builder, "llvm.aarch64.hint", ir.VoidType(), [ir.Constant(I32, 1)])
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def sched_yield(_typing: Any) -> Any:
    """Let another thread have the core (libc's `sched_yield`, found by name)."""

    def emit(_context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        return call_llvm(builder, "sched_yield", I32, [])

    return types.int32(), emit


@njit(inline="always")
def spin_barrier(counter: int, generation: int, n_thread: int) -> int:
    """Wait until all threads have called this as often as the caller; returns generation + 1.

    counter: address of an int64 that was zero before the first call; generation:
    how many barriers this thread has passed, kept by the caller.
    """
    generation += 1
    if n_thread > 1:
        target = generation * n_thread
        if atomic_add(counter, 1) + 1 < target:
            spins = 0
            while atomic_load(counter) < target:
                pause()
                spins += 1
                if spins > SPINS_BEFORE_YIELD:
                    sched_yield()
    return generation
