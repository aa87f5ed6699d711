"""The whole step as one function, run by every thread at once."""

from csaq_runtime.kernels.access import layers_at, step_at
from csaq_runtime.kernels.jit import part
from csaq_runtime.kernels.layer import (
    add_product,
    attend,
    feed_forward,
    output_logits,
    project_qkv,
)


@part
def run_step(address: int, thread: int) -> None:
    """Run thread number `thread` of the step whose `STEP` record is at `address`.

    Returns when all threads have arrived at the end. In the last layer only the tokens whose
    logits are wanted go on after their keys and values are in the cache.
    """
    step = step_at(address)
    layers = layers_at(step.layers, step.n_layer)
    meeting = step.first_meeting
    for index in range(step.n_layer):
        layer = layers[index]
        is_last = index == step.n_layer - 1
        first, first_tile = (step.first_output, step.first_tile) if is_last else (0, 0)
        meeting = project_qkv(step, thread, layer, meeting)
        meeting = attend(step, thread, layer, index, first_tile, meeting)
        attended = (step.attended, step.attended_bytes, 0)
        meeting = add_product(step, thread, (layer.o, layer.o_inputs), attended, first, meeting)
        meeting = feed_forward(step, thread, layer, first, meeting)
    output_logits(step, thread, meeting)
