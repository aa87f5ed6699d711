"""Weights and importance nobody hopes for: refused by name, or encoded without a single NaN."""

import pytest
import torch

from csaq_export.quantize import CODE_FORMATS, decode, encode
from csaq_export.quantize.grid_format import GRID_FORMATS
from csaq_runtime.errors import ModelError
from csaq_runtime.formats import GGMLType

TYPES = sorted({**CODE_FORMATS, **GRID_FORMATS}, key=lambda ggml_type: ggml_type.name)

CODE_TYPES = sorted(CODE_FORMATS, key=lambda ggml_type: ggml_type.name)


def hostile_rows() -> torch.Tensor:
    normal = torch.randn(14, 256, generator=torch.Generator().manual_seed(0))
    normal[0], normal[1], normal[2] = 0, 1, -3.3
    normal[3, 7] = 1e30
    normal[4] *= 3e37
    normal[5] *= 1e-42
    normal[6] *= 1e-30
    normal[7] *= 1e-7
    normal[8] *= 1e6
    normal[9] = 100 + normal[9] / 100
    normal[10], normal[10, 100] = 0, -5
    normal[11] *= 65000
    normal[12, 32:] = 0
    return normal


def importances() -> dict[str, torch.Tensor | None]:
    uniform = torch.rand(256, generator=torch.Generator().manual_seed(1))
    return {
        "none": None,
        "zero": torch.zeros(256),
        "sparse": (torch.arange(256) % 37 == 0).float(),
        "huge": uniform * 1e38,
        "subnormal": uniform * 1e-42,
        "one-hot": (torch.arange(256) == 5).float(),
    }


@pytest.mark.parametrize("ggml_type", TYPES, ids=lambda ggml_type: ggml_type.name)
@pytest.mark.parametrize("kind", importances())
def test_no_nan_or_infinity_comes_out(ggml_type: GGMLType, kind: str) -> None:
    decoded = decode(encode(hostile_rows(), ggml_type, importances()[kind]), ggml_type)
    assert bool(torch.isfinite(decoded).all())


@pytest.mark.parametrize("ggml_type", CODE_TYPES, ids=lambda ggml_type: ggml_type.name)
def test_zero_and_constant_rows_are_kept(ggml_type: GGMLType) -> None:
    weight = torch.tensor([0.0, 1.0, -3.0])[:, None].expand(3, 512).contiguous()
    uneven = torch.rand(512, generator=torch.Generator().manual_seed(3))
    for importance in (None, uneven, torch.zeros(512)):
        decoded = decode(encode(weight, ggml_type, importance), ggml_type)
        assert torch.allclose(decoded, weight, rtol=2e-2, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused_by_place(value: float) -> None:
    weight = torch.zeros(3, 256)
    weight[1, 17] = value
    with pytest.raises(ModelError, match=r"^NaN or infinite weights at row 1, column 17$"):
        encode(weight, GGMLType.Q4_K)


def test_bad_importance_is_refused() -> None:
    weight = torch.zeros(3, 256)
    with pytest.raises(ModelError, match="NaN or infinite importance at row 0, column 4"):
        encode(weight, GGMLType.Q4_K, torch.full((256,), float("nan")).index_fill(0, _first(4), 1))
    with pytest.raises(ModelError, match="negative importance"):
        encode(weight, GGMLType.Q4_K, torch.full((256,), -1.0))
    with pytest.raises(ModelError, match=r"importance of shape \(3,\)"):
        encode(weight, GGMLType.Q4_K, torch.ones(3))


def _first(n: int) -> torch.Tensor:
    return torch.arange(n)


def test_rows_that_do_not_divide_and_foreign_types_are_refused() -> None:
    with pytest.raises(ModelError, match="rows of 288 weights do not divide into Q4_K"):
        encode(torch.zeros(2, 288), GGMLType.Q4_K)
    with pytest.raises(ModelError, match="no encoder for TQ1_0"):
        encode(torch.zeros(2, 256), GGMLType.TQ1_0)
    with pytest.raises(ModelError, match="no decoder for TQ1_0"):
        decode(torch.zeros(2, 54, dtype=torch.uint8), GGMLType.TQ1_0)
    with pytest.raises(ModelError, match="rows of 145 bytes end inside a Q4_K block"):
        decode(torch.zeros(2, 145, dtype=torch.uint8), GGMLType.Q4_K)


def test_importance_per_row_equals_rows_encoded_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(4, 512, generator=generator)
    importance = torch.rand(4, 512, generator=generator)
    together = encode(weight, GGMLType.Q4_K, importance)
    alone = [encode(weight[row, None], GGMLType.Q4_K, importance[row]) for row in range(4)]
    assert torch.equal(together, torch.cat(alone))
