"""Generated text → text that may be shown: up to the first stop string, and nothing of it.

A stop string may be spread over tokens, so what could be its beginning waits.
"""

from collections.abc import Sequence


class StopText:
    """Feeds on pieces of text; `found` is the stop string that was met, None so far."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """Add `text`; returns what may be shown now."""
        self._held += text
        ends = [self._held.find(stop) + len(stop) for stop in self._stops if stop in self._held]
        if ends:
            # The one that is complete first, so that it does not matter where tokens break.
            text, self._held = self._held[: min(ends)], ""
            self.found = max((s for s in self._stops if text.endswith(s)), key=len)
            return text.removesuffix(self.found)
        n_shown = len(self._held) - self._n_undecided()
        shown, self._held = self._held[:n_shown], self._held[n_shown:]
        return shown

    def flush(self) -> str:
        """The rest, once no more text can come."""
        shown, self._held = self._held, ""
        return shown

    def _n_undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for n in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-n:]) for stop in self._stops):
                return n
        return 0
