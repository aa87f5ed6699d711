"""Model shapes on which preset choices are compared: deep, wide, shared heads, awkward rows."""

import re
from dataclasses import dataclass
from itertools import groupby

from csaq_export.metadata import Metadata, f32, text, u32
from csaq_export.type_choice import Shape


@dataclass(frozen=True)
class Shapes:
    """Sizes of a decoder; `tied`: no output matrix."""

    architecture: str
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    tied: bool = False
    n_vocab: int = 512

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


BODIES = {
    "three layers": Shapes("llama", 3, 256, 768, 4, 2, tied=True),
    "demo": Shapes("llama", 6, 256, 768, 4, 2, tied=True, n_vocab=4096),
    "llama 7B": Shapes("llama", 32, 4096, 11008, 32, 32),
    "mistral 7B": Shapes("llama", 32, 4096, 14336, 32, 8),
    "one key/value head": Shapes("llama", 18, 2048, 5632, 8, 1),
    "llama 65B": Shapes("llama", 80, 8192, 22016, 64, 64),
    "llama 70B": Shapes("llama", 80, 8192, 28672, 64, 8),
    "qwen2 0.5B": Shapes("qwen2", 24, 896, 4864, 14, 2, tied=True),
    "qwen2 72B": Shapes("qwen2", 80, 8192, 29568, 64, 8),
    "qwen3 4B": Shapes("qwen3", 36, 2560, 9728, 32, 8, tied=True),
    "qwen3 80 layers": Shapes("qwen3", 80, 512, 1024, 8, 2),
    "rows of 48 and 80": Shapes("llama", 16, 48, 80, 4, 4),
}


def body_shapes(body: Shapes) -> list[Shape]:
    """The tensors of `body`."""
    n_q, n_kv = body.n_head * body.head_dim, body.n_head_kv * body.head_dim
    shapes = [
        Shape("token_embd.weight", (body.n_vocab, body.n_embd)),
        Shape("output_norm.weight", (body.n_embd,)),
    ]
    for i in range(body.n_layer):
        layer = {
            "attn_norm": (body.n_embd,),
            "attn_q": (n_q, body.n_embd),
            "attn_k": (n_kv, body.n_embd),
            "attn_v": (n_kv, body.n_embd),
            "attn_output": (body.n_embd, n_q),
            "ffn_norm": (body.n_embd,),
            "ffn_gate": (body.n_ff, body.n_embd),
            "ffn_up": (body.n_ff, body.n_embd),
            "ffn_down": (body.n_embd, body.n_ff),
        }
        shapes += [Shape(f"blk.{i}.{name}.weight", shape) for name, shape in layer.items()]
    if not body.tied:
        shapes.append(Shape("output.weight", (body.n_vocab, body.n_embd)))
    return shapes


def body_metadata(body: Shapes) -> Metadata:
    """What llama.cpp reads of `body` before it looks at tensors."""
    keys = {
        "vocab_size": u32(body.n_vocab),
        "context_length": u32(512),
        "embedding_length": u32(body.n_embd),
        "block_count": u32(body.n_layer),
        "feed_forward_length": u32(body.n_ff),
        "attention.head_count": u32(body.n_head),
        "attention.head_count_kv": u32(body.n_head_kv),
        "attention.layer_norm_rms_epsilon": f32(1e-5),
    }
    named = {f"{body.architecture}.{key}": value for key, value in keys.items()}
    return named | {"tokenizer.ggml.model": text("none")}


def runs(types: dict[str, str]) -> dict[str, str]:
    """Types by kind of tensor, layers in order, run-length coded: `attn_v` → `2×Q5_K 6×Q4_K`."""
    by_kind: dict[str, dict[int, str]] = {}
    for name, kind in types.items():
        layer = re.match(r"blk\.(\d+)\.(.*)", name)
        by_kind.setdefault(layer[2] if layer else name, {})[int(layer[1]) if layer else 0] = kind
    return {
        kind: " ".join(f"{len(list(same))}×{value}" for value, same in groupby(_in_order(layers)))
        for kind, layers in sorted(by_kind.items())
    }


def _in_order(layers: dict[int, str]) -> list[str]:
    return [layers[index] for index in sorted(layers)]
