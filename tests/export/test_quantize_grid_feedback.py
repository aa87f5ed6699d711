"""Codebook types gain from error feedback too, and store exactly what was rounded."""

import pytest
import torch

from csaq_export.quantize import GRID_FORMATS, decode, encode
from csaq_export.quantize.grid_feedback import encode_grid_with_feedback
from tests.export.test_quantize_feedback import correlated, loss

TYPES = sorted(GRID_FORMATS)


@pytest.mark.parametrize("ggml_type", TYPES, ids=lambda t: t.name)
def test_feedback_loses_less_than_rounding_alone(ggml_type):
    weight = torch.randn(12, 512, generator=torch.Generator().manual_seed(1))
    curvature = correlated(512)
    fed = decode(encode_grid_with_feedback(weight, ggml_type, curvature), ggml_type)
    plain = decode(encode(weight, ggml_type, torch.diagonal(curvature)), ggml_type)
    assert loss(fed - weight, curvature) < 0.75 * loss(plain - weight, curvature)


@pytest.mark.parametrize("ggml_type", TYPES, ids=lambda t: t.name)
def test_white_inputs_round_almost_as_without_feedback(ggml_type):
    weight = torch.randn(6, 256, generator=torch.Generator().manual_seed(2))
    fed = decode(encode_grid_with_feedback(weight, ggml_type, torch.eye(256)), ggml_type)
    plain = decode(encode(weight, ggml_type, torch.ones(256)), ggml_type)
    torch.testing.assert_close(fed, plain)


def test_constant_and_zero_rows_stay_finite():
    weight = torch.zeros(4, 256)
    weight[1] = 0.3
    weight[2, 7] = 1e-20
    for ggml_type in TYPES:
        fed = decode(encode_grid_with_feedback(weight, ggml_type, correlated(256)), ggml_type)
        assert bool(torch.isfinite(fed).all())
        assert bool((fed[0] == 0).all())
