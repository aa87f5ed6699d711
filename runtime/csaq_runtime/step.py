"""One step of a model: token ids of one or more sequences in, logits out, caches extended.

Owns the activations that all threads share, the scratch of each, and the `STEP` record that
tells the kernels where everything is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.batch import BatchTable, Span
from csaq_runtime.buffers import address, aligned_bytes, aligned_floats
from csaq_runtime.cache import KVCache
from csaq_runtime.errors import UsageError
from csaq_runtime.heads import head_pad, padded
from csaq_runtime.kernels.native_step import native_attention
from csaq_runtime.kernels.record import MIXED_SCRATCH_BYTES, STEP, TILE_TOKENS
from csaq_runtime.model import Model
from csaq_runtime.rope import rope_table
from csaq_runtime.rows.linear import MixedLinear
from csaq_runtime.table import Form, all_forms, forms, inputs_record, layer_table, linear_record
from csaq_runtime.threads import ThreadPool

PAGE = 4096
SHORT_STEP = 2 * TILE_TOKENS
"""Tokens up to which Ctrl-C may wait for the step's end; a thread of its own takes longer."""

QUERIES_TOGETHER = 8
"""Query heads, of one token or several, for which keys and values are loaded once."""

ROW_BYTES = {
    "x": "x_bytes",
    "projected": "x_bytes",
    "q": "q_bytes",
    "k": "kv_bytes",
    "v": "kv_bytes",
    "attended": "attended_bytes",
    "gate": "ff_bytes",
    "up": "ff_bytes",
    "logits": "logits_bytes",
}
"""Which field of `STEP` holds the bytes of a row of each buffer."""


@dataclass(frozen=True)
class Choices:
    """How a token that a pass chose becomes the next pass's input (`kernels/passes.py`).

    `inputs`: float16 [n_vocab, n_embd] by choice; `state_scale`: float32 [n_embd].
    """

    inputs: NDArray[np.float16]
    state_scale: NDArray[np.float32]


