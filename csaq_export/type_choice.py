"""Tensors of a model + preset → the type of each, fallbacks for awkward shapes included.

Follows `llama_tensor_get_type` and `tensor_type_fallback` of llama.cpp's
src/llama-quant.cpp, tensor by tensor.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from csaq_export.preset_rules import Place, base
from csaq_export.presets import Preset
from csaq_runtime.formats import LAYOUTS, GGMLType

# Smaller blocks that fit rows not divisible by 256.
FALLBACKS = {
    GGMLType.Q2_K: GGMLType.Q4_0,
    GGMLType.Q3_K: GGMLType.Q4_0,
    GGMLType.Q4_K: GGMLType.Q5_0,
    GGMLType.Q5_K: GGMLType.Q5_1,
    GGMLType.Q6_K: GGMLType.Q8_0,
    GGMLType.IQ4_XS: GGMLType.IQ4_NL,
    GGMLType.IQ3_S: GGMLType.IQ4_NL,
    GGMLType.IQ3_XXS: GGMLType.IQ4_NL,
    GGMLType.IQ2_S: GGMLType.IQ4_NL,
    GGMLType.IQ2_XS: GGMLType.IQ4_NL,
    GGMLType.IQ2_XXS: GGMLType.IQ4_NL,
}
FLOATS = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)
# 80 layers with shared key/value heads: llama.cpp's "70B", whose small attn_v gets more bits.
LARGE_LAYERS = 80
LARGE_ATTN_V = {GGMLType.Q3_K: GGMLType.Q5_K, GGMLType.Q4_K: GGMLType.Q5_K}


@dataclass(frozen=True)
class Shape:
    """What of a tensor the choice depends on: its GGUF `name` and row-major `shape`."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Body:
    """What of the model the choice depends on; `n_gqa`: query heads per key/value head."""

    architecture: str
    n_layer: int
    n_gqa: int

    @property
    def is_large(self) -> bool:
        """Whether llama.cpp classes the model as "70B"."""
        shares = self.architecture == "qwen2" or self.n_gqa > 1
        return self.n_layer == LARGE_LAYERS and shares and self.architecture != "qwen3"


@dataclass(frozen=True)
class Choice:
    """The chosen `type`; `wanted` differs where the shape forced a fallback."""

    type: GGMLType
    wanted: GGMLType


def choose_types(
    shapes: Sequence[Shape], body: Body, preset: Preset, importance: bool = False
) -> dict[str, Choice]:
    """A Choice per tensor name. `importance`: whether an imatrix will guide the rounding."""
    tied = all(shape.name != "output.weight" for shape in shapes)
    n_attn_v = sum("attn_v.weight" in shape.name for shape in shapes)
    seen: Counter[str] = Counter()
    choices = {}
    for shape in sorted(shapes, key=_llama_order):
        if not is_quantizable(shape):
            # llama.cpp's kernels want vectors and norms in F32.
            choices[shape.name] = Choice(GGMLType.F32, GGMLType.F32)
            continue
        kind = _kind(shape.name)
        count = n_attn_v if kind == "attn_v" else body.n_layer
        place = Place(seen[kind], count, body.n_gqa, importance)
        seen[kind] += 1
        wanted = _wanted(shape, kind, place, preset, body, tied)
        choices[shape.name] = Choice(fitting(wanted, shape.shape[-1]), wanted)
    return choices


def is_quantizable(shape: Shape) -> bool:
    """Whether a tensor takes the preset's type: matrices named `*.weight`, norms excepted."""
    name = shape.name
    return len(shape.shape) > 1 and name.endswith("weight") and "_norm.weight" not in name


def fitting(wanted: GGMLType, n_col: int) -> GGMLType:
    """`wanted`, or the nearest type whose blocks divide rows of `n_col`; F16 as a last resort."""
    if n_col % LAYOUTS[wanted].block_size == 0:
        return wanted
    smaller = FALLBACKS.get(wanted, wanted)
    return smaller if n_col % LAYOUTS[smaller].block_size == 0 else GGMLType.F16


def _wanted(
    shape: Shape, kind: str, place: Place, preset: Preset, body: Body, tied: bool
) -> GGMLType:
    if preset.type in FLOATS:
        return preset.type
    if kind == "output" or (tied and kind == "token_embd"):
        fits = shape.shape[-1] % LAYOUTS[preset.type].block_size == 0
        return preset.output if fits else GGMLType.Q8_0
    chosen = preset.rules.get(kind, base)(place) or preset.type
    widened = kind == "attn_v" and body.is_large and preset.widens_large
    return LARGE_ATTN_V.get(chosen, chosen) if widened else chosen


def _kind(name: str) -> str:
    """`attn_v` of `blk.3.attn_v.weight`, `output` of `output.weight`."""
    return name.removesuffix(".weight").rsplit(".", 1)[-1]


def _llama_order(shape: Shape) -> tuple[int, str]:
    """llama.cpp walks tensors by layer number, then name; the counters depend on it."""
    layer = re.match(r"blk\.(\d+)\.", shape.name)
    return (int(layer[1]) if layer else -1, shape.name)
