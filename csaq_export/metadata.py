"""GGUF key/value pairs and the `general.*` keys, read from a model's card and configuration.

What the keys say follows the `gguf` package's own heuristics, so that our files carry
the same names, licence and lineage as those of convert_hf_to_gguf.py.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
from gguf import GGUFValueType
from gguf.gguf_writer import GGUFValue
from yaml import YAMLError  # type: ignore[import-untyped]

from csaq_runtime.errors import ModelError

Metadata = dict[str, GGUFValue]

_SAMPLING_KEYS = {
    "sequence": ("sequence",),
    "top_k": ("top_k",),
    "top_p": ("top_p",),
    "min_p": ("min_p",),
    "xtc_probability": ("xtc_probability",),
    "xtc_threshold": ("xtc_threshold",),
    "temp": ("temperature",),
    "penalty_last_n": ("penalty_last_n",),
    "penalty_repeat": ("penalty_repeat", "repetition_penalty"),
    "mirostat": ("mirostat",),
    "mirostat_tau": ("mirostat_tau",),
    "mirostat_eta": ("mirostat_eta",),
}


def u32(value: int) -> GGUFValue:
    """An unsigned 32-bit integer."""
    return GGUFValue(value, GGUFValueType.UINT32)


def f32(value: float) -> GGUFValue:
    """A 32-bit float."""
    return GGUFValue(value, GGUFValueType.FLOAT32)


def flag(value: bool) -> GGUFValue:
    """A boolean."""
    return GGUFValue(value, GGUFValueType.BOOL)


def text(value: str) -> GGUFValue:
    """A UTF-8 string."""
    return GGUFValue(value, GGUFValueType.STRING)


def array(values: Sequence[Any], kind: GGUFValueType) -> GGUFValue:
    """An array of `kind`; GGUF has no empty ones."""
    return GGUFValue(values, GGUFValueType.ARRAY, kind)


def general_metadata(folder: Path, name: str, architecture: str, n_weight: int) -> Metadata:
    """The `general.*` keys from README.md, config.json and generation_config.json of `folder`.

    `name` is the hub name (`org/model`) or the folder's name; `n_weight` counts all
    weights and gives the size label. Raises ModelError where the card does not parse.
    """
    writer = gguf.GGUFWriter(None, architecture)
    writer.add_type(gguf.GGUFType.MODEL)
    described = _describe(folder, name, n_weight)
    described.name = described.name or Path(name).name
    described.size_label = described.size_label or gguf.size_label(n_weight, n_weight, 0, 0)
    described.set_gguf_meta_model(writer)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    return dict(writer.kv_data[0])


def _describe(folder: Path, name: str, n_weight: int) -> gguf.Metadata:
    try:
        card = gguf.Metadata.load_model_card(folder)
        config = gguf.Metadata.load_hf_parameters(folder)
        described = gguf.Metadata.apply_metadata_heuristic(
            gguf.Metadata(), card, config, Path(name), n_weight
        )
        generation = gguf.Metadata.load_generation_config(folder)
    except (YAMLError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ModelError(f"{folder}: the model card does not parse: {error}") from error
    for field, names in _SAMPLING_KEYS.items():
        value = next((generation[n] for n in names if n in generation), None)
        setattr(described, f"sampling_{field}", value)
    return described
