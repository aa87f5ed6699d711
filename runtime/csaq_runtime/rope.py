"""Rotary position embedding: hyper-parameters → table of cosines and sines.

Frequencies follow llama.cpp (`ggml_compute_forward_rope`): linear scaling, YaRN
(arXiv:2309.00071, betas 32 and 1) and Llama 3's per-frequency factors, which converters
store as the tensor `rope_freqs.weight`.
"""

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.heads import padded
from csaq_runtime.hparams import HParams

BETA_FAST, BETA_SLOW = 32.0, 1.0

_POSITIONS_AT_ONCE = 4096


def rope_table(
    hparams: HParams, n_ctx: int, factors: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Cosines and sines by position: float32 [n_ctx, 2, half of a head, padded with zeros].

    `factors` [head_dim / 2] divide the frequencies.
    """
    frequencies = _frequencies(hparams, factors)
    table = np.zeros((n_ctx, 2, padded(frequencies.size)), np.float32)
    magnitude = _magnitude(hparams)
    # Piece by piece: in double precision a long context would take several times the table.
    for start in range(0, n_ctx, _POSITIONS_AT_ONCE):
        rows = table[start : start + _POSITIONS_AT_ONCE]
        angles = np.arange(start, start + len(rows))[:, None] * frequencies
        rows[:, 0, : frequencies.size] = np.cos(angles) * magnitude
        rows[:, 1, : frequencies.size] = np.sin(angles) * magnitude
    return table


def _frequencies(hparams: HParams, factors: NDArray[np.float32] | None) -> NDArray[np.float64]:
    """Radians per position of every pair, scaling applied: [head_dim / 2]."""
    half = hparams.head_dim // 2
    frequencies = hparams.rope_base ** (-np.arange(half) / half)
    if factors is not None:
        frequencies = frequencies / factors.astype(np.float64)
    scaling = hparams.rope_scaling
    stretched = frequencies / scaling.factor
    if scaling.kind != "yarn":
        return np.asarray(stretched)
    kept = _yarn_kept(hparams)
    return np.asarray(stretched * (1 - kept) + frequencies * kept)


def _yarn_kept(hparams: HParams) -> NDArray[np.float64]:
    """How much of every frequency YaRN leaves unscaled: 1 for the fast ones, 0 for the slow."""

    def dimension(n_rotation: float) -> float:
        wavelength = hparams.rope_scaling.n_ctx_original / (n_rotation * 2 * np.pi)
        return float(hparams.head_dim * np.log(wavelength) / (2 * np.log(hparams.rope_base)))

    low = max(0.0, np.floor(dimension(BETA_FAST)))
    high = min(hparams.head_dim - 1.0, np.ceil(dimension(BETA_SLOW)))
    ramp = (np.arange(hparams.head_dim // 2) - low) / max(0.001, high - low)
    return np.asarray(1 - np.clip(ramp, 0, 1))


def _magnitude(hparams: HParams) -> float:
    """What YaRN multiplies cosines and sines with, times the file's own factor."""
    scaling = hparams.rope_scaling
    if scaling.kind != "yarn":
        return scaling.attention_factor
    return float(scaling.attention_factor * (1 + 0.1 * np.log(max(scaling.factor, 1.0))))
