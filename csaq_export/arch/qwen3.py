"""Qwen3: RMS norms on every query and key head, head size independent of the width."""

from csaq_export.arch.decoder import Family, HParams, head_lengths
from csaq_export.config import Config
from csaq_export.metadata import Metadata


def _extra_keys(config: Config, h: HParams) -> Metadata:
    return head_lengths(h)


FAMILY = Family(
    architecture="qwen3",
    permutes_rotary=False,
    required_biases=frozenset(),
    optional_biases=frozenset(("attn_q", "attn_k", "attn_v")),
    qk_norm=True,
    extra_keys=_extra_keys,
    default_head_dim=128,
)
