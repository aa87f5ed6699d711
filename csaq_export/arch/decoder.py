"""What Llama, Qwen2 and Qwen3 share: sizes, metadata keys and the tensors of a decoder.

config.json → HParams → `{arch}.*` keys and the list of places (Slot) every tensor of
the model must fill. What differs between families is in `Family`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from csaq_export.arch.rope import Rope, read_rope
from csaq_export.config import Config
from csaq_export.metadata import Metadata, f32, u32
from csaq_runtime.errors import ModelError

DEFAULT_NORM_EPS = 1e-6
MAX_N_LAYER = 4096  # as the runtime has it


@dataclass(frozen=True)
class HParams:
    """Sizes of the model, in elements; `tied`: the embedding is also the output matrix."""

    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_vocab: int
    n_ctx: int
    norm_eps: float
    tied: bool
    rope: Rope


@dataclass(frozen=True)
class Slot:
    """A tensor the architecture has: its names on both sides and its shape (row-major).

    `permuted_heads` > 0: rows of so many heads change from HF's half-split rotary
    order to ggml's interleaved one.
    """

    source: str
    name: str
    shape: tuple[int, ...]
    required: bool = True
    permuted_heads: int = 0


@dataclass(frozen=True)
class Family:
    """One architecture: what llama.cpp calls it and how its configuration and tensors differ."""

    architecture: str
    permutes_rotary: bool
    required_biases: frozenset[str]
    optional_biases: frozenset[str]
    qk_norm: bool
    extra_keys: Callable[[Config, HParams], Metadata]
    default_head_dim: int | None = None


def read_hparams(config: Config, family: Family) -> HParams:
    """Sizes from config.json, defaults as transformers has them; ModelError naming a bad key."""
    if (activation := config.text("hidden_act", "silu")) != "silu":
        raise ModelError(f"{config.where}: hidden_act {activation!r} is not supported (only silu)")
    n_embd, n_head = config.integer("hidden_size"), config.integer("num_attention_heads")
    n_head_kv = config.integer("num_key_value_heads", n_head)
    if n_head % n_head_kv:
        raise ModelError(f"{config.where}: {n_head} heads cannot share {n_head_kv} key/value heads")
    head_dim = config.integer("head_dim", family.default_head_dim or max(1, n_embd // n_head))
    if head_dim % 2:
        raise ModelError(
            f"{config.where}: head size {head_dim} is odd, rotary positions need pairs"
        )
    if (n_layer := config.integer("num_hidden_layers")) > MAX_N_LAYER:
        raise ModelError(f"{config.where}: num_hidden_layers: {n_layer} is more than {MAX_N_LAYER}")
    return HParams(
        n_layer=n_layer,
        n_embd=n_embd,
        n_ff=config.integer("intermediate_size"),
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=head_dim,
        n_vocab=config.integer("vocab_size"),
        n_ctx=config.integer("max_position_embeddings"),
        norm_eps=config.number("rms_norm_eps", DEFAULT_NORM_EPS),
        tied=config.flag("tie_word_embeddings"),
        rope=read_rope(config),
    )


def decoder_metadata(config: Config, family: Family, h: HParams) -> Metadata:
    """The `{arch}.*` keys llama.cpp needs to build the graph."""
    keys: Metadata = {
        "block_count": u32(h.n_layer),
        "context_length": u32(h.n_ctx),
        "embedding_length": u32(h.n_embd),
        "feed_forward_length": u32(h.n_ff),
        "attention.head_count": u32(h.n_head),
        "attention.head_count_kv": u32(h.n_head_kv),
        "attention.layer_norm_rms_epsilon": f32(h.norm_eps),
        **family.extra_keys(config, h),
    }
    named = {f"{family.architecture}.{key}": value for key, value in keys.items()}
    return named | h.rope.metadata(family.architecture)


def head_lengths(h: HParams) -> Metadata:
    """The size of a head, for graphs that do not take it to be width / heads."""
    return {
        "attention.key_length": u32(h.head_dim),
        "attention.value_length": u32(h.head_dim),
    }


def slots(family: Family, h: HParams) -> Iterator[Slot]:
    """Every tensor of the model in the order it is used; optional ones may be absent."""
    yield Slot("model.embed_tokens.weight", "token_embd.weight", (h.n_vocab, h.n_embd))
    for layer in range(h.n_layer):
        yield from _layer_slots(family, h, layer)
    yield Slot("model.norm.weight", "output_norm.weight", (h.n_embd,))
    if not h.tied:
        yield Slot("lm_head.weight", "output.weight", (h.n_vocab, h.n_embd))


def _layer_slots(family: Family, h: HParams, layer: int) -> Iterator[Slot]:
    source, target = f"model.layers.{layer}", f"blk.{layer}"

    def vector(name: str, gguf_name: str, size: int) -> Slot:
        return Slot(f"{source}.{name}.weight", f"{target}.{gguf_name}.weight", (size,))

    def linear(name: str, gguf_name: str, n_out: int, n_in: int, heads: int = 0) -> Iterator[Slot]:
        heads = heads if family.permutes_rotary else 0
        path, slot = f"{source}.{name}", f"{target}.{gguf_name}"
        yield Slot(f"{path}.weight", f"{slot}.weight", (n_out, n_in), permuted_heads=heads)
        if gguf_name in family.required_biases | family.optional_biases:
            needed = gguf_name in family.required_biases
            yield Slot(f"{path}.bias", f"{slot}.bias", (n_out,), needed, heads)

    n_q, n_kv = h.n_head * h.head_dim, h.n_head_kv * h.head_dim
    yield vector("input_layernorm", "attn_norm", h.n_embd)
    yield from linear("self_attn.q_proj", "attn_q", n_q, h.n_embd, h.n_head)
    yield from linear("self_attn.k_proj", "attn_k", n_kv, h.n_embd, h.n_head_kv)
    yield from linear("self_attn.v_proj", "attn_v", n_kv, h.n_embd)
    if family.qk_norm:
        yield vector("self_attn.q_norm", "attn_q_norm", h.head_dim)
        yield vector("self_attn.k_norm", "attn_k_norm", h.head_dim)
    yield from linear("self_attn.o_proj", "attn_output", h.n_embd, n_q)
    yield vector("post_attention_layernorm", "ffn_norm", h.n_embd)
    yield from linear("mlp.gate_proj", "ffn_gate", h.n_ff, h.n_embd)
    yield from linear("mlp.up_proj", "ffn_up", h.n_ff, h.n_embd)
    yield from linear("mlp.down_proj", "ffn_down", h.n_embd, h.n_ff)
