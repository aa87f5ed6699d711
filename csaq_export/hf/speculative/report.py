"""What speculative decoding brought: tokens, drafts, and time beside plain steps."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SpeculativeReport:
    """Counts and seconds of one reply.

    A step is one pass of the model after the prompt's; it makes a token and accepts up to as many
    drafted ones. `plain_step_s`: what a step without a draft takes, measured in the same reply.
    """

    mode: str
    tokens_generated: int
    tokens_drafted: int
    tokens_accepted: int
    draft_calls: int
    verify_calls: int
    n_step: int
    prefill_s: float
    decode_s: float
    plain_step_s: float

    @property
    def tokens_rejected(self) -> int:
        """Drafted tokens that did not stand, those after a rejected one included."""
        return self.tokens_drafted - self.tokens_accepted

    @property
    def total_wallclock_s(self) -> float:
        """Seconds for prompt and reply."""
        return self.prefill_s + self.decode_s

    @property
    def acceptance_rate(self) -> float:
        """Share of drafted tokens that stood; 0 where nothing was drafted."""
        return self.tokens_accepted / max(self.tokens_drafted, 1)

    @property
    def tokens_per_step(self) -> float:
        """Tokens made by a pass of the model; 1 without drafts."""
        return self._decoded / max(self.n_step, 1)

    @property
    def block_efficiency(self) -> float:
        """Accepted tokens per pass that checked a draft."""
        return self.tokens_accepted / max(self.verify_calls, 1)

    @property
    def speedup_factor(self) -> float:
        """Measured: the time plain steps would have taken for the tokens / the time it took.

        1 where nothing was decoded; below 1 where drafting made it slower.
        """
        if self.mode == "plain" or self.decode_s == 0:
            return 1.0
        return self.plain_step_s * self._decoded / self.decode_s

    @property
    def inter_token_latency_ms(self) -> float:
        """Milliseconds per token after the first."""
        return 1e3 * self.decode_s / max(self._decoded, 1)

    @property
    def _decoded(self) -> int:
        """Tokens after the first one, which the prompt's pass gives."""
        return max(self.tokens_generated - 1, 0)

    def summary(self) -> dict[str, Any]:
        """The figures, rounded, for printing or JSON."""
        return {
            "mode": self.mode,
            "tokens_generated": self.tokens_generated,
            "acceptance_rate": round(self.acceptance_rate, 4),
            "tokens_per_step": round(self.tokens_per_step, 3),
            "speedup_factor": round(self.speedup_factor, 3),
            "inter_token_latency_ms": round(self.inter_token_latency_ms, 3),
            "plain_step_ms": round(1e3 * self.plain_step_s, 3),
            "block_efficiency": round(self.block_efficiency, 3),
            "draft_calls": self.draft_calls,
            "verify_calls": self.verify_calls,
            "wallclock_s": round(self.total_wallclock_s, 4),
        }
