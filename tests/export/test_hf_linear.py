import pytest
import torch

from csaq_export import CSAQLinear
from csaq_export.hf.quantized_weight import pack_rows
from csaq_export.hf.tier import TierShape
from csaq_export.quantize import encode
from csaq_export.quantize.packed import Packed
from csaq_runtime.errors import ModelError
from csaq_runtime.formats import GGMLType, dequantize, row_bytes
from tests.export.packed_models import WIDE, packed

N_ROW, N_COL = 41, 512


@pytest.fixture
def weight():
    return torch.randn(N_ROW, N_COL, generator=torch.Generator().manual_seed(1))


def test_bits_are_those_of_all_packed_bytes(weight):
    found = packed(weight, WIDE)
    sizes = [tier.n_row * row_bytes(tier.type, N_COL) for tier in found.tiers]
    assert found.n_bytes == sum(sizes) + 4 * N_ROW
    assert found.bits == 8 * found.n_bytes / weight.numel()
    assert found.element_size_bytes() * 8 == found.bits == 32 / found.compression_ratio()


def test_every_row_has_the_error_of_its_width(weight):
    """The published package packs a layer at its majority width: 8-bit rows came out at 1.77."""
    found = packed(weight, WIDE)
    error = (found.dequantize() - weight).norm(dim=1) / weight.norm(dim=1)
    limits = {16: 4e-3, 8: 8e-3, 4: 0.1, 2: 0.4}
    for bits, limit in limits.items():
        of_tier = error[found.row_bits() == bits]
        assert 0 < of_tier.max() < limit, bits
        assert len(of_tier) in (10, 11)


def test_stored_rows_are_ordinary_blocks(weight):
    found = packed(weight, WIDE)
    stored = [dequantize(part.data.numpy(), part.type) for part in found.packed]
    rows = found.rows.long()
    assert torch.equal(found.dequantize()[rows], torch.cat([torch.from_numpy(s) for s in stored]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_computes_with_the_unpacked_weights(weight, dtype):
    torch.manual_seed(0)
    bias = torch.randn(N_ROW).to(dtype)
    linear = CSAQLinear.from_weight(packed(weight, WIDE), bias)
    x = torch.randn(2, 3, N_COL).to(dtype)
    expected = torch.nn.functional.linear(x, linear.qweight.dequantize().to(dtype), bias)
    assert linear(x).dtype == dtype
    # Sums of 512 products in another order, rounded once before the bias and once after it.
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.3}[dtype]
    rounding = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(linear(x), expected, rtol=rounding, atol=tolerance)


def test_layer_holds_nothing_but_packed_bytes(weight):
    linear = CSAQLinear.from_weight(packed(weight, WIDE))
    linear(torch.randn(1, N_COL))
    held = sum(tensor.nbytes for tensor in [*linear.parameters(), *linear.buffers()])
    assert held == linear.qweight.n_bytes
    assert {name for name, _ in linear.named_buffers()} == {"b16", "b8", "b4", "b2", "rows"}
    assert "Q4_K" in repr(linear)


def test_gradients_reach_the_input(weight):
    linear = CSAQLinear.from_weight(packed(weight, WIDE))
    x = torch.randn(1, N_COL, requires_grad=True)
    linear(x).sum().backward()
    torch.testing.assert_close(x.grad[0], linear.qweight.dequantize().sum(0))


def test_empty_tiers_are_left_out(weight):
    data = Packed(GGMLType.Q8_0, encode(weight, GGMLType.Q8_0))
    empty = Packed(GGMLType.F16, encode(weight[:0], GGMLType.F16))
    found = pack_rows([(16, empty, torch.arange(0)), (8, data, torch.arange(N_ROW))])
    assert found.tiers == (TierShape(8, GGMLType.Q8_0, N_ROW),)


def test_tiers_that_do_not_fit_are_refused(weight):
    with pytest.raises(ModelError, match="rows for 5"):
        CSAQLinear(N_COL, 5, [TierShape(8, GGMLType.Q8_0, 4)])
    with pytest.raises(ModelError, match="256"):
        CSAQLinear(96, 4, [TierShape(4, GGMLType.Q4_K, 4)])


def test_a_row_index_that_misses_rows_is_refused(weight):
    linear = CSAQLinear.from_weight(packed(weight, WIDE))
    linear.check("layer")
    linear.rows[0] = linear.rows[1]
    with pytest.raises(ModelError, match=r"layer\.rows"):
        linear.check("layer")
