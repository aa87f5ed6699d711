"""Files and a text → how well each predicts it, and how far it is from a baseline.

The protocol is that of llama.cpp's tools/perplexity/perplexity.cpp, so figures agree with
it: the text is cut into windows of `n_ctx` tokens, the first token of each is replaced by
the beginning-of-text token where the vocabulary adds one, and the predictions of the
second half of each window count. All files see a window before the next begins; nothing
is stored but one number per token. (llama-perplexity stores the baseline's log
probabilities in 16 bits, so its divergences are approximate where they are tiny.)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.engine import Engine
from csaq_runtime.errors import UsageError

Floats = NDArray[np.float64]
CHUNK_BYTES = 64 * 2**20
"""Log probabilities (float64) held at a time."""


@dataclass(frozen=True)
class Estimate:
    """A mean over tokens and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Divergence:
    """KL divergence from the baseline per token, in nats, and how often the likeliest token is
    the same (`same_top`, a share of 1)."""

    mean: Estimate
    median: float
    p99: float
    maximum: float
    same_top: Estimate


@dataclass(frozen=True)
class Evaluation:
    """One file's figures over `n_token` predictions; no divergence without a baseline."""

    n_token: int
    perplexity: Estimate
    divergence: Divergence | None


@dataclass
class _Tally:
    """What is kept of one file: a number per predicted token, window by window."""

    losses: list[Floats] = field(default_factory=list)
    divergences: list[Floats] = field(default_factory=list)
    same_top: list[NDArray[np.bool_]] = field(default_factory=list)


def text_windows(engine: Engine, text: str, n_ctx: int, n_chunk: int = 0) -> NDArray[np.int64]:
    """Token windows of `text`, [n_chunk, n_ctx]; all there are unless `n_chunk` is given.

    Raises UsageError for windows below 4 tokens and texts below two windows.
    """
    if n_ctx < 4:
        raise UsageError(f"a context of {n_ctx} tokens: must be at least 4")
    ids = engine.vocabulary.encode(text.removesuffix("\n"), parse_special=False)
    if len(ids) < 2 * n_ctx:
        raise UsageError(
            f"the text has {len(ids)} tokens, a context of {n_ctx} needs {2 * n_ctx}",
            "give a longer text or a smaller context",
        )
    n_window = min(len(ids) // n_ctx, n_chunk or len(ids))
    return np.asarray(ids[: n_window * n_ctx], np.int64).reshape(n_window, n_ctx)


def evaluate(
    engines: Sequence[Engine],
    windows: NDArray[np.int64],
    baseline: Engine | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Evaluation]:
    """An Evaluation per engine on `windows` [n_chunk, n_ctx].

    `progress` is called with windows done and in all. Raises UsageError where vocabularies
    differ: token ids would mean different things.
    """
    _check_vocabularies([*engines, *([baseline] if baseline else [])])
    tallies = [_Tally() for _ in engines]
    for done, window in enumerate(windows):
        progress(done, len(windows))
        expected = None if baseline is None else _second_half(baseline, window)
        for engine, tally in zip(engines, tallies, strict=True):
            _add(tally, _second_half(engine, window), expected, window)
    progress(len(windows), len(windows))
    return [_evaluation(tally) for tally in tallies]


def _check_vocabularies(engines: Sequence[Engine]) -> None:
    first, *others = engines
    for other in others:
        if other.hparams.n_vocab != first.hparams.n_vocab or _tokens(other) != _tokens(first):
            raise UsageError(
                f"{other.file.path} and {first.file.path} have different vocabularies",
                "compare files made from one model",
            )


def _tokens(engine: Engine) -> list[str]:
    return engine.file.texts("tokenizer.ggml.tokens", [])


def _second_half(engine: Engine, window: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits that predict the tokens after the middle one: float32 [n_ctx - n_ctx//2 - 1, n_vocab].

    A model's first predictions have too little to go by.
    """
    ids = window.tolist()
    if engine.vocabulary.add_bos and engine.vocabulary.bos_id is not None:
        ids[0] = engine.vocabulary.bos_id
    return engine.logits(ids)[len(ids) // 2 : -1]


def _add(
    tally: _Tally,
    logits: NDArray[np.float32],
    expected: NDArray[np.float32] | None,
    window: NDArray[np.int64],
) -> None:
    """Add one window: `logits` of the file, those `expected` of the baseline."""
    following = window[len(window) // 2 + 1 :]
    for rows in _row_chunks(logits):
        log_p = log_softmax(logits[rows])
        tally.losses.append(-np.take_along_axis(log_p, following[rows, None], 1)[:, 0])
        if expected is None:
            continue
        log_base = log_softmax(expected[rows])
        tally.divergences.append((np.exp(log_base) * (log_base - log_p)).sum(1))
        tally.same_top.append(logits[rows].argmax(1) == expected[rows].argmax(1))


def _row_chunks(logits: NDArray[np.float32]) -> Iterator[slice]:
    n_row, n_vocab = logits.shape
    step = max(1, CHUNK_BYTES // (8 * n_vocab))
    return (slice(start, min(start + step, n_row)) for start in range(0, n_row, step))


def log_softmax(logits: NDArray[np.float32]) -> Floats:
    """Log probabilities, float64 [n, n_vocab]."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(1, keepdims=True))
    return shifted


def _evaluation(tally: _Tally) -> Evaluation:
    losses = np.concatenate(tally.losses)
    loss = estimate(losses)
    perplexity = float(np.exp(loss.value))
    divergence = _divergence(tally) if tally.divergences else None
    return Evaluation(len(losses), Estimate(perplexity, perplexity * loss.error), divergence)


def _divergence(tally: _Tally) -> Divergence:
    values = np.concatenate(tally.divergences)
    median, p99, maximum = (float(value) for value in np.quantile(values, (0.5, 0.99, 1.0)))
    same = np.concatenate(tally.same_top).astype(np.float64)
    return Divergence(estimate(values), median, p99, maximum, estimate(same))


def estimate(values: Floats) -> Estimate:
    """Mean and standard error; 0 where there is one value only."""
    error = float(np.sqrt(values.var() / (len(values) - 1))) if len(values) > 1 else 0.0
    return Estimate(float(values.mean()), error)
