"""A linear layer that holds packed rows, and unpacks them tier by tier when it is called."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from csaq_export.hf.quantized_weight import QuantizedWeight, in_place
from csaq_export.hf.tier import TierShape
from csaq_export.quantize.packed import Packed
from csaq_runtime.errors import ModelError
from csaq_runtime.formats import row_bytes

ROWS = "rows"


class CSAQLinear(nn.Module):
    """y = x Wᵀ + bias, W [out_features, in_features] by tiers of packed rows.

    Buffers: `b16`, `b8`, `b4`, `b2` (those there are), uint8 [n, row_bytes], the ggml blocks of
    the rows layout; `rows` int32 [out_features]. Nothing unpacked is kept between calls.
    """

    rows: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        tiers: Sequence[TierShape],
        bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.tiers = in_features, out_features, tuple(tiers)
        if sum(tier.n_row for tier in tiers) != out_features:
            raise ModelError(f"tiers of {[t.n_row for t in tiers]} rows for {out_features}")
        for tier in tiers:
            data = torch.empty(tier.n_row, _row_bytes(tier, in_features), dtype=torch.uint8)
            self.register_buffer(tier.name, data)
        self.register_buffer(ROWS, torch.empty(out_features, dtype=torch.int32))
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @classmethod
    def from_weight(cls, weight: QuantizedWeight, bias: Tensor | None = None) -> "CSAQLinear":
        """The layer of a packed matrix."""
        n_row, n_col = weight.shape
        with torch.device("meta"):
            linear = cls(n_col, n_row, weight.tiers)
        for tier, part in zip(weight.tiers, weight.packed, strict=True):
            linear.register_buffer(tier.name, part.data)
        linear.register_buffer(ROWS, weight.rows)
        linear.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        return linear

    @property
    def qweight(self) -> QuantizedWeight:
        """The packed matrix; shares its memory with the layer."""
        packed = tuple(Packed(tier.type, self.get_buffer(tier.name)) for tier in self.tiers)
        return QuantizedWeight(self.tiers, packed, self.rows)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., in_features] → [..., out_features], in the type of `x`."""
        weight = self.qweight
        stored = torch.cat([x @ part.weight().to(x.dtype).T for part in weight.packed], -1)
        y = in_place(stored, self.rows)
        return y if self.bias is None else y + self.bias

    def check(self, name: str) -> None:
        """Raise ModelError if loaded rows are not each row of the matrix once."""
        expected = torch.arange(self.out_features, device=self.rows.device)
        if not torch.equal(self.rows.long().sort().values, expected):
            raise ModelError(f"{name}.{ROWS}: not every row of the matrix once")

    def extra_repr(self) -> str:
        """Sizes and tiers, for `print(model)`."""
        tiers = ", ".join(f"{t.n_row}×{t.bits} bits ({t.type.name})" for t in self.tiers)
        return f"in_features={self.in_features}, out_features={self.out_features}, {tiers}"


def _row_bytes(tier: TierShape, n_col: int) -> int:
    try:
        return row_bytes(tier.type, n_col)
    except ValueError as error:
        raise ModelError(f"{tier.name}: {error}") from error
