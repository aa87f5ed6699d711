"""Hyper-parameters: what is read, what is refused, and that the refusal names the key."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from csaq_runtime.errors import ModelError
from csaq_runtime.gguf import open_gguf
from csaq_runtime.hparams import HParams, RopeScaling, read_hparams
from tests.runtime.tiny_models import write_gguf

KEYS: dict[str, Any] = {
    "context_length": 128,
    "embedding_length": 64,
    "block_count": 3,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.layer_norm_rms_epsilon": 1e-5,
}


def read(folder: Path, architecture: str = "llama", **changes: Any) -> HParams:
    keys = KEYS | {name.replace("__", "."): value for name, value in changes.items()}
    named = {f"{architecture}.{key}": value for key, value in keys.items() if value is not None}
    embedding = {"token_embd.weight": np.zeros((50, 64), np.float32)}
    with open_gguf(write_gguf(folder / "model.gguf", architecture, named, embedding)) as file:
        return read_hparams(file)


def test_defaults_are_those_of_llama_cpp(tmp_path: Path) -> None:
    hparams = read(tmp_path)
    assert (hparams.n_layer, hparams.n_embd, hparams.n_ff, hparams.n_vocab) == (3, 64, 96, 50)
    assert (hparams.n_head, hparams.n_head_kv, hparams.head_dim) == (4, 4, 16)
    assert hparams.rope_base == 10000
    assert hparams.rope_scaling == RopeScaling("linear", 1.0, 128, 1.0)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_rotation_and_head_norms_follow_the_architecture(tmp_path: Path, architecture: str) -> None:
    hparams = read(tmp_path, architecture)
    assert hparams.rope_is_interleaved == (architecture == "llama")
    assert hparams.has_head_norms == (architecture == "qwen3")


def test_rope_scaling_is_read(tmp_path: Path) -> None:
    hparams = read(
        tmp_path,
        rope__scaling__type="yarn",
        rope__scaling__factor=4.0,
        rope__scaling__original_context_length=32,
        rope__scaling__attn_factor=0.5,
    )
    assert hparams.rope_scaling == RopeScaling("yarn", 4.0, 32, 0.5)
    assert read(tmp_path, rope__scale_linear=2.0).rope_scaling.factor == 2.0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"context_length": None}, "llama.context_length"),
        ({"context_length": 0}, "llama.context_length"),
        ({"block_count": 5000}, "llama.block_count"),
        ({"embedding_length": 2**21}, "llama.embedding_length"),
        ({"feed_forward_length": [96, 96, 96]}, "llama.feed_forward_length"),
        ({"attention.head_count": [4, 4, 4]}, "llama.attention.head_count"),
        ({"attention.head_count_kv": 3}, "llama.attention.head_count_kv"),
        ({"attention.key_length": 15}, "llama.attention.key_length"),
        ({"attention.value_length": 32}, "llama.attention.value_length"),
        ({"rope.dimension_count": 8}, "llama.rope.dimension_count"),
        ({"attention.layer_norm_rms_epsilon": 0.0}, "layer_norm_rms_epsilon"),
        ({"rope.freq_base": -1.0}, "llama.rope.freq_base"),
        ({"rope.scaling.type": "longrope"}, "longrope"),
        ({"rope.scaling.factor": -3.0}, "llama.rope.scaling.factor"),
        ({"expert_count": 8}, "8 experts"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ModelError, match=named):
        read(tmp_path, **changes)


def test_an_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'gpt2' is not one of llama"):
        read(tmp_path, "gpt2")
