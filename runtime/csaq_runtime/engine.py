"""Token ids in, token ids out: opens a GGUF file, runs prompts in batches, samples.

Positions that two successive calls of `generate` have in common are computed once. Callers that
serve several sequences at a time run their batches with `step`.
"""

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.batch import Span
from csaq_runtime.cache import KVCache
from csaq_runtime.errors import UsageError
from csaq_runtime.gguf import GGUFFile, open_gguf
from csaq_runtime.hparams import HParams, read_hparams
from csaq_runtime.kernels.dispatch import MATRIX_TYPES
from csaq_runtime.kernels.native_step import step_names
from csaq_runtime.memory import check_memory
from csaq_runtime.model import Progress, load_model
from csaq_runtime.pages import Pages
from csaq_runtime.sample import Sampler, Sampling
from csaq_runtime.speculate.choose import (
    DEFAULT_DRAFT,
    check_spec,
    choose_strategy,
    find_head,
    wants_planes,
)
from csaq_runtime.speculate.decoder import Decoder, Tally
from csaq_runtime.speculate.drafter import Drafter
from csaq_runtime.speculate.head import HeadDrafter
from csaq_runtime.speculate.head_file import load_head
from csaq_runtime.speculate.memory import draft_memory
from csaq_runtime.speculate.planes import PlanesDrafter
from csaq_runtime.speculate.strategy import Fixed, Strategy
from csaq_runtime.step import Stepper
from csaq_runtime.threads import ThreadPool, check_threads, default_threads
from csaq_runtime.tokenizer import Vocabulary, load_vocabulary
from csaq_runtime.warmup import (
    compile_modules,
    compiled_step,
    missing_modules,
    needed_modules,
)

