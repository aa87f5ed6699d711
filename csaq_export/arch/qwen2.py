"""Qwen2 and Qwen2.5: biases on q, k and v, no row permutation."""

from csaq_export.arch.decoder import Family, HParams
from csaq_export.config import Config
from csaq_export.metadata import Metadata


def _extra_keys(config: Config, h: HParams) -> Metadata:
    return {}


FAMILY = Family(
    architecture="qwen2",
    permutes_rotary=False,
    required_biases=frozenset(("attn_q", "attn_k", "attn_v")),
    optional_biases=frozenset(),
    qk_norm=False,
    extra_keys=_extra_keys,
)
