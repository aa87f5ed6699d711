"""Core seconds of rounding a matrix under guidance, from the same functions on a few blocks.

Rounding [n_row, n_col] is work on one super-block of columns after the other, whose losses
are passed on to the columns behind: the first is tried on 256 columns, the second at the
matrix's own width. The factors of a curvature take n_col³ and are tried on fewer columns.
"""

import time
from functools import cache

import torch
from torch import Tensor

from csaq_export.estimate.clock import timed_alone
from csaq_export.parallel import in_parallel
from csaq_export.quantize.descent import GROUP
from csaq_export.quantize.encode import encode
from csaq_export.quantize.float_bytes import FLOAT_TYPES
from csaq_export.quantize.guided import Guide, encode_by, guides, rows_at_once
from csaq_export.quantize.packed import Packed
from csaq_export.sensitivity import Sensitivity, Term, shrunk
from csaq_runtime.formats import LAYOUTS, GGMLType

# Columns of the trial: a super-block.
NARROW = 256
# Columns of which factors are tried; those of wider curvatures follow from two trials.
FEW_COLUMNS, MORE_COLUMNS = 512, 1280
# Beyond this a trial was disturbed.
MOST_SLOWDOWN = 1.5
_N_TOKEN = 1000.0


def rounding_seconds(
    ggml_type: GGMLType, n_row: int, n_col: int, n_sweep: int, device: torch.device
) -> float:
    """Seconds of `encode_by` without the factors."""
    if ggml_type in FLOAT_TYPES:
        return n_row * n_col * _float_rate(device)
    most = rows_at_once(n_col, device)
    full, rest = divmod(n_row, most)
    found = full * _chunk(ggml_type, most, n_col, n_sweep, device)
    return found + (_chunk(ggml_type, rest, n_col, n_sweep, device) if rest else 0.0)


@cache
def slowdown(n_row: int, n_worker: int, device: torch.device) -> float:
    """How many times as long rounding `n_row` rows takes with `n_worker` side by side as alone.

    1 where they do not hinder each other; `n_worker` and more where they take turns, as
    threads of Python do in operations as short as those on few rows.
    """
    if n_worker == 1 or device.type == "cuda":
        return 1.0
    weight, rows = _random(n_row, NARROW, device), torch.arange(n_row, device=device)
    curvature = _curvature(NARROW, device)
    guide = Guide(rows, curvature, curvature.triu())
    _warm(GGMLType.Q4_K, device)

    def seconds(n: int) -> float:
        start = time.perf_counter()
        in_parallel(lambda _: encode_by(weight, GGMLType.Q4_K, (guide,), 0), range(n), device, n)
        return time.perf_counter() - start

    return min(max(1.0, seconds(n_worker) / seconds(1)), MOST_SLOWDOWN * n_worker)


@cache
def factor_seconds(n_col: int, device: torch.device) -> float:
    """Seconds from a stored curvature to what guides rounding."""
    if n_col <= MORE_COLUMNS:
        curvature = _curvature(n_col, device)

        def work() -> None:
            term = Term(shrunk(curvature, _N_TOKEN), torch.ones(1, device=device))
            list(guides(Sensitivity((term,)), device))

        return timed_alone(work, device)
    few, more = factor_seconds(FEW_COLUMNS, device), factor_seconds(MORE_COLUMNS, device)
    # a·n² + b·n³ through both.
    few, more = few / FEW_COLUMNS**2, more / MORE_COLUMNS**2
    b = max(0.0, (more - few) / (MORE_COLUMNS - FEW_COLUMNS))
    return n_col**2 * (max(0.0, few - b * FEW_COLUMNS) + b * n_col)


def loss_seconds(n_row: int, n_col: int, device: torch.device) -> float:
    """Seconds of weighing the error of so many rows by the curvature."""
    rows = min(n_row, rows_at_once(n_col, device))
    return n_row / rows * n_col / NARROW * _product(rows, n_col, device)


@cache
def decode_rate(ggml_type: GGMLType, device: torch.device) -> float:
    """Seconds per weight of a rounded matrix's weights."""
    weight = _random(2 * NARROW, NARROW, device)
    packed = Packed(ggml_type, encode(weight, ggml_type))
    packed.weight()
    return timed_alone(packed.weight, device) / weight.numel()


@cache
def _float_rate(device: torch.device) -> float:
    weight = _random(NARROW, 4 * NARROW, device)
    return timed_alone(lambda: encode(weight, GGMLType.F16), device) / weight.numel()


@cache
def _chunk(
    ggml_type: GGMLType, n_row: int, n_col: int, n_sweep: int, device: torch.device
) -> float:
    """Rows that are rounded together."""
    width = min(NARROW, n_col)
    plain, swept = _narrow(ggml_type, n_row, width, device, n_sweep > 0)
    found, beyond = n_col / width * (plain + n_sweep * swept), n_col - width
    if beyond <= 0:
        return found
    size = min(LAYOUTS[ggml_type].block_size, width)
    # Every block's losses reach half of the others on average.
    found += n_col / size * _passing(n_row, size, n_col, device) * beyond / n_col
    if swept:
        products = 2 * n_col / NARROW * _product(n_row, n_col, device)
        groups = n_col / GROUP * _passing(n_row, GROUP, n_col, device)
        found += n_sweep * (products + groups) * beyond / n_col
    return found


@cache
def _narrow(
    ggml_type: GGMLType, n_row: int, width: int, device: torch.device, sweeps: bool
) -> tuple[float, float]:
    """Seconds of feedback, and of a sweep, on `width` columns."""
    weight, rows = _random(n_row, width, device), torch.arange(n_row, device=device)
    (guide,) = guides(Sensitivity((Term(_curvature(width, device), rows.float()),)), device)

    def seconds(n_sweep: int) -> float:
        return timed_alone(lambda: encode_by(weight, ggml_type, (guide,), n_sweep), device)

    _warm(ggml_type, device)
    plain = seconds(0)
    return plain, max(0.0, seconds(1) - plain) if sweeps else 0.0


@cache
def _warm(ggml_type: GGMLType, device: torch.device) -> None:
    """Make what an encoder makes once."""
    width = max(LAYOUTS[ggml_type].block_size, 32)
    guide = Guide(
        torch.arange(1, device=device), _curvature(width, device), _curvature(width, device)
    )
    encode_by(_random(1, width, device), ggml_type, (guide,), 1)


@cache
def _passing(n_row: int, size: int, n_col: int, device: torch.device) -> float:
    """What `size` columns lost, on its way to half of `n_col` columns."""
    half = max(1, n_col // 2)
    lost, upper, rest = (
        _random(*shape, device) for shape in ((n_row, size), (size, half), (n_row, half))
    )

    def work() -> None:
        rest.sub_(lost @ upper)

    work()
    return timed_alone(work, device)


@cache
def _product(n_row: int, n_col: int, device: torch.device) -> float:
    """All columns' errors times NARROW columns of the curvature."""
    change, square = _random(n_row, n_col, device), _random(n_col, NARROW, device)
    change[:8] @ square
    return timed_alone(lambda: change @ square, device)


def _random(n_row: int, n_col: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n_row, n_col, generator=generator).to(device)


def _curvature(n_col: int, device: torch.device) -> Tensor:
    """Well-conditioned, as far as times depend on it."""
    sample = _random(n_col, n_col, device)
    return (sample + sample.T).fill_diagonal_(6 * n_col**0.5)
