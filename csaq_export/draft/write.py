"""A trained head → the sidecar GGUF that lies beside the model's files.

Its tensors are those of a decoder layer of the model's own architecture, and the few that a head
has besides; `csaq.draft.*` keys say which models it fits (`speculate/head_file.py` reads them).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor

from csaq_export.arch.decoder import HParams, Slot
from csaq_export.draft.head import DraftHead
from csaq_export.metadata import Metadata, f32, text, u32
from csaq_export.plan import TensorPlan
from csaq_export.quantize import encode
from csaq_export.torch_model import row_order
from csaq_export.weight import Weight
from csaq_export.write_gguf import front_matter, new_file, padded, write_rows
from csaq_runtime.formats import LAYOUTS, GGMLType
from csaq_runtime.speculate.head_keys import (
    ARCHITECTURE,
    IDS,
    NORM,
    PREFIX,
    TARGET_SIZES,
    VERSION,
    tokens_sha256,
)

MATRIX_TYPES = (GGMLType.Q4_K, GGMLType.Q4_0, GGMLType.F16)
"""The first whose blocks divide a matrix's rows is taken."""

# Name in a head → name in the file, where the model has no such tensor.
_OWN = {
    "gate.weight": "blk.0.ffn_gate.weight",
    "up.weight": "blk.0.ffn_up.weight",
    "down.weight": "blk.0.ffn_down.weight",
    "attn_norm.weight": "blk.0.attn_norm.weight",
    "ffn_norm.weight": "blk.0.ffn_norm.weight",
    "output_norm.weight": "output_norm.weight",
    "state_scale": "state_scale.weight",
    "token_proj.weight": "token_proj.weight",
}


@dataclass(frozen=True)
class Target:
    """The model that a head was made for: sizes, its tensors' slots, and its token texts."""

    architecture: str
    hparams: HParams
    slots: Mapping[str, Slot]
    tokens: list[str]


@dataclass(frozen=True)
class _Stored:
    plan: TensorPlan
    data: Tensor


def write_head(
    path: Path, head: DraftHead, output_norm: Tensor, target: Target, keys: Metadata, force: bool
) -> int:
    """Write the sidecar and return its bytes; raises what `new_file` raises.

    output_norm: the target's, float32 [n_embd]; `keys`: further metadata.
    """
    tensors = [_stored(name, value) for name, value in _values(head, target).items()]
    tensors.append(_plain(NORM, output_norm, GGMLType.F32))
    tensors.append(_plain(IDS, head.ids.int(), GGMLType.I32))
    start = front_matter(_metadata(head, target) | keys, [tensor.plan for tensor in tensors])
    n_bytes = len(start) + sum(padded(tensor.plan.n_bytes) for tensor in tensors)
    with new_file(path, n_bytes, force) as file:
        file.write(start)
        for tensor in tensors:
            write_rows(file, [tensor.data.numpy()], tensor.plan.n_bytes)
    return n_bytes


def _values(head: DraftHead, target: Target) -> dict[str, Tensor]:
    """Weights by GGUF name, rows in GGUF order."""
    last = f"model.layers.{target.hparams.n_layer - 1}.self_attn."
    sources = {slot.source: slot for slot in target.slots.values()}
    values = {}
    for name, parameter in head.named_parameters():
        value = parameter.detach().cpu().float()
        slot = sources.get(name.replace("attn.", last, 1)) if name.startswith("attn.") else None
        if slot is None:
            values[_OWN[name]] = value
            continue
        order = row_order(slot)
        renamed = slot.name.replace(f"blk.{target.hparams.n_layer - 1}.", "blk.0.")
        values[renamed] = value if order is None else value[order]
    return values


def _stored(name: str, value: Tensor) -> _Stored:
    if value.dim() == 1:
        return _plain(name, value, GGMLType.F32)
    fits = (kind for kind in MATRIX_TYPES if value.shape[1] % LAYOUTS[kind].block_size == 0)
    kind = next(fits)
    return _packed(name, tuple(value.shape), encode(value, kind), kind)


def _plain(name: str, value: Tensor, kind: GGMLType) -> _Stored:
    """A vector as it is."""
    data = value.cpu().contiguous().view(torch.uint8).reshape(1, -1)
    return _packed(name, tuple(value.shape), data, kind)


def _packed(name: str, shape: tuple[int, ...], data: Tensor, kind: GGMLType) -> _Stored:
    def read(start: int, end: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        return data[start:end].numpy()

    return _Stored(TensorPlan(Weight(name, shape, kind, read), kind, kind), data)


def _metadata(head: DraftHead, target: Target) -> Metadata:
    sizes = {key: getattr(target.hparams, field) for key, field in TARGET_SIZES.items()}
    return {
        "general.architecture": text(ARCHITECTURE),
        "general.quantization_version": u32(gguf.GGML_QUANT_VERSION),
        f"{PREFIX}.version": u32(VERSION),
        f"{PREFIX}.architecture": text(target.architecture),
        **{f"{PREFIX}.{key}": u32(value) for key, value in sizes.items()},
        f"{PREFIX}.feed_forward_length": u32(head.down.weight.shape[1]),
        f"{PREFIX}.layer_norm_rms_epsilon": f32(head.epsilon),
        f"{PREFIX}.tokens_sha256": text(tokens_sha256(target.tokens)),
    }