DEFAULT_N_CTX, MAX_N_CTX, MAX_N_BATCH, MAX_N_SEQUENCE = 4096, 2**20, 2**16, 256
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
    `draft`: what drafting brought; all zero without it.
    """

    n_prompt: int = 0
    prompt_seconds: float = 0.0
    n_generated: int = 0
    generated_seconds: float = 0.0
    draft: Tally = field(default_factory=Tally)

    @property
    def tokens_per_step(self) -> float:
        """Tokens generated per pass over the weights; 1 without drafts."""
        return self.n_generated / self.draft.n_step if self.draft.n_step else 1.0

    @property
    def speedup(self) -> float | None:
        """Speed against plain decoding as measured in between; None: no draft, or not known."""
        if not (self.draft.n_drafted and self.draft.plain_seconds):
            return None
        return self.draft.plain_seconds / self.generated_seconds


class Engine:
    """A model that is ready to run. A context manager.

    Attributes: `file`, `hparams`, `vocabulary`, `n_ctx` (positions), `timings`, `strategy` (who
    drafts, None: nobody), and `caches`, one per sequence. All methods but `step` work on the first
    of them.
    """

    def __init__(
        self,
        file: GGUFFile,
        hparams: HParams,
        caches: Sequence[KVCache],
        stepper: Stepper,
        pool: ThreadPool,
        strategy: Strategy | None = None,
        drafter: HeadDrafter | PlanesDrafter | None = None,
    ) -> None:
        self.file, self.hparams, self.caches = file, hparams, caches
        self.timings = Timings()
        self._cache, self._stepper, self._pool = caches[0], stepper, pool
        self.strategy, self._drafter = strategy, drafter
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
        n_sequence: int = 1,
        spec: str = "off",
        n_draft: int = DEFAULT_DRAFT,
        draft_model: str | os.PathLike[str] | None = None,
        has_text: bool = False,
        pages: Pages | None = None,
        progress: Progress | None = None,
    ) -> "Engine":
        """Check the GGUF file at `path` and load it.

        n_ctx: positions; 0 takes the model's, but not more than 4096.
        n_threads: default all cores, fewer for tiny models.
        cache_type: "f16", "f32" or "q8_0" (half the memory of f16).
        n_batch: prompt tokens per step.
        n_sequence: sequences of `n_ctx` positions each that `step` may advance together.
        spec: who drafts tokens for `generate`, see `speculate.choose`; replies stay the same.
        n_draft: most tokens drafted at a time.
        draft_model: a head's sidecar; without it one that lies beside the file is taken.
        has_text: read the vocabulary now, while weights are packed; else when it is asked for.
        pages: memory fetched since before this was imported; the caller closes it afterwards.
        progress: called with bytes packed so far and in all, of which one stands for the kernels.

        Raises GGUFError, ModelError, UsageError, or ResourceError if memory does not suffice.
        """
        check_spec(spec, n_draft)
        named = None if draft_model is None else Path(draft_model)
        sidecar = find_head(spec, n_draft, Path(path), named)
        file = open_gguf(path)
        try:
            hparams = read_hparams(file)
            planes = sidecar is None and wants_planes(spec, n_draft, file)
            n_ctx, n_batch = _sizes(hparams, n_ctx, n_batch, n_sequence)
            drafting = draft_memory(file, hparams, n_ctx, sidecar, planes)
            held = 0 if pages is None else pages.n_fetched
            check_memory(file, n_ctx, cache_type, n_batch, n_sequence, drafting, held)
            caches = [KVCache(hparams, n_ctx, cache_type) for _ in range(n_sequence)]
            weight_bytes = sum(info.n_bytes for info in file.tensors.values())
            n_threads = default_threads(weight_bytes) if n_threads is None else n_threads
            check_threads(n_threads)
            with ThreadPoolExecutor(2) as beside:
                serve = beside.submit(compiled_step)
                vocabulary = beside.submit(load_vocabulary, file) if has_text else None
                _prepare_kernels(file, planes)
                shown = _short_of_one(progress)
                model = load_model(file, hparams, n_threads, shown, planes, pages)
            head = None if sidecar is None else load_head(sidecar, file, model)
            words = None if vocabulary is None else vocabulary.result()
            # Last of what may fail for a file: threads that run would outlive it.
            pool = ThreadPool(n_threads, serve.result())
            n_output = _n_output(hparams, n_batch, n_sequence)
            stepper = Stepper(model, caches[0], pool, n_batch, n_output)
            drafter: HeadDrafter | PlanesDrafter | None = None
            if head is not None:
                drafter = HeadDrafter(head, caches[0], pool, n_draft)
            elif planes:
                drafter = PlanesDrafter(model, caches[0], pool)
            strategy = choose_strategy(spec, n_draft, drafter)
            file.release()
        except BaseException:
            file.close()
            raise
        engine = cls(file, hparams, caches, stepper, pool, strategy, drafter)
        if words is not None:
            engine.vocabulary = words
        return engine

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
        """Positions that fit into a sequence."""
        return self._cache.n_ctx

    @property
    def n_batch(self) -> int:
        """Tokens that fit into a step."""
        return self._stepper.n_batch

    @property
    def n_output(self) -> int:
        """Rows of logits that a step may give."""
        return self._stepper.n_output

    def hidden(self, index: int) -> NDArray[np.float32]:
        """The state that output `index` of the last step was computed from: float32 [n_embd]."""
        return self._stepper.hidden(index)

    def follow(self, cache: KVCache) -> None:
        """Draft from now on for the sequence in `cache`, one of `caches`."""
        if self._drafter is not None:
            self._drafter.follow(cache)

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
        return np.concatenate([self._append(batch, len(batch)).copy() for batch in batches])

    def step(self, spans: Sequence[Span]) -> NDArray[np.float32]:
        """Append each span's ids to its cache, one of `caches`, all in one pass over the weights.

        Returns the logits they want, one span after the other: [sum of n_output, n_vocab],
        valid until the next call; a span's are the same to the last bit as without the others.
        Raises UsageError for ids outside the vocabulary and beyond the context.
        """
        for span in spans:
            self._check_prompt(span.ids, span.cache.n_past + len(span.ids))
        self._call += 1
        return self._stepper.run(spans)

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

    def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        n_predict: int,
        drafter: Drafter | None = None,
        n_draft: int = 0,
    ) -> Iterator[Step]:
        """Generate up to `n_predict` tokens (-1: until the context is full) after `prompt`.

        Ends before an end-of-generation token. `drafter` guesses `n_draft` tokens ahead in
        every step; without one, what `open` was told decides. Raises UsageError for an empty or
        too long prompt, ids outside the vocabulary, or if another call has used the engine
        meanwhile.
        """
        self._check_prompt(prompt, len(prompt) + 1)
        self._call += 1
        self.follow(self._cache)
        sampler, stops = Sampler(sampling), self.vocabulary.eog_ids
        strategy = Fixed(drafter, n_draft) if drafter else self.strategy
        decoder = Decoder(self._stepper, self._cache, sampler, stops, strategy)
        room = self.n_ctx - len(prompt)
        n_most = room if n_predict < 0 else min(n_predict, room)
        return self._generate(list(prompt), decoder, n_most, self._call)

    def _generate(
        self, context: list[int], decoder: Decoder, n_most: int, call: int
    ) -> Iterator[Step]:
        self.timings = timings = Timings(draft=decoder.tally)
        end, stops = len(context) + n_most, self.vocabulary.eog_ids
        self._check_call(call)
        logits = self._read_prompt(context, timings)
        tokens = [decoder.first(logits, context)] if n_most else []
        while tokens:
            for token in tokens:
                if token in stops:
                    return
                context.append(token)
                yield Step(token, len(context) - 1)
                if len(context) < end:
                    self._check_call(call)
            tokens = self._advance(decoder, context, end - len(context), timings)

    def _advance(
        self, decoder: Decoder, context: list[int], n_most: int, timings: Timings
    ) -> list[int]:
        """The next tokens, none where none are wanted any more."""
        if not n_most:
            return []
        started = time.perf_counter()
        tokens = decoder.advance(context, n_most)
        timings.generated_seconds += time.perf_counter() - started
        timings.n_generated += len(tokens)
        return tokens

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
            logits = self._append(ids[start : start + n], int(start + n >= len(ids)))
        last: NDArray[np.float32] = logits[0]
        return last

    def _append(self, ids: Sequence[int], n_output: int) -> NDArray[np.float32]:
        return self._stepper.run([Span(self._cache, ids, n_output)])

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


def _prepare_kernels(file: GGUFFile, planes: bool) -> None:
    """On the first start with these kernels: compile those that pack and multiply the file's."""
    matrices = {info.type for info in file.tensors.values() if len(info.shape) == 2}
    missing = missing_modules(needed_modules(matrices & MATRIX_TYPES, planes))
    compile_modules([name for name in missing if name not in step_names()])


