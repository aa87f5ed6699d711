"""The whole step as one function, run by every thread at once."""

from csaq_runtime.kernels.access import layers_at, step_at
from csaq_runtime.kernels.call import call_attention
from csaq_runtime.kernels.jit import ZERO, part
from csaq_runtime.kernels.layer import add_product, feed_forward, output_logits, project_qkv
from csaq_runtime.kernels.passes import choose


@part
def run_step(address: int, thread: int) -> None:
    """Run thread number `thread` of the step whose `STEP` record is at `address`.

    Returns when all threads have arrived at the end.
    """
    step = step_at(address)
    meeting, number = step.first_meeting, ZERO
    while number < step.n_pass:
        logits = step.logits + number * step.logits_bytes
        meeting = run_pass(address, thread, logits, meeting)
        if step.n_choice > 0:
            meeting = choose(step, thread, number, logits, meeting)
        number += 1


@part
def run_pass(address: int, thread: int, logits: int, meeting: int) -> int:
    """All layers and the output, whose logits go to `logits`.

    In the last layer only the tokens whose logits are wanted go on after their keys and values
    are in the cache.
    """
    step = step_at(address)
    layers = layers_at(step.layers, step.n_layer)
    for index in range(step.n_layer):
        layer = layers[index]
        is_last = index == step.n_layer - 1
        first, first_tile = (step.first_output, step.first_tile) if is_last else (0, 0)
        meeting = project_qkv(step, thread, layer, meeting)
        meeting = call_attention(step.attention, address, thread, index, first_tile, meeting)
        attended = (step.attended, step.attended_bytes, ZERO)
        meeting = add_product(step, thread, (layer.o, layer.o_inputs), attended, first, meeting)
        meeting = feed_forward(step, thread, layer, first, meeting)
    return output_logits(step, thread, logits, meeting)
