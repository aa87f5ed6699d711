"""Tiny random models: a transformers model and the GGUF file that must compute the same."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

N_VOCAB = 96
SHAPE: dict[str, Any] = {
    "vocab_size": N_VOCAB,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "initializer_range": 0.3,
}
CLASSES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
Tensors = dict[str, NDArray[np.float32]]


def random_model(architecture: str, **changes: Any) -> Any:
    """A seeded random model whose biases and norms are not trivial either."""
    torch.manual_seed(7)
    config_class, model_class = CLASSES[architecture]
    model = model_class(config_class(**(SHAPE | changes))).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def reference_logits(model: Any, ids: list[int]) -> NDArray[np.float32]:
    """transformers' logits, [n, n_vocab]."""
    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.tensor([ids])).logits[0].numpy()
    return logits


def head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _interleave(weight: NDArray[np.float32], n_head: int) -> NDArray[np.float32]:
    """Halves of a head → neighbouring pairs, as converters store llama's queries and keys."""
    halves = weight.reshape(n_head, 2, -1, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def gguf_tensors(model: Any, architecture: str) -> Tensors:
    """The model's tensors under their GGUF names."""
    config, tensors = model.config, {}
    for name, parameter in model.state_dict().items():
        value = parameter.float().numpy()
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if architecture == "llama" and "q_proj" in name:
            value = _interleave(value, config.num_attention_heads)
        if architecture == "llama" and "k_proj" in name:
            value = _interleave(value, config.num_key_value_heads)
        tensors[_gguf_name(name)] = np.ascontiguousarray(value)
    return tensors


def _gguf_name(name: str) -> str:
    if name.startswith("model.layers."):
        _, _, index, rest = name.split(".", 3)
        part, kind = rest.rsplit(".", 1)
        return f"blk.{index}.{PARTS[part]}.{kind}"
    name = name.replace("model.embed_tokens", "token_embd").replace("model.norm", "output_norm")
    return name.replace("lm_head", "output")


def gguf_keys(model: Any, architecture: str) -> dict[str, Any]:
    """The hyper-parameters under their GGUF keys."""
    config = model.config
    keys = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head_dim(config),
        "attention.value_length": head_dim(config),
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": head_dim(config),
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "vocab_size": config.vocab_size,
    }
    return {f"{architecture}.{key}": value for key, value in keys.items()} | {
        "tokenizer.ggml.model": "none"
    }


def write_gguf(
    path: Path,
    architecture: str,
    keys: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    matrix_type: gguf.GGMLQuantizationType | None = None,
) -> Path:
    """Write a file; matrices become `matrix_type` unless it is None."""
    writer = gguf.GGUFWriter(path, architecture)
    add: dict[type, Callable[[str, Any], None]] = {
        int: writer.add_uint32,
        bool: writer.add_bool,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    for key, value in keys.items():
        add[type(value)](key, value)
    for name, value in tensors.items():
        if matrix_type is None or value.ndim != 2:
            writer.add_tensor(name, value)
        else:
            packed = gguf.quants.quantize(value, matrix_type)
            writer.add_tensor(name, packed, raw_dtype=matrix_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_model(path: Path, model: Any, architecture: str, **keys: Any) -> Path:
    """Write a model as an F32 GGUF; `keys` replace or (None) remove hyper-parameters."""
    merged = gguf_keys(model, architecture)
    for key, value in keys.items():
        merged[f"{architecture}.{key.replace('__', '.')}"] = value
    kept = {key: value for key, value in merged.items() if value is not None}
    return write_gguf(path, architecture, kept, gguf_tensors(model, architecture))
