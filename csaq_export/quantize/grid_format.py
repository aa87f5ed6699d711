"""The formats that round vectors of weights to a codebook: IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S.

The weight is `d·(½ + scale)·factor·magnitude`, with its sign; magnitudes come from
the codebooks of `csaq_runtime.formats.grids`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from csaq_export.quantize import grid_layout
from csaq_export.quantize.block_params import BlockParams
from csaq_export.quantize.grid_layout import GridCodes, Unpacked
from csaq_runtime.formats import GGMLType
from csaq_runtime.formats.grids import grid

TOP_SCALE = 15


@dataclass(frozen=True)
class GridFormat:
    """One format: its codebook, `n_sub` scales of 4 bits per 256 weights, and how signs are kept.

    With `even_signs` each eight weights carry an even number of minus signs.
    """

    codebook: str
    n_sub: int
    factor: float
    even_signs: bool
    pack: Callable[[GridCodes, BlockParams], torch.Tensor]
    unpack: Callable[[torch.Tensor], Unpacked]

    def magnitudes(self, device: torch.device) -> torch.Tensor:
        """Vectors of the codebook, float32 [n_vector, width]."""
        return _magnitudes(self.codebook, device)

    def real_scale(self, d: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """What multiplies the magnitudes of each sub-block, float32 [n, n_sub]."""
        return d[:, None] * (0.5 + scales.to(torch.float32)) * self.factor


@cache
def _magnitudes(codebook: str, device: torch.device) -> torch.Tensor:
    return torch.tensor(grid(codebook), dtype=torch.float32, device=device)


_IQ2_XXS = (grid_layout.pack_iq2_xxs, grid_layout.unpack_iq2_xxs)
_IQ2_XS = (grid_layout.pack_iq2_xs, grid_layout.unpack_iq2_xs)
_IQ2_S = (grid_layout.pack_iq2_s, grid_layout.unpack_iq2_s)
_IQ3_XXS = (grid_layout.pack_iq3_xxs, grid_layout.unpack_iq3_xxs)
_IQ3_S = (grid_layout.pack_iq3_s, grid_layout.unpack_iq3_s)

GRID_FORMATS: dict[GGMLType, GridFormat] = {
    GGMLType.IQ2_XXS: GridFormat("iq2xxs", 8, 0.25, True, *_IQ2_XXS),
    GGMLType.IQ2_XS: GridFormat("iq2xs", 16, 0.25, True, *_IQ2_XS),
    GGMLType.IQ2_S: GridFormat("iq2s", 16, 0.25, False, *_IQ2_S),
    GGMLType.IQ3_XXS: GridFormat("iq3xxs", 8, 0.5, True, *_IQ3_XXS),
    GGMLType.IQ3_S: GridFormat("iq3s", 8, 2.0, False, *_IQ3_S),
}
