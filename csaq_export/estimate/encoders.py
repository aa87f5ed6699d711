"""Seconds of encoding a matrix, from trials of the same encoder on few rows.

Plain encoding takes time in proportion to the weights. Guided rounding of [n_row, n_col]
adds steps per column, products of what is left over with the curvature, and its factors.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from csaq_export.quantize import GRID_FORMATS, encode
from csaq_export.quantize.feedback import compensation
from csaq_export.quantize.float_bytes import FLOAT_TYPES
from csaq_export.quantize.guided import encode_guided
from csaq_export.sensitivity import Sensitivity, Term
from csaq_runtime.formats import LAYOUTS, GGMLType

FEW_ROWS, MORE_ROWS = 64, 256
TRIAL_WEIGHTS = 1 << 18
TRIAL_COLUMNS = 512


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of `work`: of all cores on a CPU, whatever else runs there; of the clock on CUDA."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        return time.perf_counter() - start
    start = time.process_time()
    work()
    return time.process_time() - start


@dataclass(frozen=True)
class Encoders:
    """Trials on `device`, each made once; all seconds are of one core on a CPU."""

    device: torch.device

    def plain(self, ggml_type: GGMLType, n_weight: int) -> float:
        """Seconds to encode so many weights without guidance."""
        return n_weight * _plain_rate(ggml_type, self.device)

    def guided(self, ggml_type: GGMLType, n_row: int, n_col: int, n_sweep: int) -> float:
        """Seconds to round a matrix with feedback and descent."""
        if ggml_type in FLOAT_TYPES:
            return self.plain(ggml_type, n_row * n_col)
        per_column, per_weight = _guided_rates(ggml_type, self.device)
        product = n_row * n_col * n_col * _product_rate(self.device)
        found = n_col * per_column + n_row * n_col * per_weight + product / 2
        found += n_col**3 * _factor_rate(self.device)
        if ggml_type not in GRID_FORMATS:
            found += n_sweep * (n_row * n_col * n_col * _descent_rate(n_row, n_col, self.device))
            found += n_sweep * 2 * product
        return found


def _random(n_row: int, n_col: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n_row, n_col, generator=generator).to(device)


def _curvature(n_col: int, device: torch.device) -> Tensor:
    sample = _random(2 * n_col, n_col, device)
    return sample.T @ sample / (2 * n_col)


@cache
def _plain_rate(ggml_type: GGMLType, device: torch.device) -> float:
    weight = _random(TRIAL_WEIGHTS // 1024, 1024, device)
    encode(weight[:4], ggml_type)
    return timed(lambda: encode(weight, ggml_type), device) / weight.numel()


@cache
def _guided_rates(ggml_type: GGMLType, device: torch.device) -> tuple[float, float]:
    """Seconds per column and per weight beyond the products, from two numbers of rows."""
    n_col = max(TRIAL_COLUMNS, LAYOUTS[ggml_type].block_size)
    curvature = _curvature(n_col, device)

    def trial(n_row: int) -> float:
        weight = _random(n_row, n_col, device)
        term = Term(curvature, torch.ones(n_row, device=device))
        product = n_row * n_col * n_col * _product_rate(device) / 2
        seconds = timed(lambda: encode_guided(weight, ggml_type, Sensitivity((term,)), 0), device)
        return seconds - product - n_col**3 * _factor_rate(device)

    trial(FEW_ROWS)
    few, more = trial(FEW_ROWS), trial(MORE_ROWS)
    per_weight = max(more - few, 0.0) / ((MORE_ROWS - FEW_ROWS) * n_col)
    return max(few / n_col - FEW_ROWS * per_weight, 0.0), per_weight


@cache
def _product_rate(device: torch.device) -> float:
    """Seconds per multiply-add of float32 products."""
    one, other = _random(256, 1024, device), _random(1024, 1024, device)
    one @ other
    return timed(lambda: [one @ other for _ in range(4)], device) / (4 * 256 * 1024 * 1024)


@cache
def _factor_rate(device: torch.device) -> float:
    """Seconds per cubed column of the curvature's factors in float64."""
    curvature = _curvature(768, device)
    compensation(curvature)
    return timed(lambda: compensation(curvature), device) / 768**3


@cache
def _descent_rate(n_row: int, n_col: int, device: torch.device) -> float:
    """Seconds per entry that one column's change moves in the pull on all others."""
    rows = min(n_row, (1 << 24) // n_col)
    pull = torch.zeros(n_col, rows, device=device)
    column, change = torch.zeros(n_col, 1, device=device), torch.zeros(rows, device=device)

    def step() -> None:
        for _ in range(4):
            pull.add_(column * change)

    step()
    return timed(step, device) / (4 * n_col * rows)
