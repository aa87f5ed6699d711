"""One reply while it is made: token ids → engine → pieces of text, then what they cost."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from csaq_runtime.prompt import room_for_reply

if TYPE_CHECKING:
    from csaq_runtime.engine import Engine
    from csaq_runtime.sample import Sampling


class Completion:
    """Iterate for text pieces; `finish` and `n_generated` are final once it is exhausted.

    `finish` is "stop" (the model ended), "length" (limit or context reached) or
    "interrupted" (not run to its end). Raises UsageError at once when `ids` leave
    no room in the context.
    """

    def __init__(
        self, engine: "Engine", ids: Sequence[int], sampling: "Sampling", n_predict: int
    ) -> None:
        self.n_predict = room_for_reply(len(ids), engine.n_ctx, n_predict)
        self.engine, self.ids, self.sampling = engine, ids, sampling
        self.n_prompt, self.n_generated, self.finish = len(ids), 0, "interrupted"

    def __iter__(self) -> Iterator[str]:
        detokenizer = self.engine.vocabulary.stream()
        for step in self.engine.generate(self.ids, self.sampling, self.n_predict):
            self.n_generated += 1
            yield detokenizer.push(step.token_id)
        yield detokenizer.flush()
        self.finish = "length" if self.n_generated >= self.n_predict else "stop"
