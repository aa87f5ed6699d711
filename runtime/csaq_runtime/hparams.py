"""Hyper-parameters: GGUF metadata → `HParams`, every value range-checked before anything uses it.

Key names and defaults are those of llama.cpp (`llama-arch.cpp`, `llama_model_base::load_hparams`).
What this runtime does not compute is refused by name instead of being ignored.
"""

from dataclasses import dataclass

import numpy as np

from csaq_runtime.errors import ModelError
from csaq_runtime.gguf import GGUFFile
from csaq_runtime.rows.names import base_architecture, is_rows, tier_names

ARCHITECTURES = ("llama", "qwen2", "qwen3")
ROPE_SCALINGS = ("none", "linear", "yarn")
PER_LAYER_KEYS = ("feed_forward_length", "attention.head_count", "attention.head_count_kv")


@dataclass(frozen=True)
class RopeScaling:
    """How positions beyond the original context are squeezed; `factor` 1 means not at all."""

    kind: str
    factor: float
    n_ctx_original: int
    attention_factor: float


@dataclass(frozen=True)
class HParams:
    """Shape of a model. Sizes are element counts; `head_dim` holds for keys and values alike.

    `architecture` is what the model computes, whatever the layout of its file.
    """

    architecture: str
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_ff: int
    head_dim: int
    n_vocab: int
    n_ctx_train: int
    rms_epsilon: float
    rope_base: float
    rope_scaling: RopeScaling

    @property
    def rope_is_interleaved(self) -> bool:
        """Whether rotated pairs are neighbours (llama) and not half a head apart (qwen)."""
        return self.architecture == "llama"

    @property
    def has_head_norms(self) -> bool:
        """Whether queries and keys are normalized per head (qwen3)."""
        return self.architecture == "qwen3"


def read_hparams(file: GGUFFile) -> HParams:
    """Read and check the hyper-parameters of `file`; ModelError names what is not supported."""
    architecture = file.text("general.architecture")
    if base_architecture(architecture) not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"{file.path}: architecture {architecture!r} is not one of {known}")
    _refuse_unsupported(file, architecture)
    hparams = _read_shape(file, architecture)
    _check_heads(file, architecture, hparams)
    return hparams


def _refuse_unsupported(file: GGUFFile, architecture: str) -> None:
    """Refuse what a file of a known architecture may ask for and this runtime does not compute."""
    for name in PER_LAYER_KEYS:
        if isinstance(file.metadata.get(f"{architecture}.{name}"), np.ndarray | list):
            raise ModelError(
                f"{file.path}: {architecture}.{name}: one value per layer: unsupported"
            )
    n_expert = file.integer(f"{architecture}.expert_count", 0)
    if n_expert:
        raise ModelError(f"{file.path}: mixture of {n_expert} experts is not supported")


def _read_shape(file: GGUFFile, architecture: str) -> HParams:
    def size(name: str, default: int | None = None, maximum: int = 2**20) -> int:
        key = f"{architecture}.{name}"
        if default is None:
            return file.integer(key, minimum=1, maximum=maximum)
        return file.integer(key, default, minimum=1, maximum=maximum)

    n_embd = size("embedding_length")
    n_head = size("attention.head_count", maximum=4096)
    n_ctx_train = size("context_length", maximum=2**31 - 1)
    return HParams(
        architecture=base_architecture(architecture),
        n_layer=size("block_count", maximum=4096),
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=size("attention.head_count_kv", n_head, maximum=4096),
        n_ff=size("feed_forward_length"),
        head_dim=size("attention.key_length", max(n_embd // n_head, 1), maximum=1024),
        n_vocab=_read_n_vocab(file),
        n_ctx_train=n_ctx_train,
        rms_epsilon=_positive(file, f"{architecture}.attention.layer_norm_rms_epsilon"),
        rope_base=_positive(file, f"{architecture}.rope.freq_base", 10000.0),
        rope_scaling=_read_rope_scaling(file, architecture, n_ctx_train),
    )


def _read_n_vocab(file: GGUFFile) -> int:
    """Rows of the embedding: it, and not the token list, decides which ids exist."""
    tiers = tier_names(file.tensors).get("token_embd")
    if tiers and is_rows(file.text("general.architecture")):
        # `rows.tiers` checks that these are whole and of one width.
        return sum(file.tensors[name].n_row for name in tiers)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{file.path}: token_embd.weight: missing or not a matrix")
    if not 1 <= embedding.shape[0] <= 2**24:
        raise ModelError(f"{file.path}: token_embd.weight: {embedding.shape[0]} rows")
    return embedding.shape[0]


def _positive(file: GGUFFile, key: str, default: float | None = None) -> float:
    value = file.number(key) if default is None else file.number(key, default)
    if not 1e-30 < value < 1e30:
        raise ModelError(f"{file.path}: {key}: {value} is out of range")
    return value


def _read_rope_scaling(file: GGUFFile, architecture: str, n_ctx_train: int) -> RopeScaling:
    prefix = f"{architecture}.rope.scaling"
    kind = file.text(f"{prefix}.type", "linear")
    if kind not in ROPE_SCALINGS:
        raise ModelError(f"{file.path}: {prefix}.type: {kind!r} is not supported")
    factor = file.number(f"{prefix}.factor", file.number(f"{architecture}.rope.scale_linear", 0.0))
    if factor and not 1e-3 <= factor <= 1e6:
        raise ModelError(f"{file.path}: {prefix}.factor: {factor} is out of range")
    return RopeScaling(
        kind=kind,
        factor=1.0 if kind == "none" or not factor else factor,
        n_ctx_original=file.integer(f"{prefix}.original_context_length", n_ctx_train, minimum=1),
        attention_factor=_positive(file, f"{prefix}.attn_factor", 1.0),
    )


def _check_heads(file: GGUFFile, architecture: str, hparams: HParams) -> None:
    """Refuse head shapes that do not fit together."""
    prefix = f"{file.path}: {architecture}"
    if hparams.n_head % hparams.n_head_kv:
        raise ModelError(
            f"{prefix}.attention.head_count_kv: {hparams.n_head_kv} does not divide"
            f" {hparams.n_head} heads"
        )
    if hparams.head_dim % 2:
        raise ModelError(f"{prefix}.attention.key_length: {hparams.head_dim} is odd")
    for name in ("attention.value_length", "rope.dimension_count"):
        length = file.integer(f"{architecture}.{name}", hparams.head_dim)
        if length != hparams.head_dim:
            raise ModelError(f"{prefix}.{name}: {length} differs from key_length")
