"""Qwen2 and Qwen2.5: biases on q, k and v, no row permutation."""

from csaq_export.arch.decoder import Family, HParams
from csaq_export.config import Config
from csaq_export.metadata import Metadata
from csaq_runtime.errors import ModelError


def _extra_keys(config: Config, h: HParams) -> Metadata:
    if h.n_head * h.head_dim != h.n_embd:
        raise ModelError(
            f"{config.where}: head_dim {h.head_dim}: llama.cpp's qwen2 has heads of "
            f"hidden_size / num_attention_heads only"
        )
    return {}


FAMILY = Family(
    architecture="qwen2",
    permutes_rotary=False,
    required_biases=frozenset(("attn_q", "attn_k", "attn_v")),
    optional_biases=frozenset(),
    qk_norm=False,
    extra_keys=_extra_keys,
)
