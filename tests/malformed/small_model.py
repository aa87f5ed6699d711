"""The smallest file that runs: one layer, twelve tokens, a chat template; written by `hostile`."""

import random
import struct

from tests.malformed.hostile import (
    ARRAY,
    F32,
    I32,
    STRING,
    TYPE_F32,
    TYPE_Q8_0,
    U32,
    Sketch,
    array,
    info,
    pair,
    string,
    u32,
)

TOKENS = ["a", "b", "c", "Ġ", "ab", "Ġab", "<|im_end|>", "<|im_start|>", "d", "e", "f", "g"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content | trim }}<|im_end|>{% endfor %}"
SIZES = {
    "context_length": 64,
    "embedding_length": 32,
    "block_count": 1,
    "feed_forward_length": 32,
    "attention.head_count": 2,
    "attention.head_count_kv": 1,
    "attention.key_length": 16,
    "attention.value_length": 16,
    "rope.dimension_count": 16,
}
VECTORS = ["output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"]
MATRICES = {
    "token_embd.weight": len(TOKENS),
    "blk.0.attn_q.weight": 32,
    "blk.0.attn_k.weight": 16,
    "blk.0.attn_v.weight": 16,
    "blk.0.attn_output.weight": 32,
    "blk.0.ffn_gate.weight": 32,
    "blk.0.ffn_up.weight": 32,
    "blk.0.ffn_down.weight": 32,
}


def texts(key: str, values: list[str]) -> bytes:
    return pair(key, ARRAY, array(STRING, len(values), b"".join(map(string, values))))


def _pairs() -> tuple[bytes, ...]:
    types = struct.pack(f"<{len(TOKENS)}i", *([1] * 6 + [3, 3] + [1] * 4))
    return (
        pair("general.architecture", STRING, string("llama")),
        *(pair(f"llama.{key}", U32, u32(value)) for key, value in SIZES.items()),
        pair("llama.attention.layer_norm_rms_epsilon", F32, struct.pack("<f", 1e-5)),
        pair("llama.rope.freq_base", F32, struct.pack("<f", 10000.0)),
        pair("tokenizer.ggml.model", STRING, string("gpt2")),
        pair("tokenizer.ggml.pre", STRING, string("qwen2")),
        texts("tokenizer.ggml.tokens", TOKENS),
        pair("tokenizer.ggml.token_type", ARRAY, array(I32, len(TOKENS), types)),
        texts("tokenizer.ggml.merges", ["a b", "Ġ ab"]),
        pair("tokenizer.ggml.eos_token_id", U32, u32(6)),
        pair("tokenizer.chat_template", STRING, string(TEMPLATE)),
    )


def _sketch() -> Sketch:
    chance, infos, data = random.Random(4), [], b""
    for name in VECTORS:
        infos.append(info(name, (32,), TYPE_F32, len(data)))
        data += struct.pack("<32f", *(chance.uniform(0.5, 1.5) for _ in range(32)))
    for name, n_row in MATRICES.items():
        infos.append(info(name, (32, n_row), TYPE_Q8_0, len(data)))
        rows = (struct.pack("<e", 0.01) + chance.randbytes(32) for _ in range(n_row))
        data += b"".join(rows)
        data += bytes(-len(data) % 32)
    return Sketch(pairs=_pairs(), infos=tuple(infos), data=data)


MODEL = _sketch()
"""Its bytes are `MODEL.build()`; the first `N_HEAD` of them are header, keys and infos."""

N_HEAD = sum(map(len, MODEL.sections()))
