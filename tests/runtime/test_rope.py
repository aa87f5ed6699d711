"""The rotary tables against transformers' frequencies, for every kind of scaling."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from csaq_runtime.hparams import RopeScaling
from csaq_runtime.rope import rope_table
from tests.runtime.test_cache import HPARAMS

N_CTX = 200


def reference(parameters: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    config = LlamaConfig(
        hidden_size=80,
        num_attention_heads=4,
        head_dim=20,
        max_position_embeddings=256,
        rope_parameters={"rope_theta": 10000.0} | parameters,
    )
    rotary = LlamaRotaryEmbedding(config)
    cosine, sine = rotary(torch.zeros(1), torch.arange(N_CTX)[None])
    return cosine[0, :, :10].numpy(), sine[0, :, :10].numpy()


@pytest.mark.parametrize(
    ("scaling", "parameters"),
    [
        (RopeScaling("none", 1.0, 64, 1.0), {"rope_type": "default"}),
        (RopeScaling("linear", 4.0, 64, 1.0), {"rope_type": "linear", "factor": 4.0}),
        (
            RopeScaling("yarn", 4.0, 64, 1.0),
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        ),
    ],
)
def test_table_equals_transformers(scaling: RopeScaling, parameters: dict[str, Any]) -> None:
    table = rope_table(replace(HPARAMS, rope_scaling=scaling), N_CTX, None)
    cosine, sine = reference(parameters)
    assert table.shape == (N_CTX, 2, 16)
    np.testing.assert_allclose(table[:, 0, :10], cosine, atol=3e-5)
    np.testing.assert_allclose(table[:, 1, :10], sine, atol=3e-5)
    assert not table[:, :, 10:].any()


def test_factors_divide_the_frequencies() -> None:
    factors = np.linspace(1, 8, 10, dtype=np.float32)
    angles = np.arange(N_CTX)[:, None] * 1e4 ** (-np.arange(10) / 10) / factors
    table = rope_table(HPARAMS, N_CTX, factors)
    np.testing.assert_allclose(table[:, 0, :10], np.cos(angles), atol=1e-6)
