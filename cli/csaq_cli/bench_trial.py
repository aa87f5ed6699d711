"""What `csaq bench` measures: the options' lists → one `Trial` per figure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """Tokens per second of reading `n_prompt` or generating `n_gen` tokens (the other is 0).

    `n_depth` tokens are in the context already; reading them does not count.
    """

    n_prompt: int
    n_gen: int
    n_depth: int
    n_threads: int

    @property
    def n_token(self) -> int:
        """Tokens that are timed."""
        return self.n_prompt or self.n_gen

    @property
    def n_context(self) -> int:
        """Positions that the trial fills."""
        return self.n_depth + self.n_token

    @property
    def label(self) -> str:
        """llama-bench's name for it: `pp512`, `tg128 @ d4096`."""
        kind = f"pp{self.n_prompt}" if self.n_prompt else f"tg{self.n_gen}"
        return f"{kind} @ d{self.n_depth}" if self.n_depth else kind


def trials(
    prompts: Sequence[int], gens: Sequence[int], depths: Sequence[int], threads: Sequence[int]
) -> Iterator[Trial]:
    """All combinations, a count of 0 meaning: leave out; threads change slowest."""
    for n_threads in threads:
        for depth in depths:
            yield from (Trial(n, 0, depth, n_threads) for n in prompts if n)
            yield from (Trial(0, n, depth, n_threads) for n in gens if n)
