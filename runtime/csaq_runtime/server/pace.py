"""How many prompt tokens a step may read: as many as fit into a time nobody notices."""

ALONE_SECONDS, SHARED_SECONDS = 0.5, 0.1
"""Of a step while all read prompts; while others wait for their next token."""

FIRST_TOKENS, TILE = 32, 8


class Pace:
    """Learns how fast prompts are read. Results do not depend on it, only their timing does."""

    def __init__(self, most: int) -> None:
        self._most, self._rate = most, 0.0

    def budget(self, shared: bool) -> int:
        """Tokens of the next step, whole tiles where the engine's batch allows."""
        seconds = SHARED_SECONDS if shared else ALONE_SECONDS
        n = int(self._rate * seconds) if self._rate else FIRST_TOKENS
        return min(max(n // TILE * TILE, TILE), self._most)

    def observe(self, n_token: int, seconds: float) -> None:
        """A step of `n_token` tokens took `seconds`."""
        if n_token >= TILE and seconds > 0:
            rate = n_token / seconds
            self._rate = (self._rate + rate) / 2 if self._rate else rate
