"""A folder that CSAQ has packed → a rows file with the same rows, byte for byte.

What `export_csaq_model` writes. Tiers are copied; only places change, where a family's rotary rows
stand in another order in a GGUF. What is not packed is stored as it is. Cliques come from the
manifest, if there is one.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from csaq_export.arch import family_of
from csaq_export.arch.decoder import Slot, decoder_metadata, read_hparams, slots
from csaq_export.config import Config, read_json
from csaq_export.hf.manifest import read_labels
from csaq_export.hf.tier import TierShape, from_json
from csaq_export.hf_folder import find_tensors, model_weights, rotary_order
from csaq_export.metadata import Metadata, f32, general_metadata, text, u32
from csaq_export.methods.csaq.plan import clique_arrays, index_type
from csaq_export.methods.mixed import csaq_architecture
from csaq_export.pipeline import Conversion, Progress, packed_rows
from csaq_export.plan import Plan, TensorPlan
from csaq_export.safetensors_file import StoredTensor
from csaq_export.vocabulary import vocabulary_metadata
from csaq_export.weight import Weight
from csaq_export.write_gguf import front_matter, new_file, padded, write_rows
from csaq_runtime.errors import ModelError, UsageError
from csaq_runtime.formats import GGMLType, row_bytes
from csaq_runtime.rows.names import ROWS, tier_name

KEPT_NOTE = "the folder is packed by CSAQ: every row keeps its bits, --type does not apply"


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix of the folder: its `slot`, and what of the GGUF it becomes, tiers and `places`.

    `rows`: the row of the GGUF's matrix that each stored row is; `stored` that of the folder's.
    """

    slot: Slot
    layer: str
    shapes: tuple[TierShape, ...]
    tiers: tuple[TensorPlan, ...]
    places: TensorPlan
    rows: NDArray[np.int64]
    stored: NDArray[np.int64]

    @property
    def row_bits(self) -> NDArray[np.int64]:
        """The width of every row, in the folder's order."""
        found = np.empty_like(self.stored)
        found[self.stored] = np.repeat(
            [s.bits for s in self.shapes], [s.n_row for s in self.shapes]
        )
        return found

    @property
    def widest(self) -> TensorPlan:
        """Under the type of most of its rows, for what the user is told."""
        kind = max(self.shapes, key=lambda shape: shape.n_row).type
        empty = Weight(self.slot.name, self.slot.shape, kind, self.tiers[0].weight.read)
        return TensorPlan(empty, kind, kind)


def is_packed(source: str) -> bool:
    """Whether `source` is a folder that CSAQ has packed."""
    path = Path(source) / "config.json"
    if not path.is_file():
        return False
    described = read_json(path).get("quantization_config")
    return isinstance(described, dict) and described.get("quant_method") == "csaq"


def convert_packed(
    conversion: Conversion, progress: Callable[[Progress], None] = lambda progress: None
) -> Plan:
    """Write the rows file and return its plan; raises UsageError, ModelError or ResourceError."""
    if conversion.imatrix is not None or conversion.overrides:
        raise UsageError(f"{conversion.source}: packed by CSAQ, its types are decided")
    packed, plain, metadata = _read(Path(conversion.source))
    tensors = [*plain, *(part for m in packed for part in (*m.tiers, m.places))]
    n_weight = sum(prod(t.weight.shape) for t in (*plain, *(m.widest for m in packed)))
    n_bytes = len(front_matter(metadata, tensors)) + sum(padded(t.n_bytes) for t in tensors)
    metadata["csaq.actual_bpw"] = f32(8 * n_bytes / n_weight)
    with new_file(conversion.out, n_bytes, conversion.force) as file:
        file.write(front_matter(metadata, tensors))
        places = {m.places.name: m.rows for m in packed}
        for tensor in tensors:
            progress(Progress(tensor, file.tell(), n_bytes))
            own = places.get(tensor.name)
            rows = packed_rows(tensor) if own is None else _as_bytes(own, tensor.type)
            write_rows(file, rows, tensor.n_bytes)
    told = (*plain, *(m.widest for m in packed))
    name = f"CSAQ_{8 * n_bytes / n_weight:.2f}BPW".replace(".", "_")
    return Plan(name, metadata, told, n_bytes, (KEPT_NOTE,))


