"""Converted files in llama.cpp: logits are transformers', token ids the tokenizer's own."""

import json

import numpy as np
import pytest
import torch
from sentencepiece import SentencePieceProcessor

from csaq_export.pipeline import Conversion, convert
from tests.export.models import (
    CONFIGS,
    END,
    PROBE,
    SPLITS,
    TEXT,
    build_model,
    byte_level_tokenizer,
    llama_bpe_tokenizer,
    save_folder,
    write_sentencepiece,
)
from tests.parity import oracle

IDS = np.random.default_rng(0).integers(0, 300, 60).tolist()
QUANTIZED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K"]
QUANTIZED += ["IQ4_NL", "IQ4_XS", "IQ3_M"]
TEXTS = [
    PROBE,
    *TEXT[:3],
    "WORDSand CamelCase/paths/\nMÜLLERstraße",
    "a  b",
    " x",
    "\n\n",
    "don't 123456 WE'LL",
    "",
]


def spread(logits: np.ndarray) -> float:
    return float(logits.max() - logits.min())


@pytest.mark.parametrize("kind", CONFIGS)
def test_f32_file_gives_transformers_logits(tmp_path, kind):
    model = save_folder(tmp_path / "model", kind)
    out = tmp_path / "model.gguf"
    convert(Conversion(str(tmp_path / "model"), out, "F32"))
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    found = oracle.logits(out, IDS)
    assert np.abs(found - expected).max() <= 1e-4 * spread(expected)


@pytest.mark.parametrize(("name", "limit"), [("F16", 2e-3), ("BF16", 2e-2), ("Q8_0", 3e-2)])
def test_smaller_types_stay_near(tmp_path, name, limit):
    model = save_folder(tmp_path / "model", "llama")
    out = tmp_path / "model.gguf"
    convert(Conversion(str(tmp_path / "model"), out, name))
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    found = oracle.logits(out, IDS)
    assert np.abs(found - expected).max() <= limit * spread(expected)


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory):
    """One layer whose rows divide by 256, so that every type is stored as itself."""
    folder = tmp_path_factory.mktemp("wide")
    shape = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    build_model("llama", **shape, head_dim=64, initializer_range=0.05).save_pretrained(folder)
    byte_level_tokenizer("qwen2").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", QUANTIZED)
def test_every_type_loads_and_means_its_dequantized_weights(tmp_path, wide_folder, name):
    small, large = tmp_path / "small.gguf", tmp_path / "large.gguf"
    written = convert(Conversion(str(wide_folder), small, name))
    assert all(tensor.type == tensor.wanted for tensor in written.tensors)
    convert(Conversion(str(small), large, "F32"))
    found, expected = oracle.logits(small, IDS), oracle.logits(large, IDS)
    assert np.abs(found - expected).max() <= 3e-2 * spread(expected)


@pytest.mark.parametrize("pre", [*SPLITS, "gpt-2", "smollm"])
def test_byte_level_vocabularies_tokenize_alike(tmp_path, pre):
    folder = tmp_path / "model"
    save_folder(folder, "llama")
    tokenizer = byte_level_tokenizer(pre)
    tokenizer.save_pretrained(folder)
    convert(Conversion(str(folder), tmp_path / "model.gguf", "F16"))
    texts = [*TEXTS, f"{END}a<tool>b", "<|im_start|>user"]
    begin = [0] if pre in ("llama-bpe", "tekken") else []
    expected = [begin + tokenizer(text)["input_ids"] for text in texts]
    assert oracle.tokenize(tmp_path / "model.gguf", texts) == expected


def test_sentencepiece_vocabulary_tokenizes_alike(tmp_path):
    folder = tmp_path / "model"
    build_model("llama").save_pretrained(folder)
    write_sentencepiece(folder)
    convert(Conversion(str(folder), tmp_path / "model.gguf", "F16"))
    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    expected = [[1, *pieces.Encode(text)] for text in TEXTS]
    assert oracle.tokenize(tmp_path / "model.gguf", TEXTS) == expected


def test_llama_tokenizer_json_tokenizes_alike(tmp_path):
    folder = tmp_path / "model"
    build_model("llama", vocab_size=450).save_pretrained(folder)
    tokenizer = llama_bpe_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    convert(Conversion(str(folder), tmp_path / "model.gguf", "F16"))
    expected = [[1, *tokenizer.encode(text).ids] for text in TEXTS]
    assert oracle.tokenize(tmp_path / "model.gguf", TEXTS) == expected
