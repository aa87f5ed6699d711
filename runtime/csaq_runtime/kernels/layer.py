"""One transformer layer over a batch of tokens, as every thread runs it, and the output head."""

from typing import Any

from csaq_runtime.kernels.barrier import wait_for_all
from csaq_runtime.kernels.elementwise import accumulate, silu_multiply
from csaq_runtime.kernels.jit import ZERO, part
from csaq_runtime.kernels.linear import meet_if_shared, multiply, pack_rows


@part
def project_qkv(step: Any, thread: int, layer: Any, meeting: int) -> int:
    """Norm, then queries, keys and values of the whole batch."""
    n = step.n_token
    packed = pack_rows(step, thread, layer.qkv_inputs, (step.x, step.x_bytes, layer.attn_norm), n)
    meeting = meet_if_shared(step, meeting, n)
    multiply(step, thread, layer.q, packed, step.q, step.q_bytes, n)
    multiply(step, thread, layer.k, packed, step.k, step.kv_bytes, n)
    multiply(step, thread, layer.v, packed, step.v, step.kv_bytes, n)
    return wait_for_all(step.counter, meeting, step.n_thread)


@part
def add_product(step: Any, thread: int, reader: Any, source: Any, first: int, meeting: int) -> int:
    """`x += W · source`, for the tokens from `first` on; `source` as in `pack_rows`.

    `reader`: the linear layer and its inputs.
    """
    n = step.n_token - first
    linear, inputs = reader
    rows, row_bytes, norm = source
    source = (rows + first * row_bytes, row_bytes, norm)
    packed = pack_rows(step, thread, inputs, source, n)
    meeting = meet_if_shared(step, meeting, n)
    multiply(step, thread, linear, packed, step.projected, step.x_bytes, n)
    meeting = wait_for_all(step.counter, meeting, step.n_thread)
    start = linear.n_group * thread // step.n_thread
    stop = linear.n_group * (thread + 1) // step.n_thread
    x = step.x + first * step.x_bytes
    accumulate(x, step.projected, step.x_bytes, n, 64 * start, 64 * stop)
    return wait_for_all(step.counter, meeting, step.n_thread)


@part
def feed_forward(step: Any, thread: int, layer: Any, first: int, meeting: int) -> int:
    """`x += down(silu(gate(norm(x))) · up(norm(x)))`, for the tokens from `first` on."""
    n = step.n_token - first
    x, ff_bytes = step.x + first * step.x_bytes, step.ff_bytes
    packed = pack_rows(step, thread, layer.gate_up_inputs, (x, step.x_bytes, layer.ffn_norm), n)
    meeting = meet_if_shared(step, meeting, n)
    multiply(step, thread, layer.gate, packed, step.gate, ff_bytes, n)
    multiply(step, thread, layer.up, packed, step.up, ff_bytes, n)
    meeting = wait_for_all(step.counter, meeting, step.n_thread)
    start = layer.gate.n_group * thread // step.n_thread
    stop = layer.gate.n_group * (thread + 1) // step.n_thread
    silu_multiply(step.gate, step.up, ff_bytes, n, 64 * start, 64 * stop)
    meeting = wait_for_all(step.counter, meeting, step.n_thread)
    source = (step.gate - first * ff_bytes, ff_bytes, ZERO)
    return add_product(step, thread, (layer.down, layer.down_inputs), source, first, meeting)


@part
def output_logits(step: Any, thread: int, logits: int, meeting: int) -> int:
    """Final norm, and at `logits` the logits of the tokens from `first_output` on."""
    n = step.n_token - step.first_output
    x = step.x + step.first_output * step.x_bytes
    packed = pack_rows(step, thread, step.output_inputs, (x, step.x_bytes, step.output_norm), n)
    meeting = meet_if_shared(step, meeting, n)
    multiply(step, thread, step.output, packed, logits, step.logits_bytes, n)
    return wait_for_all(step.counter, meeting, step.n_thread)
