"""Descent only ever improves, in every format, and its scales stay storable."""

import pytest
import torch

from csaq_export.quantize import CODE_FORMATS, decode, encode
from csaq_export.quantize.coded import unpack
from csaq_export.quantize.descent import descend
from csaq_export.quantize.guided import encode_guided
from csaq_export.sensitivity import Sensitivity, Term
from csaq_runtime.errors import ModelError
from csaq_runtime.formats import GGMLType
from tests.export.test_quantize_feedback import correlated, loss

T = GGMLType


@pytest.mark.parametrize("ggml_type", sorted(CODE_FORMATS), ids=lambda t: t.name)
def test_every_sweep_lowers_the_loss(ggml_type):
    weight = torch.randn(12, 512, generator=torch.Generator().manual_seed(1))
    curvature = correlated(512)
    coded = unpack(encode(weight, ggml_type, torch.diagonal(curvature)), ggml_type)
    losses = [loss(coded.weight() - weight, curvature)]
    for _ in range(3):
        coded = descend(weight, coded, curvature, 1)
        losses.append(loss(coded.weight() - weight, curvature))
    assert losses[1] < 0.9 * losses[0]
    assert losses[2] <= losses[1] * 1.0001
    assert losses[3] <= losses[2] * 1.0001
    assert torch.equal(decode(coded.packed(), ggml_type), coded.weight())


def test_guided_encoding_weighs_rows_groups_and_falls_back_on_importance():
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(2))
    first, second = (
        Term(correlated(256, 1), torch.rand(16)),
        Term(correlated(256, 2), torch.rand(16)),
    )
    both = Sensitivity((first, second))
    plain = decode(encode(weight, T.Q3_K), T.Q3_K)
    guided = decode(encode_guided(weight, T.Q3_K, both, 1), T.Q3_K)
    assert both.loss(guided - weight) < 0.6 * both.loss(plain - weight)
    assert encode_guided(weight, T.F16, both, 1).shape == (16, 512)


def test_weights_that_are_not_finite_are_refused():
    weight = torch.ones(2, 256)
    weight[1, 3] = torch.nan
    sensitivity = Sensitivity((Term(torch.eye(256), torch.ones(2)),))
    with pytest.raises(ModelError, match="row 1, column 3"):
        encode_guided(weight, T.Q4_K, sensitivity, 0)
