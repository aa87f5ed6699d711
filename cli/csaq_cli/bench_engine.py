"""One `Trial` on our engine → tokens per second."""

import time
from pathlib import Path

import numpy as np

from csaq_cli.bench_trial import Trial
from csaq_runtime.engine import Engine

WARM_UP_TOKENS = 16


def open_for(path: Path, chosen: list[Trial], cache_type: str) -> Engine:
    """An engine for `chosen`, which all want the same number of threads, run once to warm up."""
    n_ctx = max(trial.n_context for trial in chosen) + 1
    n_ctx = max(n_ctx, WARM_UP_TOKENS + 1)
    engine = Engine.open(path, n_ctx=n_ctx, n_threads=chosen[0].n_threads, cache_type=cache_type)
    engine.advance(_ids(engine, WARM_UP_TOKENS), 0)
    engine.advance(_ids(engine, 1), WARM_UP_TOKENS)
    return engine


def rate(engine: Engine, trial: Trial) -> float:
    """Tokens per second, after the trial's depth has been read; no sampling, as llama-bench."""
    if trial.n_depth:
        engine.advance(_ids(engine, trial.n_depth), 0)
    ids = _ids(engine, trial.n_token)
    started = time.perf_counter()
    if trial.n_prompt:
        engine.advance(ids, trial.n_depth)
    else:
        for index, token in enumerate(ids):
            engine.advance([token], trial.n_depth + index)
    return trial.n_token / (time.perf_counter() - started)


def _ids(engine: Engine, n: int) -> list[int]:
    """`n` random token ids, always the same ones."""
    ids: list[int] = np.random.default_rng(n).integers(0, engine.hparams.n_vocab, n).tolist()
    return ids