class Stepper:
    """Runs batches of up to `n_batch` tokens, with logits for up to `n_output` of them.

    All caches it works on have the shape of `cache`. With `choices` it can `run_passes`.
    """

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        pool: ThreadPool,
        n_batch: int,
        n_output: int,
        choices: Choices | None = None,
    ) -> None:
        self._model, self._cache, self._pool = model, cache, pool
        self.n_batch, self.n_output = n_batch, n_output
        self._kept: list[NDArray[np.generic]] = []
        self._record = np.zeros(1, STEP)
        self._step = self._record[0]
        self._counter = aligned_bytes(64).view(np.int64)
        self._describe_model()
        self._describe_cache()
        self._describe_batch()
        self._describe_scratch()
        if choices is not None:
            self._describe_choices(choices)

    def run(self, spans: Sequence[Span]) -> NDArray[np.float32]:
        """Append valid ids to the caches of `spans`, each of another sequence.

        Returns the logits they want, one span after the other: [sum of n_output, n_vocab], a
        view that the next call overwrites. A token's logits do not depend on its neighbours in
        the batch, to the last bit.
        """
        n_token, n_output = self._checked(spans)
        self._pool.settle()
        self._start(spans)
        ids = np.asarray(self._table.ids)
        self._x[:n_token, : self._model.hparams.n_embd] = self._model.embed(ids)
        self._step["n_pass"] = 1
        run = self._pool.run if n_token <= SHORT_STEP else self._pool.run_long
        run(address(self._record))
        for span in spans:
            span.cache.extend(span.ids)
        return self._logits[:n_output, : self._model.hparams.n_vocab]

    def run_passes(
        self, cache: KVCache, x: NDArray[np.float32], n: int, least: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Up to `n` passes, the first with `x` [n_embd], each other with the last one's choice.

        They stand for the positions after those of `cache`, whose keys and values they
        overwrite; it is not extended. Returns the choices and the probability of each; none is
        made after the product of these has come below `least`.
        """
        if not 1 <= n <= min(self.n_output, cache.n_ctx - cache.n_past):
            raise ValueError(f"{n} passes")
        self._pool.settle()
        self._start([Span(cache, [0], 1)])
        step = self._step
        self._x[0, : x.size] = x
        step["n_pass"], step["sureness"], step["least_sureness"] = n, 1, least
        self._pool.run(address(self._record))
        n_done = int(step["n_pass"])
        return self._choices[:n_done].copy(), self._confidences[:n_done].copy()

    def _start(self, spans: Sequence[Span]) -> None:
        """Describe the batch of `spans` to the kernels; its input is still to be filled in."""
        step, table = self._step, self._table
        table.fill(spans)
        step["n_token"], step["n_tile"] = len(table.ids), table.n_tile
        step["first_output"], step["first_tile"] = table.first_output, table.first_tile
        step["first_meeting"] = self._counter[0] + self._pool.n_thread

    def hidden(self, index: int) -> NDArray[np.float32]:
        """State after the final norm, float32 [n_embd], of output `index` of the last `run`."""
        model, hparams = self._model, self._model.hparams
        x = self._x[int(self._step["first_output"]) + index, : hparams.n_embd]
        mean_square = x.dot(x) / np.float32(hparams.n_embd)
        scale = 1 / np.sqrt(mean_square + np.float32(hparams.rms_epsilon))
        normed: NDArray[np.float32] = x * scale * model.output_norm[: hparams.n_embd]
        return normed

    def _checked(self, spans: Sequence[Span]) -> tuple[int, int]:
        """Tokens and outputs of a batch; no kernel may run on one that does not fit."""
        n_token, n_output = sum(len(s.ids) for s in spans), sum(s.n_output for s in spans)
        if not 1 <= n_token <= self.n_batch or n_output > self.n_output:
            raise ValueError(f"{n_token} tokens, {n_output} outputs")
        if any(not 0 <= s.n_output <= len(s.ids) for s in spans):
            raise ValueError("a span wants more outputs than it has tokens")
        if len({id(s.cache) for s in spans}) < len(spans):
            raise ValueError("two spans of one sequence")
        for span in spans:
            if span.cache.n_past + len(span.ids) > self._cache.n_ctx:
                raise UsageError(f"more tokens than the context of {self._cache.n_ctx}")
        return n_token, n_output

    def _describe_model(self) -> None:
        step, model, hparams = self._step, self._model, self._model.hparams
        for name in ("n_layer", "n_embd", "n_head", "n_head_kv", "head_dim"):
            step[name] = getattr(hparams, name)
        step["head_pad"] = head_pad(hparams)
        step["epsilon"] = hparams.rms_epsilon
        step["attention"] = native_attention()
        step["attention_scale"] = 1 / np.sqrt(hparams.head_dim)
        step["layers"] = self._keep(layer_table(model, self._keep))
        step["output_norm"] = address(model.output_norm)
        known = forms([model.output])
        step["output"] = linear_record(model.output, known, self._keep)
        step["output_inputs"] = inputs_record(known, self._keep)

    def _describe_cache(self) -> None:
        step, cache = self._step, self._cache
        table = rope_table(self._model.hparams, cache.n_ctx, self._model.rope_factors)
        step["rope"] = self._keep(table)
        step["cached_head_bytes"] = cache.head_bytes
        step["cached_row_bytes"], step["cache_kind"] = cache.row_bytes, cache.format.kind

    def _describe_batch(self) -> None:
        hparams = self._model.hparams
        n_kv, n_q = (n * head_pad(hparams) for n in (hparams.n_head_kv, hparams.n_head))
        self._x = self._rows("x", hparams.n_embd)
        self._rows("projected", hparams.n_embd)
        self._rows("q", n_q)
        self._rows("k", n_kv)
        self._rows("v", n_kv)
        self._rows("attended", hparams.n_head * hparams.head_dim)
        self._rows("gate", hparams.n_ff)
        self._rows("up", hparams.n_ff)
        self._logits = self._rows("logits", hparams.n_vocab, self.n_output)
        n_tile = -(-self.n_batch // TILE_TOKENS)
        self._inputs = all_forms(self._model)
        self._step["slot_bytes"] = self._slot_bytes(n_tile * TILE_TOKENS)
        packed_bytes = self._n_slot * int(self._step["slot_bytes"])
        self._step["packed"] = self._keep(aligned_bytes(packed_bytes))

    @property
    def _forms(self) -> list[Form]:
        return [form for known in self._inputs for form in known]

    @property
    def _n_slot(self) -> int:
        """Packed copies of one input that may be needed at once."""
        return max(map(len, self._inputs))

    def _slot_bytes(self, n_token: int) -> int:
        """Bytes that the largest packed copy of `n_token` input rows takes."""
        return max(form.bytes_of(n_token) for form in self._forms)

    def _rows(self, name: str, n_col: int, n_row: int = 0) -> NDArray[np.float32]:
        """Allocate and describe [n_row or n_batch, n_col rounded up] activations."""
        rows = aligned_floats(n_row or self.n_batch, padded(n_col))
        self._step[name] = self._keep(rows)
        self._step[ROW_BYTES[name]] = rows.strides[0]
        return rows

    def _describe_scratch(self) -> None:
        """Lay out each thread's scratch: rows normalized and packed, scores, sums, queries."""
        step, hparams = self._step, self._model.hparams
        n_group = hparams.n_head // hparams.n_head_kv
        n_together = -(-QUERIES_TOGETHER // n_group)
        n_query = n_together * n_group
        self._table = BatchTable(self.n_batch, n_together)
        step["rows"], step["tiles"] = self._keep(self._table.rows), self._keep(self._table.tiles)
        step["scratch_packed"] = TILE_TOKENS * step["x_bytes"]
        step["scratch_slot_bytes"] = self._slot_bytes(TILE_TOKENS)
        step["scratch_scores"] = step["scratch_packed"] + self._n_slot * step["scratch_slot_bytes"]
        step["scratch_score_bytes"] = 4 * padded(self._cache.n_ctx)
        step["scratch_totals"] = step["scratch_scores"] + n_query * step["scratch_score_bytes"]
        query_bytes = 4 * n_query * head_pad(hparams)
        step["scratch_queries"] = step["scratch_totals"] + query_bytes
        end = self._describe_mixed(int(step["scratch_queries"]) + query_bytes)
        step["scratch_bytes"] = -(-end // PAGE) * PAGE
        n_thread = self._pool.n_thread
        step["scratch"] = self._keep(aligned_bytes(n_thread * int(step["scratch_bytes"])))
        step["n_thread"], step["counter"] = n_thread, address(self._counter)

    def _describe_choices(self, choices: Choices) -> None:
        step, n_embd = self._step, self._model.hparams.n_embd
        inputs = np.zeros((len(choices.inputs), padded(n_embd)), np.float16)
        inputs[:, :n_embd] = choices.inputs
        scale = np.zeros(padded(n_embd), np.float32)
        scale[:n_embd] = choices.state_scale
        self._choices = np.zeros(self.n_output, np.int64)
        self._confidences = np.zeros(self.n_output, np.float32)
        step["n_choice"], step["choice_inputs"] = len(inputs), self._keep(inputs)
        step["state_scale"], step["choices"] = self._keep(scale), self._keep(self._choices)
        step["confidences"] = self._keep(self._confidences)

    def _describe_mixed(self, start: int) -> int:
        """Lay out what matrices of the rows layout need of the scratch from `start`; its end."""
        step = self._step
        widths = [form.n_col for form in self._forms if form.columns is not None]
        step["gathered_bytes"] = 4 * padded(max(widths, default=0))
        step["scratch_gathered"] = start
        step["scratch_stored"] = start + TILE_TOKENS * int(step["gathered_bytes"])
        is_mixed = any(isinstance(linear, MixedLinear) for linear in self._model.linears)
        return int(step["scratch_stored"]) + (MIXED_SCRATCH_BYTES if is_mixed else 0)

    def _keep(self, array: NDArray[np.generic]) -> int:
        """Address of an array that lives as long as this object."""
        self._kept.append(array)
        return address(array)
