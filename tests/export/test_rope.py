"""Rope settings in both spellings of config.json, and llama3's factors as transformers has them."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from csaq_export.arch.rope import read_rope
from csaq_export.config import Config
from csaq_runtime.errors import ModelError

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def rope(**config):
    return read_rope(Config(config, "config.json"))


def test_old_and_new_spelling_mean_the_same():
    old = rope(rope_theta=1e6, rope_scaling={"type": "linear", "factor": 4})
    new = rope(rope_parameters={"rope_theta": 1e6, "rope_type": "linear", "factor": 4})
    assert old.metadata("llama") == new.metadata("llama")
    assert new.metadata("llama")["llama.rope.scaling.factor"].value == 4.0


def test_nothing_said_is_the_plain_rotation():
    plain = rope()
    assert (plain.theta, plain.kind, plain.factors(64)) == (10000.0, "default", None)
    assert list(plain.metadata("qwen2")) == ["qwen2.rope.freq_base"]


def test_llama3_factors_divide_the_frequencies_as_transformers_does():
    config = LlamaConfig(hidden_size=512, num_attention_heads=8, rope_parameters=dict(LLAMA3))
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    factors = rope(rope_parameters=LLAMA3).factors(64)
    plain = 1 / LLAMA3["rope_theta"] ** (torch.arange(0, 64, 2) / 64)
    torch.testing.assert_close(plain / factors, scaled, rtol=2e-6, atol=0)
    assert (factors.min(), factors.max()) == (1.0, 32.0)


def test_yarn_keeps_its_optional_settings():
    settings = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    keys = rope(rope_parameters=settings | {"beta_fast": 16}).metadata("qwen2")
    assert keys["qwen2.rope.scaling.original_context_length"].value == 32768
    assert keys["qwen2.rope.scaling.yarn_beta_fast"].value == 16.0
    assert "qwen2.rope.scaling.yarn_beta_slow" not in keys


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rope_type": "dynamic"}, "'dynamic' is not supported"),
        ({"rope_type": 3}, "not a string"),
        ({"mrope_section": [1]}, "not supported"),
        (LLAMA3 | {"low_freq_factor": 4.0}, "low_freq_factor must be below"),
        (LLAMA3 | {"factor": -1}, "factor"),
    ],
)
def test_unknown_or_impossible_settings_are_refused(parameters, message):
    with pytest.raises(ModelError, match=message):
        rope(rope_parameters=parameters).factors(64)
