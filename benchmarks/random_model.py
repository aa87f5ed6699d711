"""Files of the shapes of known models with random weights: nothing is trained, nothing encoded.

Blocks are random bytes with scales that keep activations finite, so every kernel does the work
that it does on a real file of that type.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from benchmarks.random_vocabulary import add_random_vocabulary
from csaq_export.presets import find_preset
from csaq_export.type_choice import Body, Shape, choose_types
from csaq_runtime.formats import LAYOUTS, GGMLType, row_bytes
from csaq_runtime.rows.names import PREFIX, ROWS, tier_name

CHUNK_BYTES = 16 << 20
Tensors = dict[str, tuple[GGMLType, tuple[int, ...]]]
Tiers = Sequence[tuple[int, GGMLType, float]]
"""Bits in the tensor's name, type, share of the rows."""

HALF_SCALES = {
    GGMLType.Q4_0: {0: 5e-3},
    GGMLType.Q4_1: {0: 5e-3, 2: -0.04},
    GGMLType.Q5_0: {0: 2.5e-3},
    GGMLType.Q5_1: {0: 2.5e-3, 2: -0.04},
    GGMLType.Q8_0: {0: 3e-4},
    GGMLType.Q4_K: {0: 1e-4, 2: 7.5e-4},
    GGMLType.Q5_K: {0: 5e-5, 2: 7.5e-4},
    GGMLType.Q6_K: {208: 2e-5},
}
"""Where a block's float16 scales stand, and their values: weights of about ±0.05."""


@dataclass(frozen=True)
class ModelShape:
    """A decoder of `architecture`; the output matrix is the embedding where `tied`."""

    name: str
    architecture: str
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    n_vocab: int
    tied: bool

    @property
    def n_kv(self) -> int:
        """Rows of the key and value matrices."""
        return self.n_embd // self.n_head * self.n_head_kv


MODELS = {
    "0.5B": ModelShape("Qwen2.5-0.5B", "qwen2", 24, 896, 4864, 14, 2, 151936, True),
    "1.1B": ModelShape("TinyLlama-1.1B", "llama", 22, 2048, 5632, 32, 4, 32000, False),
    "7B": ModelShape("Llama-2-7B", "llama", 32, 4096, 11008, 32, 32, 32000, False),
}


def tensor_shapes(model: ModelShape) -> dict[str, tuple[int, ...]]:
    """Every tensor's name and row-major shape."""
    wide, kv, ff = model.n_embd, model.n_kv, model.n_ff
    layer = {"attn_norm.weight": (wide,), "ffn_norm.weight": (wide,)}
    matrices = {"attn_q": (wide, wide), "attn_k": (kv, wide), "attn_v": (kv, wide)}
    matrices |= {"attn_output": (wide, wide), "ffn_down": (wide, ff)}
    matrices |= {"ffn_gate": (ff, wide), "ffn_up": (ff, wide)}
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (model.n_vocab, wide)}
    shapes |= {} if model.tied else {"output.weight": (model.n_vocab, wide)}
    for index in range(model.n_layer):
        shapes |= {f"blk.{index}.{name}": shape for name, shape in layer.items()}
        shapes |= {f"blk.{index}.{name}.weight": shape for name, shape in matrices.items()}
        if model.architecture == "qwen2":
            biases = {"attn_q": wide, "attn_k": kv, "attn_v": kv}
            shapes |= {f"blk.{index}.{name}.bias": (n,) for name, n in biases.items()}
    return shapes | {"output_norm.weight": (wide,)}


def write_random(
    path: Path, model: ModelShape, preset_name: str, n_ctx: int = 32768, *, has_text: bool = False
) -> None:
    """Write a file whose tensors have the types of a llama-quantize preset.

    `has_text`: with a vocabulary of made-up words; otherwise it knows token ids only.
    """
    tensors = _chosen(model, preset_name)
    _write(path, model.architecture, model, n_ctx, tensors, has_text=has_text)


