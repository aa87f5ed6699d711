"""Loading: damaged files are refused by tensor name; optional tensors have their effect."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from csaq_runtime.engine import Engine
from csaq_runtime.errors import ModelError
from csaq_runtime.gguf import open_gguf
from csaq_runtime.hparams import read_hparams
from csaq_runtime.model import load_model
from tests.runtime.tiny_models import Tensors, gguf_keys, gguf_tensors, random_model, write_gguf

IDS = [3, 1, 4, 1, 5, 9, 2, 6]
Edit = Callable[[Tensors], Any]


@pytest.fixture(scope="module")
def llama() -> tuple[dict[str, Any], Tensors]:
    model = random_model("llama", num_hidden_layers=1)
    return gguf_keys(model, "llama"), gguf_tensors(model, "llama")


def logits(path: Path, keys: dict[str, Any], tensors: Tensors) -> NDArray[np.float32]:
    write_gguf(path, "llama", keys, tensors)
    with Engine.open(path, n_threads=1, cache_type="f32") as engine:
        return engine.logits(IDS)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("blk.0.attn_k.weight"), "blk.0.attn_k.weight is missing"),
        (lambda t: t.pop("output_norm.weight"), "output_norm.weight is missing"),
        (
            lambda t: t.update({"blk.0.ffn_up.weight": np.zeros((112, 32), np.float32)}),
            r"ffn_up.weight: shape \(112, 32\), expected \(112, 64\)",
        ),
        (
            lambda t: t.update({"blk.0.attn_norm.weight": np.zeros(63, np.float32)}),
            "attn_norm.weight: shape",
        ),
        (
            lambda t: t.update({"blk.0.attn_q.weight": np.zeros((64, 64), np.int32)}),
            "attn_q.weight: type I32",
        ),
        (
            lambda t: t.update({"blk.1.attn_q.weight": np.zeros((64, 64), np.float32)}),
            "'blk.1.attn_q.weight' does not belong",
        ),
        (
            lambda t: t.update({"rope_freqs.weight": np.zeros(8, np.float32)}),
            "rope_freqs.weight: factors",
        ),
        (
            lambda t: t.update({"blk.0.attn_q.scale": np.array([np.inf], np.float32)}),
            "attn_q.scale: inf",
        ),
    ],
)
def test_a_damaged_file_is_refused_by_tensor_name(
    tmp_path: Path, llama: tuple[dict[str, Any], Tensors], edit: Edit, message: str
) -> None:
    keys, tensors = llama[0], dict(llama[1])
    edit(tensors)
    path = write_gguf(tmp_path / "model.gguf", "llama", keys, tensors)
    with open_gguf(path) as file, pytest.raises(ModelError, match=message):
        load_model(file, read_hparams(file), 1)


def test_scales_and_biases_equal_changed_weights(
    tmp_path: Path, llama: tuple[dict[str, Any], Tensors]
) -> None:
    keys, plain = llama
    scaled = dict(plain)
    for name in ("blk.0.attn_q", "blk.0.attn_output", "blk.0.ffn_down", "output"):
        scaled[f"{name}.weight"] = plain[f"{name}.weight"] * np.float32(0.5)
        scaled[f"{name}.scale"] = np.array([2.0], np.float32)
    for name in ("blk.0.attn_v", "blk.0.ffn_gate"):
        n_row = len(plain[f"{name}.weight"])
        scaled[f"{name}.bias"] = np.zeros(n_row, np.float32)
    expected = logits(tmp_path / "plain.gguf", keys, plain)
    np.testing.assert_allclose(logits(tmp_path / "scaled.gguf", keys, scaled), expected, atol=1e-4)


def test_an_ffn_bias_is_scaled_and_an_attention_bias_is_not(
    tmp_path: Path, llama: tuple[dict[str, Any], Tensors]
) -> None:
    """As llama.cpp computes them: (W x + b) s in the FFN, (W x) s + b in the attention."""
    keys, plain = llama
    bias = np.linspace(-1, 1, 64, dtype=np.float32)
    two = np.array([2.0], np.float32)
    ffn = plain | {"blk.0.ffn_down.bias": bias, "blk.0.ffn_down.scale": two}
    folded = plain | {
        "blk.0.ffn_down.bias": 2 * bias,
        "blk.0.ffn_down.weight": 2 * plain["blk.0.ffn_down.weight"],
    }
    a, b = (logits(tmp_path / "a.gguf", keys, t) for t in (ffn, folded))
    np.testing.assert_allclose(a, b, atol=1e-4)
    attention = plain | {"blk.0.attn_output.bias": bias, "blk.0.attn_output.scale": two}
    folded = plain | {
        "blk.0.attn_output.bias": bias,
        "blk.0.attn_output.weight": 2 * plain["blk.0.attn_output.weight"],
    }
    a, b = (logits(tmp_path / "a.gguf", keys, t) for t in (attention, folded))
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_fused_queries_keys_and_values_equal_separate_ones(
    tmp_path: Path, llama: tuple[dict[str, Any], Tensors]
) -> None:
    keys, plain = llama
    fused = dict(plain)
    parts = [fused.pop(f"blk.0.attn_{part}.weight") for part in "qkv"]
    fused["blk.0.attn_qkv.weight"] = np.concatenate(parts)
    expected = logits(tmp_path / "plain.gguf", keys, plain)
    assert (logits(tmp_path / "fused.gguf", keys, fused) == expected).all()


def test_progress_ends_at_all_bytes(tmp_path: Path, llama: tuple[dict[str, Any], Tensors]) -> None:
    path = write_gguf(tmp_path / "model.gguf", "llama", *llama)
    seen: list[tuple[int, int]] = []
    with open_gguf(path) as file:
        load_model(file, read_hparams(file), 2, lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert (
        seen[-1][0]
        == seen[-1][1]
        == 4
        * sum(
            value.size
            for name, value in llama[1].items()
            if value.ndim == 2 and "token" not in name
        )
    )
