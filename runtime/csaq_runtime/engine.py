"""Token ids in, token ids out: opens a GGUF file, runs prompts in batches, samples.

Positions that two successive calls of `generate` have in common are computed once.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.cache import KVCache
from csaq_runtime.errors import UsageError
from csaq_runtime.gguf import GGUFFile, open_gguf
from csaq_runtime.hparams import HParams, read_hparams
from csaq_runtime.kernels.dispatch import MATRIX_TYPES
from csaq_runtime.kernels.native_step import native_serve
from csaq_runtime.memory import check_memory
from csaq_runtime.model import Progress, load_model
from csaq_runtime.sample import Sampler, Sampling
from csaq_runtime.step import Stepper
from csaq_runtime.threads import ThreadPool, default_threads
from csaq_runtime.tokenizer import Vocabulary, load_vocabulary
from csaq_runtime.warmup import compile_modules, missing_modules, needed_modules

DEFAULT_N_CTX, MAX_N_CTX, MAX_N_BATCH = 4096, 2**20, 2**16
OUTPUT_BYTES = 64 * 2**20
"""Logits that `Engine.logits` has computed at a time."""


@dataclass(frozen=True)
class Step:
    """One generated token; `n_past` positions were in the context when it was drawn."""

    token_id: int
    n_past: int


@dataclass
class Timings:
    """Tokens and seconds of the last `generate`.

    Prompt tokens that were in the cache do not count, nor does the first token generated, whose
    logits the prompt gives. Seconds include sampling, but not what the caller does in between.
    """

    n_prompt: int = 0
    prompt_seconds: float = 0.0
    n_generated: int = 0
    generated_seconds: float = 0.0


class Engine:
    """A model that is ready to run, one sequence at a time. A context manager.

    Attributes: `file`, `hparams`, `vocabulary`, `n_ctx` (positions), `timings`.
    """

    def __init__(
        self, file: GGUFFile, hparams: HParams, cache: KVCache, stepper: Stepper, pool: ThreadPool
    ) -> None:
        self.file, self.hparams = file, hparams
        self.timings = Timings()
        self._cache, self._stepper, self._pool = cache, stepper, pool
        self._call, self._is_closed = 0, False

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        n_ctx: int = 0,
        n_threads: int | None = None,
        cache_type: str = "f16",
        n_batch: int = 512,
        progress: Progress | None = None,
    ) -> "Engine":
        """Check the GGUF file at `path` and load it.

        n_ctx: positions; 0 takes the model's, but not more than 4096.
        n_threads: default all cores, fewer for tiny models.
        cache_type: "f16", "f32" or "q8_0" (half the memory of f16).
        n_batch: prompt tokens per step.
        progress: called with bytes packed so far and in all.

        Raises GGUFError, ModelError, UsageError, or ResourceError if memory does not suffice.
        """
        file = open_gguf(path)
        try:
            hparams = read_hparams(file)
            cache, n_batch = _sized(file, hparams, n_ctx, cache_type, n_batch)
            weight_bytes = sum(info.n_bytes for info in file.tensors.values())
            n_threads = default_threads(weight_bytes) if n_threads is None else n_threads
            _prepare_kernels(file)
            pool = ThreadPool(n_threads, native_serve())
            model = load_model(file, hparams, pool.n_thread, progress)
            file.release()
            stepper = Stepper(model, cache, pool, n_batch, _n_output(hparams, n_batch))
        except BaseException:
            file.close()
            raise
        return cls(file, hparams, cache, stepper, pool)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the threads, let go of the file; generations under way end in UsageError."""
        self._is_closed = True
        self._pool.close()
        self.file.close()

    @property
    def n_ctx(self) -> int:
        """Positions that fit."""
        return self._cache.n_ctx

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The file's vocabulary, read when first asked for."""
        return load_vocabulary(self.file)

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits after every one of `ids`, in a fresh context: float32 [n, n_vocab]."""
        self._check_prompt(ids, len(ids))
        self._call += 1
        self._cache.truncate(0)
        n = self._stepper.n_output
        batches = [ids[start : start + n] for start in range(0, len(ids), n)]
        return np.concatenate([self._stepper.run(batch, len(batch)).copy() for batch in batches])

    def advance(self, ids: Sequence[int], n_kept: int) -> NDArray[np.float32]:
        """Logits [n_vocab] after `ids`, which follow the first `n_kept` positions held.

        Forgets the positions after those. Valid until the next call; for benchmarks and for
        callers that choose tokens themselves.
        """
        self._check_prompt(ids, n_kept + len(ids))
        if not 0 <= n_kept <= self._cache.n_past:
            raise UsageError(f"cannot keep {n_kept} of {self._cache.n_past} positions")
        self._call += 1
        self._cache.truncate(n_kept)
        return self._run_prompt(ids)

    def generate(self, prompt: Sequence[int], sampling: Sampling, n_predict: int) -> Iterator[Step]:
        """Generate up to `n_predict` tokens (-1: until the context is full) after `prompt`.

        Ends before an end-of-generation token. Raises UsageError for an empty or too long
        prompt, ids outside the vocabulary, or if another call has used the engine meanwhile.
        """
        self._check_prompt(prompt, len(prompt) + 1)
        self._call += 1
        return self._generate(list(prompt), sampling, n_predict, self._call)

    def _generate(
        self, context: list[int], sampling: Sampling, n_predict: int, call: int
    ) -> Iterator[Step]:
        self.timings = timings = Timings()
        sampler, stops = Sampler(sampling), self.vocabulary.eog_ids
        room = self.n_ctx - len(context)
        self._check_call(call)
        logits = self._read_prompt(context, timings)
        for index in range(room if n_predict < 0 else min(n_predict, room)):
            started = time.perf_counter()
            if index:
                self._check_call(call)
                logits = self._stepper.run(context[-1:], 1)[0]
            token = sampler.sample(logits, context)
            if index:
                timings.n_generated += 1
                timings.generated_seconds += time.perf_counter() - started
            if token in stops:
                return
            context.append(token)
            yield Step(token, len(context) - 1)

    def _read_prompt(self, prompt: Sequence[int], timings: Timings) -> NDArray[np.float32]:
        """Compute what the cache does not hold yet; logits after the last token [n_vocab]."""
        started = time.perf_counter()
        n_kept = min(self._cache.common_prefix(prompt), len(prompt) - 1)
        self._cache.truncate(n_kept)
        logits = self._run_prompt(prompt[n_kept:])
        timings.n_prompt = len(prompt) - n_kept
        timings.prompt_seconds = time.perf_counter() - started
        return logits

    def _run_prompt(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Append `ids`, one batch after the other; logits after the last one [n_vocab]."""
        n, logits = self._stepper.n_batch, np.empty((0, 0), np.float32)
        for start in range(0, len(ids), n):
            logits = self._stepper.run(ids[start : start + n], int(start + n >= len(ids)))
        last: NDArray[np.float32] = logits[0]
        return last

    def _check_call(self, call: int) -> None:
        self._check_open()
        if call != self._call:
            raise UsageError("another generation has taken over this engine")

    def _check_open(self) -> None:
        if self._is_closed:
            raise UsageError("the engine is closed")

    def _check_prompt(self, ids: Sequence[int], n_needed: int) -> None:
        self._check_open()
        if not len(ids):
            raise UsageError("the prompt is empty")
        if n_needed > self.n_ctx:
            raise UsageError(
                f"a prompt of {len(ids)} tokens does not fit into a context of {self.n_ctx}",
                "ask for a larger context",
            )
        if not (min(ids) >= 0 and max(ids) < self.hparams.n_vocab):
            raise UsageError(f"token ids must be 0 … {self.hparams.n_vocab - 1}")


