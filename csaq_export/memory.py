"""How much memory a conversion takes: compared with what there is before any weight is read."""

from math import prod

from csaq_export.model import Model
from csaq_export.plan import Plan
from csaq_export.weight import CHUNK_WEIGHTS, Weight
from csaq_runtime.memory_limits import require_memory

WORKING_BYTES = 256 * 2**20
"""What torch, transformers and the tokenizer still load when this is asked."""

CHUNK_COPIES = 6
"""Of a chunk of rows at once: stored, float32, and what an encoder compares."""


def check_streaming(source: str, plan: Plan) -> None:
    """Raise ResourceError unless a conversion without calibration has room.

    It holds a few copies of one chunk of rows: 16 MiB of float32, or one row if that is more.
    """
    widest = max((tensor.weight.n_col for tensor in plan.tensors), default=0)
    chunks = CHUNK_COPIES * 4 * max(CHUNK_WEIGHTS, widest)
    require_memory(source, {"rows": chunks, "program": WORKING_BYTES}, "")


def check_calibrating(model: Model, n_copy: int) -> None:
    """Raise ResourceError unless a calibrated conversion has room.

    It holds `n_copy` copies of the model in float32, the largest
    curvature [n_col, n_col], and some copies of the largest matrix while that is rounded.
    """
    matrices = [weight for weight in model.weights if len(weight.shape) > 1]
    largest = max((prod(weight.shape) for weight in matrices), default=0)
    parts = {
        "weights": n_copy * 4 * sum(prod(weight.shape) for weight in model.weights),
        "curvature": 4 * max(map(_curvature, matrices), default=0),
        "rounding": CHUNK_COPIES * 4 * largest,
        "program": WORKING_BYTES,
    }
    require_memory(model.name, parts, "try --effort normal, a smaller model, or a larger machine")


def _curvature(weight: Weight) -> int:
    return weight.n_col**2
