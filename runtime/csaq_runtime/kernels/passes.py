"""From one pass to the next in a step of several: a drafting head's tokens, one after another.

The head's own choice becomes its next input: `x = state · state_scale + input of the token`, the
state being x after the final norm. Thread 0 does this between two meetings; it is little.
"""

from typing import Any

import numpy as np

from csaq_runtime.kernels import lanes
from csaq_runtime.kernels.access import floats_at, int64_at, rows_at
from csaq_runtime.kernels.attention import MASKED
from csaq_runtime.kernels.barrier import wait_for_all
from csaq_runtime.kernels.jit import part
from csaq_runtime.kernels.norm import rms_norm


@part
def choose(step: Any, thread: int, number: int, logits: int, meeting: int) -> int:
    """Choose the token of pass `number`, and prepare the next pass or end the step."""
    if thread == 0:
        choice = likeliest(logits, step.n_choice)
        confidence = share_of(logits, choice, step.n_choice)
        int64_at(step.choices, step.n_pass)[number] = choice
        floats_at(step.confidences, step.n_pass)[number] = confidence
        step.sureness = step.sureness * confidence
        if step.sureness < step.least_sureness:
            step.n_pass = number + 1
        elif number + 1 < step.n_pass:
            next_input(step, choice)
            rows_at(step.rows, 1)[0].position += 1
    return wait_for_all(step.counter, meeting, step.n_thread)


@part
def likeliest(logits: int, n: int) -> int:
    """Index of the largest of `n` logits, the first of several."""
    values = floats_at(logits, n)
    best = 0
    for index in range(1, n):
        if values[index] > values[best]:
            best = index
    return best


@part
def share_of(logits: int, choice: int, n: int) -> float:
    """Probability of the largest logit, number `choice`, among `n`.

    Overwrites what follows them in the last vector of 16.
    """
    stop = (n + 15) // 16 * 16
    for index in range(n, stop):
        lanes.store_scalar(logits + 4 * index, MASKED)
    largest, weights = lanes.splat(lanes.load_scalar(logits + 4 * choice)), lanes.zero()
    for index in range(0, stop, 16):
        value = lanes.subtract(lanes.load(logits + 4 * index), largest)
        weights = lanes.add(weights, lanes.exponential(value))
    share: float = np.float32(1.0) / lanes.total(weights)
    return share


@part
def next_input(step: Any, choice: int) -> None:
    """Make x of the state and the token's input."""
    rms_norm(step.x, step.output_norm, step.x, step.n_embd, step.x_bytes, step.epsilon)
    token = step.choice_inputs + choice * (step.x_bytes // 2)
    for offset in range(0, step.x_bytes, 64):
        state = lanes.load(step.x + offset)
        scale, add = lanes.load(step.state_scale + offset), lanes.load_half(token + offset // 2)
        lanes.store(step.x + offset, lanes.multiply_add(state, scale, add))
