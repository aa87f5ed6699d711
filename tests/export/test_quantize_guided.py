"""Rounding under guidance beside itself: who waits for whom."""

import time
from threading import Lock

import pytest
import torch

from csaq_export.parallel import in_parallel
from csaq_export.quantize import guided
from csaq_export.quantize.guided import CPU_ROWS, Guide, encode_by, takes_turns
from csaq_runtime.errors import ModelError
from csaq_runtime.formats import GGMLType

CPU = torch.device("cpu")
N_COL = 256


def most_at_once(monkeypatch, ggml_type, n_row):
    """Threads that were rounding at the same moment, of two that are given a matrix each."""
    counter, here, most = Lock(), [], []

    def slow(weight, *_):
        with counter:
            here.append(1)
            most.append(len(here))
        time.sleep(0.2)
        with counter:
            here.pop()
        return torch.zeros(len(weight), 1, dtype=torch.uint8)

    monkeypatch.setattr(guided, "_encode_rows", slow)
    square = torch.eye(N_COL)
    weight, guide = torch.ones(n_row, N_COL), Guide(torch.arange(n_row), square, square)
    in_parallel(lambda _: encode_by(weight, ggml_type, (guide,), 0), range(2), CPU, 2)
    return max(most)


@pytest.mark.skipif(torch.get_num_threads() == 1, reason="one core: nothing is side by side")
@pytest.mark.parametrize(
    ("ggml_type", "n_row", "expected"),
    [
        (GGMLType.Q4_K, 128, 1),
        (GGMLType.Q8_0, CPU_ROWS - 1, 1),
        (GGMLType.Q4_K, CPU_ROWS, 2),
        (GGMLType.IQ3_S, 128, 2),
    ],
)
def test_few_rows_are_rounded_by_one_thread_at_a_time(monkeypatch, ggml_type, n_row, expected):
    assert takes_turns(ggml_type, n_row) == (expected == 1)
    assert most_at_once(monkeypatch, ggml_type, n_row) == expected


def test_a_matrix_that_fails_lets_the_next_have_its_turn(monkeypatch):
    square = torch.eye(N_COL)
    weight, guide = torch.ones(8, N_COL), Guide(torch.arange(8), square, square)

    def fail(*_):
        raise ModelError("blk.0: damaged")

    with monkeypatch.context() as patch:
        patch.setattr(guided, "_encode_rows", fail)
        with pytest.raises(ModelError):
            encode_by(weight, GGMLType.Q8_0, (guide,), 0)
    assert encode_by(weight, GGMLType.Q8_0, (guide,), 0).shape[0] == 8
