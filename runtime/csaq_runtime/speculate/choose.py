"""`--spec` and an opened model → the strategy that its replies use."""

from csaq_runtime.errors import UsageError
from csaq_runtime.speculate.auto import Auto
from csaq_runtime.speculate.drafter import Drafter
from csaq_runtime.speculate.ngram import NGramDrafter
from csaq_runtime.speculate.strategy import Strategy

SPEC_KINDS = ("auto", "ngram", "off")
MAX_DRAFT, DEFAULT_DRAFT = 64, 15


def choose_strategy(spec: str, n_max: int) -> Strategy | None:
    """What `spec`, one of `SPEC_KINDS`, asks for; None: plain decoding.

    n_max: most tokens drafted at a time. Raises UsageError for what does not exist.
    """
    if spec not in SPEC_KINDS:
        raise UsageError(f"spec {spec!r} is not one of {', '.join(SPEC_KINDS)}")
    if not 0 <= n_max <= MAX_DRAFT:
        raise UsageError(f"at most {n_max} drafted tokens: must be 0 … {MAX_DRAFT}")
    if spec == "off" or n_max == 0:
        return None
    drafters: list[Drafter] = [NGramDrafter()]
    return Auto(drafters, n_max)
