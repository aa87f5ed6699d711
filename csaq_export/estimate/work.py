"""Core seconds of many pieces of work → seconds of the clock, as workers hinder each other."""

from dataclasses import dataclass
from math import sqrt


@dataclass(frozen=True)
class Work:
    """Core seconds: `free` hinder nobody, `rounding` is that of one worker alone.

    `waiting` is what it adds if all workers round all the time: in operations as short as a
    column of a matrix, threads of Python take turns.
    """

    free: float = 0.0
    rounding: float = 0.0
    waiting: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        free, rounding = self.free + other.free, self.rounding + other.rounding
        return Work(free, rounding, self.waiting + other.waiting)

    def times(self, n: float) -> "Work":
        """The same `n` times."""
        return Work(n * self.free, n * self.rounding, n * self.waiting)

    def clock(self, n_worker: int) -> float:
        """Seconds until `n_worker` have done it.

        A worker that rounds waits while another rounds, too, which is a share of the time
        that is free of waiting if much else is done: T = free + rounding + waiting·(T − free)/T.
        """
        most = self.free + self.rounding + self.waiting
        total = (most + sqrt(max(0.0, most * most - 4 * self.waiting * self.free))) / 2
        return total / n_worker
