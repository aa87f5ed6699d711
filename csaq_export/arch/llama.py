"""Llama 1, 2, 3.x and what shares its graph: Mistral, SmolLM, TinyLlama."""

from csaq_export.arch.decoder import Family, HParams, head_lengths
from csaq_export.config import Config
from csaq_export.metadata import Metadata, u32


def _extra_keys(config: Config, h: HParams) -> Metadata:
    return {
        **head_lengths(h),
        "vocab_size": u32(h.n_vocab),
        "rope.dimension_count": u32(h.head_dim),
    }


FAMILY = Family(
    architecture="llama",
    permutes_rotary=True,
    required_biases=frozenset(),
    optional_biases=frozenset(
        ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    ),
    qk_norm=False,
    extra_keys=_extra_keys,
)
