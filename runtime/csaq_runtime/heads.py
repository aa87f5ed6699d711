"""How attention heads lie in memory: file rows → rows padded and ordered for the kernels.

A query or key head becomes two halves, each padded to whole vectors of 16, with pair i of the
rotary embedding at place i of both. Scores do not change when queries and keys are reordered
alike, so files whose pairs are neighbours (llama) need no kernel of their own. Value heads
keep their order and are padded at the end.
"""

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.hparams import HParams

N_LANE = 16
PADDING = -1


def padded(n: int) -> int:
    """`n` rounded up to whole vectors."""
    return -(-n // N_LANE) * N_LANE


def head_pad(hparams: HParams) -> int:
    """Elements of a padded head."""
    return 2 * padded(hparams.head_dim // 2)


def rotary_rows(hparams: HParams, n_head: int) -> NDArray[np.int64]:
    """Source row of every row of a padded query or key matrix, or -1: [n_head · head_pad]."""
    half, half_pad = hparams.head_dim // 2, padded(hparams.head_dim // 2)
    pair = np.arange(half)
    first = 2 * pair if hparams.rope_is_interleaved else pair
    second = first + (1 if hparams.rope_is_interleaved else half)
    head = np.full(2 * half_pad, PADDING)
    head[:half], head[half_pad : half_pad + half] = first, second
    return _repeat(head, n_head, hparams.head_dim)


def value_rows(hparams: HParams, n_head: int) -> NDArray[np.int64]:
    """Source row of every row of a padded value matrix, or -1: [n_head · head_pad]."""
    head = np.full(head_pad(hparams), PADDING)
    head[: hparams.head_dim] = np.arange(hparams.head_dim)
    return _repeat(head, n_head, hparams.head_dim)


def _repeat(head: NDArray[np.int64], n_head: int, head_dim: int) -> NDArray[np.int64]:
    rows = head + head_dim * np.arange(n_head)[:, None]
    return np.where(head == PADDING, PADDING, rows).reshape(-1)


def take_rows(matrix: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Packed rows [n_row, row_bytes] in the order `rows`; padding rows are all-zero bytes.

    All-zero bytes decode to zero in every ggml type. Returns `matrix` itself where nothing moves.
    """
    if rows.size == matrix.shape[0] and (rows == np.arange(rows.size)).all():
        return matrix
    taken = matrix[np.maximum(rows, 0)]
    taken[rows == PADDING] = 0
    return taken


def take_elements(vector: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Elements of a bias or norm in the order `rows`, zeros for padding."""
    return np.where(rows == PADDING, np.float32(0), vector[np.maximum(rows, 0)])
