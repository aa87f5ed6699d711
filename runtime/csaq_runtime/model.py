"""GGUF tensors → the packed weights and record tables that a step reads.

Matrices are interleaved by several threads at once (`weights.pack_matrix`). Rows of the embedding
are read from the file when they are asked for, so it stays open.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.buffers import Allocate, Arena, empty_bytes
from csaq_runtime.errors import ModelError
from csaq_runtime.formats import dequantize
from csaq_runtime.gguf import GGUFFile
from csaq_runtime.heads import padded, rotary_rows, take_elements, take_rows, value_rows
from csaq_runtime.hparams import HParams
from csaq_runtime.pages import Pages
from csaq_runtime.rows.linear import MixedLinear, pack_mixed
from csaq_runtime.rows.lookup import TieredLookup
from csaq_runtime.rows.names import tier_names
from csaq_runtime.rows.weight import RowsWeight
from csaq_runtime.tensors import check_tensors, is_fused
from csaq_runtime.weights import PackedMatrix, pack_matrix

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

LINEARS = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


@dataclass(frozen=True)
class Linear:
    """`y = (W · x) · scale + bias`; `bias` float32 [n_row_padded], None if both are trivial."""

    matrix: PackedMatrix
    scale: float
    bias: NDArray[np.float32] | None


Linears = dict[tuple[int, str], "Linear | MixedLinear"]
"""(layer, short name) → linear layer."""


@dataclass(frozen=True)
class Layer:
    """One transformer layer; norms are float32, zero-padded to whole vectors."""

    linears: dict[str, Linear | MixedLinear]
    attn_norm: NDArray[np.float32]
    ffn_norm: NDArray[np.float32]
    q_norm: NDArray[np.float32] | None
    k_norm: NDArray[np.float32] | None


@dataclass(frozen=True)
class Model:
    """All weights of a model, ready for the kernels."""

    hparams: HParams
    layers: list[Layer]
    output_norm: NDArray[np.float32]
    output: Linear | MixedLinear
    rope_factors: NDArray[np.float32] | None
    embed: Callable[[NDArray[np.int64]], NDArray[np.float32]]

    @property
    def linears(self) -> list[Linear | MixedLinear]:
        """Every linear layer."""
        return [
            *(linear for layer in self.layers for linear in layer.linears.values()),
            self.output,
        ]


@dataclass(frozen=True)
class _Source:
    """Where a linear layer's parameters stand: tensor name and which of its rows, in order."""

    name: str
    rows: NDArray[np.int64]


def load_model(
    file: GGUFFile,
    hparams: HParams,
    n_thread: int,
    progress: Progress | None = None,
    planes: bool = False,
    pages: Pages | None = None,
) -> Model:
    """Check and pack all weights of `file`; ModelError names the tensor that does not fit.

    planes: matrices in two planes where their types allow it (`kernels.plane_split`).
    pages: memory to use before any other.
    """
    weights = check_tensors(file, hparams)
    sources = _sources(file, hparams)
    sizes = {key: _matrix_bytes(file, weights, source) for key, source in sources.items()}
    done, linears = 0, {}
    # A matrix that proves indivisible gives its memory back, which an arena does not take.
    allocate = empty_bytes if planes else Arena(pages).take
    # The largest first: the output's matrix would be the last one and keep one thread alone.
    order = sorted(sources.items(), key=lambda item: -sizes[item[0]])
    with ThreadPoolExecutor(n_thread) as pool:
        futures = {
            key: pool.submit(_linear, file, source, weights.get(source.name), planes, allocate)
            for key, source in order
        }
        try:
            for key, future in futures.items():
                linears[key] = future.result()
                done += sizes[key]
                if progress is not None:
                    progress(done, sum(sizes.values()))
        finally:
            pool.shutdown(cancel_futures=True)
    return _assemble(file, hparams, linears, weights.get("token_embd"))


def load_layer(file: GGUFFile, hparams: HParams, index: int) -> Layer:
    """Pack the layer of a stock file whose tensors have been checked."""
    linears: Linears = {
        (index, key): _linear(file, _layer_source(file, hparams, index, key), None)
        for key in LINEARS
    }
    return _layer(file, hparams, index, linears)


def load_output(file: GGUFFile, hparams: HParams, ids: NDArray[np.int64]) -> Linear | MixedLinear:
    """Pack the rows `ids` of a checked file's output matrix."""
    weights = check_tensors(file, hparams)
    name = _output_name(file)
    return _linear(file, _Source(name, ids), weights.get(name))


def _matrix_bytes(file: GGUFFile, weights: Mapping[str, RowsWeight], source: _Source) -> int:
    if source.name not in weights:
        return file.tensors[f"{source.name}.weight"].n_bytes
    return sum(info.n_bytes for info in weights[source.name].tiers.tensors)


def _assemble(
    file: GGUFFile,
    hparams: HParams,
    linears: Linears,
    embedding: RowsWeight | None,
) -> Model:
    return Model(
        hparams=hparams,
        layers=[_layer(file, hparams, index, linears) for index in range(hparams.n_layer)],
        output_norm=load_norm(file, "output_norm.weight"),
        output=linears[hparams.n_layer, "output"],
        rope_factors=_rope_factors(file),
        embed=_embedding(file, embedding),
    )


