"""Feedback rounding beats rounding alone under correlated inputs, and keeps its guards."""

import pytest
import torch

from csaq_export.quantize import CODE_FORMATS, decode, encode
from csaq_export.quantize.coded import unpack
from csaq_export.quantize.feedback import compensation, round_with_feedback
from csaq_export.quantize.fit import fit, single
from csaq_export.quantize.rounding import round_codes
from csaq_runtime.formats import GGMLType

T = GGMLType
TYPES = sorted(CODE_FORMATS)


def correlated(n_col, seed=0):
    """Curvature of inputs that share a few directions."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(512, n_col // 4, generator=generator) @ torch.randn(
        n_col // 4, n_col, generator=generator
    )
    x = mixed + 0.5 * torch.randn(512, n_col, generator=generator)
    return x.T @ x / 512


def loss(change, curvature):
    return float(((change @ curvature) * change).sum())


@pytest.mark.parametrize("ggml_type", TYPES, ids=lambda t: t.name)
def test_feedback_loses_less_than_plain_rounding(ggml_type):
    weight = torch.randn(24, 512, generator=torch.Generator().manual_seed(1))
    curvature = correlated(512)
    coded = round_with_feedback(weight, ggml_type, curvature)
    plain = decode(encode(weight, ggml_type, torch.diagonal(curvature)), ggml_type)
    assert loss(coded.weight() - weight, curvature) < 0.8 * loss(plain - weight, curvature)


@pytest.mark.parametrize("ggml_type", TYPES, ids=lambda t: t.name)
def test_packed_bytes_hold_exactly_the_weights_promised(ggml_type):
    weight = torch.randn(5, 512, generator=torch.Generator().manual_seed(2))
    coded = round_with_feedback(weight, ggml_type, correlated(512))
    packed = coded.packed()
    assert torch.equal(decode(packed, ggml_type), coded.weight())
    assert torch.equal(unpack(packed, ggml_type).weight(), coded.weight())


def test_white_inputs_need_no_feedback():
    weight = torch.randn(8, 256, generator=torch.Generator().manual_seed(3))
    coded = round_with_feedback(weight, T.Q4_K, torch.eye(256))
    code_format = CODE_FORMATS[T.Q4_K]
    params = single(fit(weight.double(), code_format))
    alone = code_format.pack(round_codes(weight, params, code_format), params)
    assert torch.equal(coded.packed(), alone)


@pytest.mark.parametrize("ggml_type", [T.Q2_K, T.Q3_K, T.Q4_K, T.Q6_K], ids=lambda t: t.name)
def test_the_order_of_the_curvatures_sum_changes_no_code(ggml_type):
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(48, 512, generator=generator)
    x = torch.randn(2048, 512, generator=generator)
    one, other = (y.T @ y / len(y) for y in (x, x.flip(0)))
    assert not torch.equal(one, other)
    assert torch.equal(
        round_with_feedback(weight, ggml_type, one).packed(),
        round_with_feedback(weight, ggml_type, other).packed(),
    )


@pytest.mark.parametrize("curvature", [torch.zeros(256, 256), torch.diag(torch.arange(256.0))])
def test_inputs_never_seen_do_no_harm(curvature):
    weight = torch.randn(4, 256, generator=torch.Generator().manual_seed(4))
    rounded = round_with_feedback(weight, T.Q4_K, curvature).weight()
    assert bool(torch.isfinite(rounded).all())
    assert float((rounded - weight).abs().max()) < 0.5


@pytest.mark.parametrize("weight", [torch.zeros(3, 256), torch.full((3, 256), 0.7)])
def test_constant_rows_stay(weight):
    rounded = round_with_feedback(weight, T.Q4_K, correlated(256)).weight()
    torch.testing.assert_close(rounded, weight, rtol=0.01, atol=1e-6)


def test_compensation_factors_the_inverse():
    curvature = correlated(32)
    upper = compensation(curvature).double()
    damped = curvature + 0.01 * torch.diagonal(curvature).mean() * torch.eye(32)
    torch.testing.assert_close(upper.T @ upper @ damped.double(), torch.eye(32).double(),
                               rtol=0, atol=1e-3)  # fmt: skip
