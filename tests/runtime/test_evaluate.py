"""Evaluation: llama-perplexity's figures on the same files, and the definitions themselves."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tokenizers.pre_tokenizers import ByteLevel

from csaq_runtime.engine import Engine
from csaq_runtime.errors import UsageError
from csaq_runtime.evaluate import estimate, evaluate, log_softmax, text_windows
from tests.runtime.tiny_models import write_gguf

STORIES = (Path(__file__).resolve().parents[2] / "demo" / "stories.txt").read_text()[:4000]
N_CTX = 128
# llama-perplexity (ggml 0.25.3) on the files and the text made below:
#   -c 128 -b 128 -fa off -ctk f32 -ctv f32 --kl-divergence-base BASE [--kl-divergence]
PEER_F32 = (755.1621, 29.09904)
PEER_Q4_0 = {
    "perplexity": 740.699795,
    "perplexity error": 28.540781,
    "mean": 0.213510,
    "mean error": 0.003929,
    "median": 0.164082,
    "p99": 0.875960,
    "maximum": 1.583372,
    "same top": 0.49524,
    "same top error": 0.01150,
}
# Relative: llama.cpp rounds the inputs of a Q4_0 product another way, which single tokens feel.
TOLERANCE = {"p99": 0.02, "maximum": 0.05, "same top": 0.01, "perplexity": 1e-3, "mean": 1e-3}


def letters(path: Path, matrix_type: Any = None, n_extra: int = 0) -> Path:
    """A random one-layer Llama over bytes that puts a beginning-of-text token first."""
    tokens = ["<|endoftext|>", *sorted(ByteLevel.alphabet()), "Ġt", *"áéíóú"[:n_extra]]
    random = np.random.default_rng(3)
    shapes = {"token_embd": (len(tokens), 64), "output": (len(tokens), 64)}
    shapes |= {f"blk.0.{name}": (64, 64) for name in ("attn_q", "attn_output", "ffn_down")}
    shapes |= {f"blk.0.{name}": (32, 64) for name in ("attn_k", "attn_v")}
    shapes |= {f"blk.0.{name}": (64, 64) for name in ("ffn_gate", "ffn_up")}
    tensors = {
        f"{name}.weight": random.standard_normal(shape, np.float32) * np.float32(0.2)
        for name, shape in shapes.items()
    }
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        tensors[f"{name}.weight"] = np.ones(64, np.float32)
    return write_gguf(path, "llama", _keys(tokens), tensors, matrix_type)


def _keys(tokens: list[str]) -> dict[str, Any]:
    shape = {
        "context_length": N_CTX,
        "embedding_length": 64,
        "block_count": 1,
        "feed_forward_length": 64,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": 16,
    }
    return {f"llama.{key}": value for key, value in shape.items()} | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] + [1] * (len(tokens) - 1),
        "tokenizer.ggml.merges": ["Ġ t"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
    }


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    types = {"F32": None, "Q4_0": gguf.GGMLQuantizationType.Q4_0}
    return {name: letters(folder / f"{name}.gguf", kind) for name, kind in types.items()}


@pytest.fixture(scope="module")
def engines(paths):
    opened = {name: Engine.open(p, n_ctx=N_CTX, cache_type="f32") for name, p in paths.items()}
    yield opened
    for engine in opened.values():
        engine.close()


@pytest.fixture(scope="module")
def windows(engines):
    return text_windows(engines["F32"], STORIES, N_CTX)


def test_perplexity_is_llama_perplexity_s(engines, windows):
    (found,) = evaluate([engines["F32"]], windows)
    assert found.divergence is None
    assert found.n_token == 30 * 63
    assert found.perplexity.value == pytest.approx(PEER_F32[0], rel=3e-5)
    assert found.perplexity.error == pytest.approx(PEER_F32[1], rel=1e-4)


def test_divergence_is_llama_perplexity_s(engines, windows):
    (found,) = evaluate([engines["Q4_0"]], windows, engines["F32"])
    divergence = found.divergence
    ours = {
        "perplexity": found.perplexity.value,
        "perplexity error": found.perplexity.error,
        "mean": divergence.mean.value,
        "mean error": divergence.mean.error,
        "median": divergence.median,
        "p99": divergence.p99,
        "maximum": divergence.maximum,
        "same top": divergence.same_top.value,
        "same top error": divergence.same_top.error,
    }
    for name, expected in PEER_Q4_0.items():
        assert ours[name] == pytest.approx(expected, rel=TOLERANCE.get(name, 2e-3)), name


def test_a_file_does_not_diverge_from_itself(engines, windows):
    (found,) = evaluate([engines["Q4_0"]], windows[:2], engines["Q4_0"])
    assert found.divergence.maximum == 0.0
    assert found.divergence.same_top.value == 1.0


def test_several_files_get_the_figures_each_gets_alone(engines, windows):
    both = evaluate([engines["F32"], engines["Q4_0"]], windows[:3])
    assert both == [evaluate([engine], windows[:3])[0] for engine in engines.values()]


def test_progress_counts_windows(engines, windows):
    seen = []
    evaluate([engines["F32"]], windows[:2], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_windows_are_the_beginning_of_the_text(engines):
    windows = text_windows(engines["F32"], STORIES + "\n", N_CTX, 2)
    ids = engines["F32"].vocabulary.encode(STORIES)
    assert windows.shape == (2, N_CTX)
    assert windows.ravel().tolist() == ids[: 2 * N_CTX]


@pytest.mark.parametrize(("text", "n_ctx"), [("", 8), ("abc", 8), (STORIES[:250], 128), ("a", 3)])
def test_too_little_text_or_context_is_refused(engines, text, n_ctx):
    with pytest.raises(UsageError, match="context of"):
        text_windows(engines["F32"], text, n_ctx)


def test_other_vocabularies_are_refused(engines, windows, tmp_path):
    path = letters(tmp_path / "more.gguf", n_extra=2)
    refused = pytest.raises(UsageError, match="different vocabularies")
    with Engine.open(path, n_ctx=N_CTX) as other, refused:
        evaluate([engines["F32"]], windows, other)


def test_log_softmax_of_extreme_logits_is_finite():
    found = log_softmax(np.array([[1e30, -1e30, 0.0], [7.0, 7.0, 7.0]], np.float32))
    assert np.isfinite(found).all()
    assert np.allclose(found[1], -np.log(3))


def test_estimate_is_mean_and_standard_error():
    found = estimate(np.array([1.0, 2.0, 3.0, 4.0]))
    assert (found.value, found.error) == (2.5, pytest.approx(np.std([1, 2, 3, 4]) / 3**0.5))
    assert estimate(np.array([5.0])).error == 0.0
