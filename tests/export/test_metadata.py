"""The keys of each family are those convert_hf_to_gguf.py writes.

The lists were read from files it wrote for the same models (benchmarks/compare_converter.py).
"""

import pytest
from gguf import GGUFValueType

from csaq_export.hf_folder import open_folder
from tests.export.models import CONFIGS, save_folder

GENERAL = """architecture type name finetune basename size_label quantization_version"""
SIZES = """block_count context_length embedding_length feed_forward_length attention.head_count
    attention.head_count_kv attention.layer_norm_rms_epsilon rope.freq_base"""
HEADS = "attention.key_length attention.value_length"
LLAMA = f"{HEADS} vocab_size rope.dimension_count"
SCALING = "rope.scaling.type rope.scaling.factor"
TOKENIZER = """ggml.model ggml.pre ggml.tokens ggml.token_type ggml.merges ggml.bos_token_id
    ggml.eos_token_id chat_template"""
EXTRA = {
    "llama": ("llama", LLAMA),
    "llama3-tied": ("llama", LLAMA),
    "llama-linear": ("llama", f"{LLAMA} {SCALING}"),
    "llama-yarn": ("llama", f"{LLAMA} {SCALING} rope.scaling.original_context_length"),
    "qwen2": ("qwen2", ""),
    "qwen3": ("qwen3", HEADS),
}


def named(prefix: str, keys: str) -> set[str]:
    return {f"{prefix}.{key}" for key in keys.split()}


@pytest.mark.parametrize("kind", EXTRA)
def test_keys_are_the_peers(tmp_path, kind):
    folder = tmp_path / "Tiny-Chat"
    save_folder(folder, kind)
    metadata = open_folder(folder, "Tiny-Chat").metadata
    architecture, extra = EXTRA[kind]
    general = {key for key in metadata if key.startswith("general.")}
    assert general == named("general", GENERAL)
    expected = named(architecture, f"{SIZES} {extra}") | named("tokenizer", TOKENIZER)
    assert metadata.keys() - general == expected


@pytest.mark.parametrize("kind", CONFIGS)
def test_values_are_those_of_the_configuration(tmp_path, kind):
    model = save_folder(tmp_path, kind)
    read = open_folder(tmp_path, "x")
    config = model.config
    assert read.number("block_count") == config.num_hidden_layers
    assert read.number("attention.head_count_kv") == config.num_key_value_heads
    assert read.number("context_length") == config.max_position_embeddings
    epsilon = read.metadata[f"{read.architecture}.attention.layer_norm_rms_epsilon"]
    assert (epsilon.type, epsilon.value) == (GGUFValueType.FLOAT32, config.rms_norm_eps)
    parameters = sum(p.numel() for p in model.parameters())
    stored = sum(w.n_row * w.n_col for w in read.weights if w.name != "rope_freqs.weight")
    assert stored == parameters
