"""Rows files compute what their weights say, whatever the threads, the batch and the order."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from csaq_runtime.engine import Engine
from csaq_runtime.evaluate import log_softmax
from csaq_runtime.gguf import open_gguf
from csaq_runtime.hparams import read_hparams
from csaq_runtime.tensors import check_tensors
from tests.runtime.rows_models import RowsModel, rows_model
from tests.runtime.tiny_models import write_gguf

IDS = [int(i) for i in np.random.default_rng(0).integers(0, 96, 75)]
FLOATS = ((32, Type.F32, 17), (31, Type.F32, 5), (16, Type.BF16, None))
"""Types that meet float32 activations: the comparison is exact but for the order of sums."""

EIGHT_TWICE = ((9, Type.Q8_0, 19), (8, Type.Q8_0, None))


def logits(path: Path, n_threads: int = 1, n_batch: int = 512) -> NDArray[np.float32]:
    with Engine.open(path, n_threads=n_threads, n_batch=n_batch, cache_type="f32") as engine:
        return engine.logits(IDS)


def compared(model: RowsModel, folder: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    stock = logits(model.write_stock(folder / "stock.gguf"))
    return logits(model.write(folder / "rows.gguf")), stock


@pytest.mark.parametrize(
    ("architecture", "outliers", "rank", "head_dim"),
    [("llama", 0.0, 0, 16), ("qwen2", 0.02, 16, 16), ("qwen3", 0.05, 5, 24)],
)
def test_float_tiers_and_corrections_equal_the_matrix_they_add_up_to(
    architecture: str, outliers: float, rank: int, head_dim: int, tmp_path: Path
) -> None:
    """Heads of 24 elements take 32 in memory, the rest being zeros."""
    shape = {"head_dim": head_dim} if architecture == "qwen3" else {}
    model = rows_model(architecture, FLOATS, outliers, rank, **shape)
    found, expected = compared(model, tmp_path)
    assert np.abs(found - expected).max() <= 1e-5 * np.ptp(expected)


def test_tiers_of_one_type_give_the_bits_of_the_stock_file(tmp_path: Path) -> None:
    model = rows_model("llama", EIGHT_TWICE)
    stock = write_gguf(tmp_path / "q8.gguf", "llama", model.keys, model.meant, Type.Q8_0)
    assert (logits(model.write(tmp_path / "rows.gguf")) == logits(stock)).all()


def divergence(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    log_p, log_q = log_softmax(expected), log_softmax(found)
    return float((np.exp(log_p) * (log_p - log_q)).sum(1).mean())


def test_quantized_tiers_are_as_close_to_their_weights_as_a_stock_file(tmp_path: Path) -> None:
    """What remains is the rounding of activations to 8 bits, in both alike."""
    mixed = divergence(*compared(rows_model("llama", outliers=0.02), tmp_path))
    model = rows_model("llama", EIGHT_TWICE)
    expected = logits(model.write_stock(tmp_path / "f32.gguf"))
    stock = write_gguf(tmp_path / "q8.gguf", "llama", model.keys, model.meant, Type.Q8_0)
    assert 0 < mixed <= 1.5 * divergence(logits(stock), expected)


@pytest.mark.parametrize("tied", [False, True])
def test_threads_and_batches_do_not_change_a_bit(tied: bool, tmp_path: Path) -> None:
    model = rows_model("llama", outliers=0.03, rank=32, tie_word_embeddings=tied)
    path = model.write(tmp_path / "rows.gguf")
    whole = logits(path)
    assert (logits(path, n_threads=2) == whole).all()
    for n_batch in (1, 3, 13, 64, 70):
        assert (logits(path, n_threads=2, n_batch=n_batch) == whole).all()


def test_the_weights_read_back_are_those_meant(tmp_path: Path) -> None:
    model = rows_model("qwen2", outliers=0.05, rank=4)
    with open_gguf(model.write(tmp_path / "rows.gguf")) as file:
        weights = check_tensors(file, read_hparams(file))
        for base, weight in weights.items():
            meant = model.meant[f"{base}.weight"]
            np.testing.assert_allclose(weight.float32(file), meant, atol=1e-6)
