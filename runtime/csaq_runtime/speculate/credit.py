"""What drafting may lose: a fixed share of the time, and some of what it has gained before.

Whatever the estimates say, replies with drafts take at most `SHARE` longer than without, plus
`START` tokens' time once: a draft is only tried while its worst outcome is covered.
"""

SHARE, START, MOST = 0.006, 1.0, 8.0
"""Share of all time; credit to begin with, and its limit, in plain steps."""


class Credit:
    """A balance in seconds."""

    def __init__(self) -> None:
        self._balance, self._begun = 0.0, False

    def covers(self, loss: float) -> bool:
        """Whether `loss` seconds may be risked."""
        return loss <= self._balance

    def settle(self, spent: float, worth: float, plain: float) -> None:
        """Something took `spent` seconds and would take `worth` without drafts.

        plain: seconds of a plain step, which the limits are counted in.
        """
        if not self._begun:
            self._balance, self._begun = START * plain, True
        self._balance = min(self._balance + worth - spent + SHARE * worth, MOST * plain)
