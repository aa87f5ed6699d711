"""Ctrl-C while a reply is made: the first stops it between two tokens, the second leaves.

A flag, not an exception: a KeyboardInterrupt in the middle of a step could leave
the KV cache half written while the conversation goes on.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopFlag:
    """True in `stopped` after the first Ctrl-C."""

    def __init__(self) -> None:
        self.stopped = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Handle SIGINT: remember the first, raise KeyboardInterrupt at the second."""
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True


@contextmanager
def stop_on_interrupt() -> Iterator[StopFlag]:
    """Give a flag that Ctrl-C sets while the block runs."""
    flag = StopFlag()
    previous = signal.signal(signal.SIGINT, flag)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, previous)