def _read(folder: Path) -> tuple[list[PackedMatrix], list[TensorPlan], Metadata]:
    config = Config(read_json(folder / "config.json"), str(folder / "config.json"))
    described = config.part("quantization_config")
    layers = described.part("layers")
    family = family_of(config)
    h, stored = read_hparams(config, family), find_tensors(folder)
    wanted = {f"{name}.weight": name for name in layers.values}
    packed = [
        _matrix(slot, wanted[slot.source], layers, stored)
        for slot in slots(family, h)
        if slot.source in wanted
    ]
    if len(packed) != len(wanted):
        raise ModelError(f"{layers.where}: a layer has no place in {family.architecture}")
    own = {f"{wanted[m.slot.source]}.{part}" for m in packed
           for part in (ROWS, *(shape.name for shape in m.shapes))}  # fmt: skip
    rest = {name: tensor for name, tensor in stored.items() if name not in own}
    weights = model_weights(family, h, rest, folder, frozenset(wanted))
    plain = [TensorPlan(w, t, t) for w in weights for t in [_plain_type(w)]]
    n_weight = sum(prod(t.weight.shape) for t in plain) + sum(prod(m.slot.shape) for m in packed)
    metadata = general_metadata(folder, folder.resolve().name, family.architecture, n_weight)
    metadata |= decoder_metadata(config, family, h)
    metadata |= vocabulary_metadata(folder, config, h.n_vocab)
    metadata |= _keys(described, packed) | _cliques(folder, packed)
    return packed, plain, csaq_architecture(metadata, family.architecture)


def _keys(described: Config, packed: list[PackedMatrix]) -> Metadata:
    plan = {m.slot.name: {str(s.bits): [s.type.name, s.n_row] for s in m.shapes} for m in packed}
    return {
        "csaq.version": u32(1),
        "csaq.method": text("csaq"),
        "csaq.target_bpw": f32(described.number("target_bits")),
        "csaq.csaq.bits": text(",".join(str(bits) for bits in described.items("bit_options"))),
        "csaq.csaq.protection_floor": f32(described.number("protection_floor")),
        "csaq.csaq.clique_threshold": f32(described.number("clique_threshold")),
        "csaq.plan": text(json.dumps(plan, separators=(",", ":"))),
        "csaq.actual_bpw": f32(0.0),
    }


def _cliques(folder: Path, packed: list[PackedMatrix]) -> Metadata:
    """`csaq.clique.<tensor>` of the matrices that have cliques, in the GGUF's order of rows."""
    labels = read_labels(folder, {m.layer: m.row_bits for m in packed})
    found = {}
    for matrix in packed:
        if matrix.layer in labels:
            found[matrix.slot.name] = torch.empty_like(labels[matrix.layer])
            stored = labels[matrix.layer][torch.from_numpy(matrix.stored)]
            found[matrix.slot.name][torch.from_numpy(matrix.rows)] = stored
    return clique_arrays(found)


def _plain_type(weight: Weight) -> GGMLType:
    """Matrices as the folder has them, vectors in F32 as in every GGUF."""
    return weight.type if len(weight.shape) > 1 else GGMLType.F32


def _matrix(slot: Slot, name: str, layers: Config, stored: dict[str, StoredTensor]) -> PackedMatrix:
    try:
        shapes = from_json(layers.values[name], f"{layers.where}: {name}")
    except UsageError as error:
        raise ModelError(str(error)) from error
    n_row, n_col = slot.shape
    base = slot.name.removesuffix(".weight")
    tiers = []
    for shape in shapes:
        tensor = _stored(stored, f"{name}.{shape.name}", "U8", (shape.n_row, _bytes(shape, n_col)))
        made = Weight(tier_name(base, shape.bits), (shape.n_row, n_col), shape.type, tensor.read)
        tiers.append(TensorPlan(made, shape.type, shape.type))
    index = _stored(stored, f"{name}.{ROWS}", "I32", (n_row,))
    rows = index.read(0, n_row).view("<i4")[:, 0].astype(np.int64)
    if not np.array_equal(np.sort(rows), np.arange(n_row)):
        raise ModelError(f"{index.path}: {index.name}: not every row of the matrix once")
    own = rows
    if slot.permuted_heads:
        own = np.argsort(rotary_order(n_row, slot.permuted_heads))[rows]
    kind = index_type(n_row)
    empty = Weight(f"{base}.{ROWS}", (n_row,), kind, index.read)
    places = TensorPlan(empty, kind, kind)
    return PackedMatrix(slot, name, shapes, tuple(tiers), places, own, rows)


def _bytes(shape: TierShape, n_col: int) -> int:
    try:
        return row_bytes(shape.type, n_col)
    except ValueError as error:
        raise ModelError(f"tier {shape.name}: {error}") from error


def _stored(
    stored: dict[str, StoredTensor], name: str, dtype: str, shape: tuple[int, ...]
) -> StoredTensor:
    tensor = stored.get(name)
    if tensor is None:
        raise ModelError(f"tensor {name} is missing")
    if tensor.dtype != dtype or tensor.shape != shape:
        found = f"{tensor.dtype} {list(tensor.shape)}"
        raise ModelError(f"{tensor.path}: {name}: {found}, expected {dtype} {list(shape)}")
    return tensor


def _as_bytes(rows: NDArray[np.int64], kind: GGMLType) -> Iterator[NDArray[np.uint8]]:
    yield rows.astype(np.uint16 if kind is GGMLType.I16 else np.int32).view(np.uint8)
