"""Work of rounding a matrix under guidance, from the same functions on a few blocks.

Rounding [n_row, n_col] is work on one super-block of columns after the other, whose losses
are passed on to the columns behind: the first is tried on 256 columns, the second at the
matrix's own width. The factors of a curvature take n_col³ and are tried on fewer columns.
"""

from functools import cache, partial

import torch
from torch import Tensor

from csaq_export.estimate.clock import slowdown, steady_alone
from csaq_export.estimate.work import Work
from csaq_export.quantize.descent import GROUP
from csaq_export.quantize.encode import encode
from csaq_export.quantize.float_bytes import FLOAT_TYPES
from csaq_export.quantize.grid_format import GRID_FORMATS
from csaq_export.quantize.guided import Guide, encode_by, guides, rows_at_once, takes_turns
from csaq_export.quantize.packed import Packed
from csaq_export.sensitivity import Sensitivity, Term, shrunk
from csaq_runtime.formats import LAYOUTS, GGMLType

# Columns of the trial: a super-block.
NARROW = 256
# Columns of which factors are tried; those of wider curvatures follow from two trials.
FEW_COLUMNS, MORE_COLUMNS = 512, 1280
_N_TOKEN = 1000.0


def rounding_work(
    ggml_type: GGMLType,
    shape: tuple[int, int],
    n_sweep: int,
    device: torch.device,
    n_worker: int = 1,
) -> Work:
    """Of `encode_by` without the factors, by one of `n_worker`; `shape` is (n_row, n_col)."""
    n_row, n_col = shape
    if ggml_type in FLOAT_TYPES:
        return Work(free=n_row * n_col * _float_rate(device))
    most = rows_at_once(n_col, device)
    full, rest = divmod(n_row, most)
    found = Work()
    for n, rows in ((full, most), (1, rest)):
        if n and rows:
            found += _part(ggml_type, (rows, n_col), n_sweep, device, n_worker).times(n)
    return found


@cache
def _hindered(ggml_type: GGMLType, n_row: int, n_worker: int, device: torch.device) -> float:
    """The `slowdown` of rounding `n_row` rows."""
    weight, rows = _random(n_row, NARROW, device), torch.arange(n_row, device=device)
    curvature = _curvature(NARROW, device)
    guide = Guide(rows, curvature, curvature.triu())
    _warm(ggml_type, device)
    return slowdown(lambda: encode_by(weight, ggml_type, (guide,), 0), n_worker, device)


@cache
def factor_seconds(n_col: int, device: torch.device) -> float:
    """Seconds from a stored curvature to what guides rounding."""
    if n_col <= MORE_COLUMNS:
        curvature = _curvature(n_col, device)

        def work() -> None:
            term = Term(shrunk(curvature, _N_TOKEN), torch.ones(1, device=device))
            list(guides(Sensitivity((term,)), device))

        return steady_alone(work, device)
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
    return steady_alone(packed.weight, device) / weight.numel()


@cache
def _float_rate(device: torch.device) -> float:
    weight = _random(NARROW, 4 * NARROW, device)
    return steady_alone(lambda: encode(weight, GGMLType.F16), device) / weight.numel()


def _part(
    ggml_type: GGMLType, shape: tuple[int, int], n_sweep: int, device: torch.device, n_worker: int
) -> Work:
    """Rows that are rounded together."""
    n_row, n_col = shape
    wide = _wide_part(ggml_type, shape, n_sweep, device)
    width = min(NARROW, n_col)
    swept = 0.0
    if n_sweep and ggml_type not in GRID_FORMATS:
        swept = _swept(n_row, width, n_sweep, device)
    narrow = (_narrow(ggml_type, n_row, width, device) + swept) * n_col / width
    if takes_turns(ggml_type, n_row):
        return Work(rounding=narrow + wide, waiting=(n_worker - 1) * (narrow + wide))
    more = _hindered(_alike(ggml_type), n_row, n_worker, device) - 1
    # What waiting for each other adds depends on the number of operations, which is that of
    # related types, and not on how long they take.
    alike = _narrow(_alike(ggml_type), n_row, NARROW, device) * n_col / NARROW if more else 0.0
    return Work(wide, narrow, more * (alike + swept * n_col / width))


def _alike(ggml_type: GGMLType) -> GGMLType:
    """A type whose search for scales takes about as many operations."""
    if ggml_type in GRID_FORMATS:
        return GGMLType.IQ3_S
    has_offset = ggml_type in (GGMLType.Q2_K, GGMLType.Q4_K, GGMLType.Q5_K)
    return GGMLType.Q4_K if has_offset else GGMLType.Q6_K


@cache
def _wide_part(
    ggml_type: GGMLType, shape: tuple[int, int], n_sweep: int, device: torch.device
) -> float:
    """Products that carry what a super-block lost to the columns behind it."""
    n_row, n_col = shape
    beyond = n_col - NARROW
    if beyond <= 0:
        return 0.0
    size = min(LAYOUTS[ggml_type].block_size, NARROW)
    # Every block's losses reach half of the others on average.
    found = n_col / size * _passing(n_row, size, n_col, device)
    if n_sweep and ggml_type not in GRID_FORMATS:
        products = 2 * n_col / NARROW * _product(n_row, n_col, device)
        found += n_sweep * (products + n_col / GROUP * _passing(n_row, GROUP, n_col, device))
    return found * beyond / n_col


@cache
def _narrow(ggml_type: GGMLType, n_row: int, width: int, device: torch.device) -> float:
    """Seconds of feedback on `width` columns."""
    return _encoding(ggml_type, (n_row, width), 0, device)


@cache
def _swept(n_row: int, width: int, n_sweep: int, device: torch.device) -> float:
    """Seconds of sweeps of descent on `width` columns: types differ little."""
    alike = GGMLType.Q8_0 if width % NARROW else GGMLType.Q4_K
    swept = _encoding(alike, (n_row, width), n_sweep, device)
    return max(0.0, swept - _narrow(alike, n_row, width, device))


def _encoding(
    ggml_type: GGMLType, shape: tuple[int, int], n_sweep: int, device: torch.device
) -> float:
    """Seconds of `encode_by` for all of a matrix of few columns, once a thread is at it."""
    weight, rows = _random(*shape, device), torch.arange(shape[0], device=device)
    (guide,) = guides(Sensitivity((Term(_curvature(shape[1], device), rows.float()),)), device)
    _warm(ggml_type, device)
    return steady_alone(partial(encode_by, weight, ggml_type, (guide,), n_sweep), device)


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

    return steady_alone(work, device)


@cache
def _product(n_row: int, n_col: int, device: torch.device) -> float:
    """All columns' errors times NARROW columns of the curvature."""
    change, square = _random(n_row, n_col, device), _random(n_col, NARROW, device)
    return steady_alone(lambda: change @ square, device)


def _random(n_row: int, n_col: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n_row, n_col, generator=generator).to(device)


def _curvature(n_col: int, device: torch.device) -> Tensor:
    """Well-conditioned, as far as times depend on it."""
    sample = _random(n_col, n_col, device)
    return (sample + sample.T).fill_diagonal_(6 * n_col**0.5)
