"""Rotary position embedding (arXiv:2104.09864) of one head, in place.

A head is stored as two halves of `half_bytes` each (zero-padded to whole vectors); pair i is
element i of both. Weights whose pairs are neighbours were reordered at load (`model.py`).
"""

from csaq_runtime.kernels import lanes
from csaq_runtime.kernels.jit import part


@part
def rotate_head(head: int, table: int, half_bytes: int) -> None:
    """Rotate one head; `table` holds cosines, then sines, `half_bytes` of float32 each."""
    for offset in range(0, half_bytes, 64):
        low, high = lanes.load(head + offset), lanes.load(head + half_bytes + offset)
        cosine, sine = lanes.load(table + offset), lanes.load(table + half_bytes + offset)
        lanes.store(
            head + offset, lanes.subtract(lanes.multiply(low, cosine), lanes.multiply(high, sine))
        )
        lanes.store(
            head + half_bytes + offset,
            lanes.multiply_add(low, sine, lanes.multiply(high, cosine)),
        )
