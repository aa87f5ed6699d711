"""One generation under way: rows of logits in, pieces of text out. Lives in the engine's thread."""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.evaluate import log_softmax
from csaq_runtime.sample import Sampler
from csaq_runtime.server.generation import Generation, Piece, Summary, TokenLogprob
from csaq_runtime.server.stop_text import StopText
from csaq_runtime.tokenizer import Vocabulary

Deliver = Callable[[Piece | Exception], None]


class Job:
    """A generation and how far it is.

    `context` are the ids so far, prompt included. `deliver` gets every piece, or the exception
    that ended it, in the engine's thread. `cancel` may be called from any thread.
    """

    def __init__(self, generation: Generation, vocabulary: Vocabulary, deliver: Deliver) -> None:
        self.generation, self.deliver = generation, deliver
        self.context = list(generation.ids)
        self.n_cached = self.n_generated = 0
        self.is_cancelled = False
        self._vocabulary = vocabulary
        self._sampler, self._detokenizer = Sampler(generation.sampling), vocabulary.stream()
        self._stop_text = StopText(generation.stops)
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._started = self._answered = 0.0

    def cancel(self) -> None:
        """Nobody wants the reply any more: it ends with the step that is running."""
        self.is_cancelled = True

    def start(self, n_cached: int) -> None:
        """The prompt begins to be read, all but its first `n_cached` tokens."""
        self.n_cached, self._started = n_cached, time.perf_counter()

    def take(self, logits: NDArray[np.float32]) -> bool:
        """Draw from `logits` [n_vocab], deliver what is new; whether the reply goes on."""
        self._answered = self._answered or time.perf_counter()
        if self.generation.n_predict == 0:
            return self._finish("length")
        token = self._sampler.sample(logits, self.context)
        if token in self._vocabulary.eog_ids and not self.generation.ignore_eos:
            return self._finish("stop")
        self._remember(token, logits)
        text = self._stop_text.push(self._detokenizer.push(token))
        if self._stop_text.found is not None:
            return self._finish("stop", text)
        if self.n_generated >= self.generation.n_predict:
            return self._finish("length", text)
        if text:
            self._deliver_piece(text, None)
        return True

    def _remember(self, token: int, logits: NDArray[np.float32]) -> None:
        self.context.append(token)
        self.n_generated += 1
        self._ids.append(token)
        if self.generation.n_top >= 0:
            self._logprobs.append(token_logprob(logits, token, self.generation.n_top))

    def _finish(self, finish: str, text: str = "") -> bool:
        if self._stop_text.found is None:
            text += self._stop_text.push(self._detokenizer.flush())
            # The last bytes may complete a stop string, which then ended the reply.
            finish = "stop" if self._stop_text.found is not None else finish
            text += self._stop_text.flush()
        now = time.perf_counter()
        summary = Summary(
            finish=finish,
            stop_text=self._stop_text.found,
            n_prompt=len(self.generation.ids),
            n_cached=self.n_cached,
            n_generated=self.n_generated,
            prompt_seconds=self._answered - self._started,
            generated_seconds=now - self._answered,
        )
        self._deliver_piece(text, summary)
        return False

    def _deliver_piece(self, text: str, summary: Summary | None) -> None:
        """Deliver text with the tokens it came from, those that waited for it included."""
        self.deliver(Piece(text, tuple(self._ids), tuple(self._logprobs), summary))
        self._ids, self._logprobs = [], []


def token_logprob(logits: NDArray[np.float32], token: int, n_top: int) -> TokenLogprob:
    """Log probability of `token`, and the `n_top` likeliest tokens with theirs."""
    log_p = log_softmax(logits[None])[0]
    ids = np.argsort(-log_p, kind="stable")[:n_top]
    top = tuple((int(id), float(log_p[id])) for id in ids)
    return TokenLogprob(token, float(log_p[token]), top)