def write_random_rows(
    path: Path, model: ModelShape, preset_name: str, tiers: Tiers, n_ctx: int = 32768
) -> None:
    """Write a rows file: the layers' matrices in `tiers`, places shuffled; all else as a preset."""
    tensors: Tensors = {}
    for name, (kind, shape) in _chosen(model, preset_name).items():
        if not name.startswith("blk.") or len(shape) == 1:
            tensors[name] = (kind, shape)
            continue
        base, ends = name.removesuffix(".weight"), np.cumsum([share for *_, share in tiers])
        n_row = np.diff(np.round(ends * shape[0]).astype(int), prepend=0).tolist()
        for (bits, tier, _), n in zip(tiers, n_row, strict=True):
            tensors[tier_name(base, bits)] = (tier, (n, shape[1]))
        tensors[f"{base}.{ROWS}"] = (GGMLType.I16, (shape[0],))
    _write(path, PREFIX + model.architecture, model, n_ctx, tensors)


def _chosen(model: ModelShape, preset_name: str) -> Tensors:
    """Type and shape of every tensor."""
    shapes = tensor_shapes(model)
    _, preset = find_preset(preset_name)
    body = Body(model.architecture, model.n_layer, model.n_head // model.n_head_kv)
    chosen = choose_types([Shape(*item) for item in shapes.items()], body, preset)
    return {name: (chosen[name].type, shape) for name, shape in shapes.items()}


def _write(
    path: Path,
    architecture: str,
    model: ModelShape,
    n_ctx: int,
    tensors: Tensors,
    *,
    has_text: bool = False,
) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    _add_metadata(writer, model, n_ctx)
    if has_text:
        add_random_vocabulary(writer, model.n_vocab)
    else:
        writer.add_tokenizer_model("none")
    for name, (ggml_type, shape) in tensors.items():
        size = row_bytes(ggml_type, shape[-1]) * int(np.prod(shape[:-1], dtype=np.int64))
        kind = gguf.GGMLQuantizationType(ggml_type)
        writer.add_tensor_info(name, shape, np.dtype(np.float32), size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for ggml_type, shape in tensors.values():
        writer.write_tensor_data(random_tensor(ggml_type, shape))
    writer.close()


def _add_metadata(writer: gguf.GGUFWriter, model: ModelShape, n_ctx: int) -> None:
    writer.add_name(model.name)
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(model.n_embd)
    writer.add_block_count(model.n_layer)
    writer.add_feed_forward_length(model.n_ff)
    writer.add_head_count(model.n_head)
    writer.add_head_count_kv(model.n_head_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(model.n_embd // model.n_head)
    writer.add_vocab_size(model.n_vocab)


def random_tensor(ggml_type: GGMLType, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """Bytes of a tensor [n_row, row_bytes]; vectors become ones (norms, biases) or places."""
    if ggml_type is GGMLType.I16:
        return np.random.default_rng(0).permutation(shape[0]).astype(np.uint16)
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    n_byte = shape[0] * row_bytes(ggml_type, shape[1])
    chunk = random_blocks(ggml_type, min(n_byte, CHUNK_BYTES) // LAYOUTS[ggml_type].type_size)
    return np.resize(chunk, n_byte).reshape(shape[0], -1)


def random_blocks(ggml_type: GGMLType, n_block: int) -> NDArray[np.uint8]:
    """`n_block` valid blocks of a type, one after the other."""
    generator, layout = np.random.default_rng(0), LAYOUTS[ggml_type]
    if ggml_type in (GGMLType.F32, GGMLType.F16, GGMLType.BF16):
        values = generator.standard_normal(n_block * layout.block_size, np.float32)
        return _float_bytes(values * np.float32(1 / 32), ggml_type)
    size = (n_block, layout.type_size)
    blocks = generator.integers(0, 256, size, dtype=np.uint8)
    for start, value in HALF_SCALES[ggml_type].items():
        blocks[:, start : start + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)
    return blocks.reshape(-1)


def _float_bytes(values: NDArray[np.float32], ggml_type: GGMLType) -> NDArray[np.uint8]:
    if ggml_type == GGMLType.BF16:
        return np.ascontiguousarray(values.view(np.uint16)[1::2]).view(np.uint8)
    kind = np.float16 if ggml_type == GGMLType.F16 else np.float32
    return values.astype(kind).view(np.uint8)