def _sources(file: GGUFFile, hparams: HParams) -> dict[tuple[int, str], _Source]:
    """(layer, linear) → source, in the order of the forward pass; the output comes last."""
    sources = {}
    for index in range(hparams.n_layer):
        for key in LINEARS:
            sources[index, key] = _layer_source(file, hparams, index, key)
    output = _Source(_output_name(file), np.arange(hparams.n_vocab))
    sources[hparams.n_layer, "output"] = output
    return sources


def _output_name(file: GGUFFile) -> str:
    """The output matrix; tied files use the embedding."""
    has_output = "output.weight" in file.tensors or "output" in tier_names(file.tensors)
    return "output" if has_output else "token_embd"


def _layer_source(file: GGUFFile, hparams: HParams, index: int, key: str) -> _Source:
    name = f"blk.{index}.{LINEARS[key]}"
    if key not in ("q", "k", "v"):
        n_row = {"o": hparams.n_embd, "down": hparams.n_embd}.get(key, hparams.n_ff)
        return _Source(name, np.arange(n_row))
    n_head = hparams.n_head if key == "q" else hparams.n_head_kv
    rows = value_rows(hparams, n_head) if key == "v" else rotary_rows(hparams, n_head)
    if not is_fused(file, index):
        return _Source(name, rows)
    heads_before = {"q": 0, "k": hparams.n_head, "v": hparams.n_head + hparams.n_head_kv}[key]
    start = heads_before * hparams.head_dim
    return _Source(f"blk.{index}.attn_qkv", np.where(rows < 0, rows, rows + start))


def _linear(
    file: GGUFFile,
    source: _Source,
    weight: RowsWeight | None,
    planes: bool = False,
    allocate: Allocate = empty_bytes,
) -> Linear | MixedLinear:
    """Pack one matrix, and fold its optional bias and scale."""
    if weight is not None and not weight.is_plain:
        shift = _shift(file, source, len(source.rows))
        return pack_mixed(file, weight, source.rows, *shift, planes)
    info = weight.tiers.tensors[0] if weight else file.tensors[f"{source.name}.weight"]
    data = take_rows(file.data(info.name), source.rows)
    matrix = pack_matrix(data, info.type, info.n_col, planes=planes, allocate=allocate)
    return Linear(matrix, *_shift(file, source, matrix.n_row_padded))


def _shift(file: GGUFFile, source: _Source, n: int) -> tuple[float, NDArray[np.float32] | None]:
    """Scale and bias float32 [n]; no bias if both are trivial."""
    scale = _scale(file, source.name)
    bias = _bias(file, source)
    if bias is None and scale == 1.0:
        return 1.0, None
    shift = np.zeros(n, np.float32)
    if bias is not None:
        # llama.cpp scales before it adds an attention bias, but after it adds an FFN bias.
        shift[: bias.size] = bias * scale if ".ffn_" in source.name else bias
    return scale, shift


def _scale(file: GGUFFile, name: str) -> float:
    if f"{name}.scale" not in file.tensors:
        return 1.0
    scale = float(file.float32(f"{name}.scale")[0])
    if not np.isfinite(scale):
        raise ModelError(f"{file.path}: tensor {name}.scale: {scale} is not finite")
    return scale


def _bias(file: GGUFFile, source: _Source) -> NDArray[np.float32] | None:
    if f"{source.name}.bias" not in file.tensors:
        return None
    return take_elements(file.float32(f"{source.name}.bias"), source.rows)


def _layer(file: GGUFFile, hparams: HParams, index: int, linears: Linears) -> Layer:
    rows = rotary_rows(hparams, 1)
    norms: list[NDArray[np.float32] | None] = [None, None]
    if hparams.has_head_norms:
        names = (f"blk.{index}.attn_q_norm.weight", f"blk.{index}.attn_k_norm.weight")
        norms = [take_elements(file.float32(name), rows) for name in names]
    return Layer(
        linears={key: linears[index, key] for key in LINEARS},
        attn_norm=load_norm(file, f"blk.{index}.attn_norm.weight"),
        ffn_norm=load_norm(file, f"blk.{index}.ffn_norm.weight"),
        q_norm=norms[0],
        k_norm=norms[1],
    )


def load_norm(file: GGUFFile, name: str) -> NDArray[np.float32]:
    """Weights of a norm, zero-padded to whole vectors."""
    weight = file.float32(name)
    return np.pad(weight, (0, padded(weight.size) - weight.size))


def _rope_factors(file: GGUFFile) -> NDArray[np.float32] | None:
    if "rope_freqs.weight" not in file.tensors:
        return None
    factors = file.float32("rope_freqs.weight")
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise ModelError(f"{file.path}: tensor rope_freqs.weight: factors must be above 0")
    return factors


def _embedding(
    file: GGUFFile, weight: RowsWeight | None
) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
    """A function from valid ids [n] to their embeddings, float32 [n, n_embd]."""
    if weight is not None:
        return TieredLookup(file, weight.tiers).embed
    info = file.tensors["token_embd.weight"]
    return lambda ids: dequantize(file.rows(info.name, ids), info.type)