def _short_of_one(progress: Progress | None) -> Progress | None:
    """Packing's share of the progress: while it runs, the step may still be compiled."""
    if progress is None:
        return None
    return lambda done, total: progress(done, total + 1)


def _sizes(hparams: HParams, n_ctx: int, n_batch: int, n_sequence: int) -> tuple[int, int]:
    """Context and batch as they will be; UsageError for what cannot be."""
    if not 0 <= n_ctx <= MAX_N_CTX:
        raise UsageError(f"n_ctx {n_ctx}: must be 0 … {MAX_N_CTX}")
    if not 1 <= n_batch <= MAX_N_BATCH:
        raise UsageError(f"n_batch {n_batch}: must be 1 … {MAX_N_BATCH}")
    if not 1 <= n_sequence <= MAX_N_SEQUENCE:
        raise UsageError(f"{n_sequence} sequences: must be 1 … {MAX_N_SEQUENCE}")
    n_ctx = n_ctx or min(hparams.n_ctx_train, DEFAULT_N_CTX)
    return n_ctx, max(min(n_batch, n_ctx), n_sequence)


def _n_output(hparams: HParams, n_batch: int, n_sequence: int) -> int:
    """Rows of logits that fit into `OUTPUT_BYTES`, at least one tile's and one per sequence."""
    return min(n_batch, max(OUTPUT_BYTES // (4 * hparams.n_vocab), 8, n_sequence))
