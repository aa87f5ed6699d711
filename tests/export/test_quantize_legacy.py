"""Without importance, the 32-weight types and the float types are gguf-py's bytes."""

import gguf
import numpy as np
import pytest
import torch
from gguf import quants
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from csaq_export.quantize import decode, encode
from csaq_runtime.errors import ModelError
from csaq_runtime.formats import GGMLType

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]


def peer_bytes(weight: np.ndarray, name: str) -> np.ndarray:
    return quants.quantize(weight, gguf.GGMLQuantizationType[name]).view(np.uint8)


def our_bytes(weight: np.ndarray, name: str) -> np.ndarray:
    return encode(torch.from_numpy(weight), GGMLType[name]).numpy()


def sample(rng: np.random.Generator) -> np.ndarray:
    weight = rng.standard_normal((96, 288)).astype(np.float32) * 0.02
    weight[:8] *= rng.random((8, 288), np.float32) ** 9
    weight[8], weight[9], weight[10], weight[11, ::5] = 0, 1.5, -2.5, 40
    weight[12] *= 1e-6
    return weight


@pytest.mark.parametrize("name", TYPES)
def test_bytes_equal_gguf_py(name: str) -> None:
    weight = sample(np.random.default_rng(7))
    assert np.array_equal(our_bytes(weight, name), peer_bytes(weight, name))


@pytest.mark.parametrize("name", TYPES)
@settings(deadline=None, max_examples=25)
@given(
    data=hnp.arrays(
        np.float32,
        (2, 32),
        elements=st.floats(-60000, 60000, width=32, allow_subnormal=False).filter(
            lambda value: abs(value) > 1e-30
        ),
    )
)
def test_any_normal_weights_give_the_bytes_of_gguf_py(name: str, data: np.ndarray) -> None:
    assert np.array_equal(our_bytes(data, name), peer_bytes(data, name))


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_float_types_decode_to_the_rounded_weights(name: str) -> None:
    weight = sample(np.random.default_rng(8))
    peer = quants.dequantize(
        quants.quantize(weight, gguf.GGMLQuantizationType[name]), gguf.GGMLQuantizationType[name]
    )
    ours = decode(torch.from_numpy(our_bytes(weight, name)), GGMLType[name])
    assert np.array_equal(ours.numpy(), peer)


def test_halves_round_to_even() -> None:
    weight = torch.tensor([[1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8]])
    halves = decode(encode(weight, GGMLType.F16), GGMLType.F16)
    assert halves[0, :2].tolist() == [1.0, 1 + 2**-9]
    brains = decode(encode(weight, GGMLType.BF16), GGMLType.BF16)
    assert brains[0, 2:].tolist() == [1.0, 1 + 2**-6]


def test_f16_refuses_weights_beyond_its_range() -> None:
    with pytest.raises(ModelError, match="magnitude 70000 does not fit F16"):
        encode(torch.full((1, 32), 7e4), GGMLType.F16)
