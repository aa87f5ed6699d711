"""How the threads of a pool meet for a step without waking anybody: `threads.py` calls this."""

from csaq_runtime.kernels.barrier import fetch_add, load_acquire, pause, yield_core
from csaq_runtime.kernels.forward import run_step
from csaq_runtime.kernels.jit import emit, part
from csaq_runtime.kernels.mailbox import CALLING, JOB, SEQUENCE

POLLS = 20_000
"""About 0.3–1 ms: longer than a sampler takes, shorter than anybody notices."""

POLLS_BEFORE_YIELD = 5_000


@part
def serve(mailbox: int, thread: int, seen: int) -> int:
    """Thread 0: announce the mailbox's job and run it. Others: run jobs as they come.

    Returns the number of the last job run: after one job to thread 0, to the others after
    `POLLS` without any.
    """
    if thread == 0:
        mine: int = fetch_add(mailbox + 8 * SEQUENCE, 1) + 1
        run_step(load_acquire(mailbox + 8 * JOB), thread)
        return mine
    polls = 0
    while polls < POLLS or load_acquire(mailbox + 8 * CALLING) != 0:
        latest = load_acquire(mailbox + 8 * SEQUENCE)
        if latest != seen:
            seen = latest
            run_step(load_acquire(mailbox + 8 * JOB), thread)
            polls = 0
        pause()
        polls += 1
        if polls > POLLS_BEFORE_YIELD:
            yield_core()
    return seen


def emit_serve(entry: str) -> str:
    """LLVM IR of `serve`, exported as `entry(result*, error**, mailbox, thread, seen)`."""
    return emit(serve, 3, entry)