def _prepare_kernels(file: GGUFFile) -> None:
    """On the first start with these kernels: compile those that the file needs, all at once."""
    matrices = {info.type for info in file.tensors.values() if len(info.shape) == 2}
    missing = missing_modules(needed_modules(matrices & MATRIX_TYPES))
    if len(missing) > 1:
        compile_modules(missing)


def _sized(
    file: GGUFFile, hparams: HParams, n_ctx: int, cache_type: str, n_batch: int
) -> tuple[KVCache, int]:
    """An empty cache and the batch size, once it is known that memory suffices for them."""
    if not 0 <= n_ctx <= MAX_N_CTX:
        raise UsageError(f"n_ctx {n_ctx}: must be 0 … {MAX_N_CTX}")
    if not 1 <= n_batch <= MAX_N_BATCH:
        raise UsageError(f"n_batch {n_batch}: must be 1 … {MAX_N_BATCH}")
    n_ctx = n_ctx or min(hparams.n_ctx_train, DEFAULT_N_CTX)
    n_batch = min(n_batch, n_ctx)
    check_memory(file, n_ctx, cache_type, n_batch)
    return KVCache(hparams, n_ctx, cache_type), n_batch


def _n_output(hparams: HParams, n_batch: int) -> int:
    """Rows of logits that fit into `OUTPUT_BYTES`, at least one tile's."""
    return min(n_batch, max(OUTPUT_BYTES // (4 * hparams.n_vocab), 8))
