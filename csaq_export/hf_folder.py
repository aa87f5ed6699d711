"""A Hugging Face folder → Model: config.json, safetensors and tokenizer files, weights unread."""

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from csaq_export.arch import family_of
from csaq_export.arch.decoder import (
    Family,
    HParams,
    Slot,
    decoder_metadata,
    read_hparams,
    slots,
)
from csaq_export.config import Config, read_json
from csaq_export.metadata import general_metadata
from csaq_export.model import Model
from csaq_export.safetensors_file import StoredTensor, read_tensors
from csaq_export.vocabulary import vocabulary_metadata
from csaq_export.weight import RowReader, Weight, from_values
from csaq_runtime.errors import ModelError
from csaq_runtime.formats import GGMLType

TYPES = {"F32": GGMLType.F32, "F16": GGMLType.F16, "BF16": GGMLType.BF16}
# Buffers some old checkpoints carry; they are recomputed from the configuration.
IGNORED_ENDINGS = (".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")


def open_folder(folder: Path, name: str) -> Model:
    """Read everything but the weights; ModelError where the folder is damaged or unsupported.

    `name` is the hub name or the folder's own; it gives `general.name`.
    """
    config = Config(read_json(folder / "config.json"), str(folder / "config.json"))
    _refuse_quantized(config)
    family = family_of(config)
    h = read_hparams(config, family)
    stored = find_tensors(folder)
    weights = tuple(model_weights(family, h, stored, folder))
    n_weight = sum(prod(weight.shape) for weight in weights)
    metadata = general_metadata(folder, name, family.architecture, n_weight)
    metadata |= decoder_metadata(config, family, h)
    metadata |= vocabulary_metadata(folder, config, h.n_vocab)
    return Model(name, family.architecture, metadata, weights, tuple(_notes(config, h, stored)))


def _refuse_quantized(config: Config) -> None:
    if "quantization_config" in config:
        method = config.part("quantization_config").text("quant_method", "unknown")
        raise ModelError(
            f"{config.where}: the source is already quantized ({method})",
            "convert the original F32, F16 or BF16 weights instead",
        )


def find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of the folder's safetensors files, by name; ModelError if a shard is missing."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return read_tensors(_single_file(folder))
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise ModelError(f"{index}: weight_map is missing or not a map of names")
    shards = {file: read_tensors(_shard(folder, file)) for file in sorted(set(places.values()))}
    for name, file in places.items():
        if name not in shards[file]:
            raise ModelError(f"{index}: {name} is not in {file}")
    return {name: shards[file][name] for name, file in places.items()}


def _single_file(folder: Path) -> Path:
    path = folder / "model.safetensors"
    if path.is_file():
        return path
    if any(folder.glob("pytorch_model*.bin")):
        raise ModelError(
            f"{folder}: only pickled weights (.bin), which can run code when read",
            "save the model with safe_serialization=True first",
        )
    raise ModelError(f"{path}: no such file", "the folder needs model.safetensors or its index")


def _shard(folder: Path, file: str) -> Path:
    path = folder / file
    if Path(file).name != file:
        raise ModelError(f"{folder}: shard {file!r} lies outside the folder")
    if not path.is_file():
        raise ModelError(f"{path}: shard is missing", "download the model again")
    return path


def model_weights(
    family: Family,
    h: HParams,
    stored: dict[str, StoredTensor],
    folder: Path,
    elsewhere: frozenset[str] = frozenset(),
) -> Iterator[Weight]:
    """Every tensor of the model, checked against its place; ModelError for one that has none.

    Those `elsewhere` are not looked for.
    """
    places = list(slots(family, h))
    known = {slot.source for slot in places} | ({"lm_head.weight"} if h.tied else set())
    for name in stored:
        if name not in known and not name.endswith(IGNORED_ENDINGS):
            raise ModelError(
                f"{folder}: {name}: no place for this tensor in architecture {family.architecture}"
            )
    if (factors := h.rope.factors(h.head_dim)) is not None:
        if family.architecture != "llama":
            raise ModelError(f"{folder}: llama3 rope scaling is only known for the llama family")
        yield from_values("rope_freqs.weight", factors)
    for slot in places:
        if slot.source in stored:
            yield _weight(slot, stored[slot.source])
        elif slot.required and slot.source not in elsewhere:
            raise ModelError(f"{folder}: tensor {slot.source} is missing")


def _weight(slot: Slot, tensor: StoredTensor) -> Weight:
    where = f"{tensor.path}: {tensor.name}"
    if tensor.dtype not in TYPES:
        raise ModelError(
            f"{where}: dtype {tensor.dtype} is not supported", "supported: F32, F16, BF16"
        )
    if tensor.shape != slot.shape:
        raise ModelError(
            f"{where}: shape {list(tensor.shape)}, config.json asks for {list(slot.shape)}"
        )
    return Weight(slot.name, slot.shape, TYPES[tensor.dtype], _reader(slot, tensor))


def _reader(slot: Slot, tensor: StoredTensor) -> RowReader:
    """How to read rows of `tensor` in ggml's order; a vector is one row."""
    if not slot.permuted_heads and len(slot.shape) > 1:
        return tensor.read
    n = slot.shape[0]
    order = rotary_order(n, slot.permuted_heads) if slot.permuted_heads else np.arange(n)
    if len(slot.shape) > 1:
        return lambda start, end: _read_ordered(tensor, order[start:end])
    return lambda start, end: tensor.read(0, n)[order].reshape(1, -1)


def _read_ordered(tensor: StoredTensor, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    first = int(rows.min())
    return tensor.read(first, int(rows.max()) + 1)[rows - first]


def rotary_order(n_row: int, n_head: int) -> NDArray[np.int64]:
    """HF's row for each of ggml's rows, int64 [n_row].

    HF keeps the first halves of all rotary pairs of a head, then the second halves
    (`rotate_half`); ggml's llama graph has the two members of a pair side by side.
    """
    return np.arange(n_row).reshape(n_head, 2, -1).swapaxes(1, 2).reshape(-1)


def _notes(config: Config, h: HParams, stored: dict[str, StoredTensor]) -> Iterator[str]:
    if "sliding_window" in config and config.values.get("use_sliding_window") is not False:
        yield (
            f"sliding window of {config.values['sliding_window']} tokens is not stored: llama.cpp "
            "attends to the whole context for this architecture"
        )
    if h.tied and "lm_head.weight" in stored:
        yield "lm_head.weight is left out: config.json ties it to the embedding"
