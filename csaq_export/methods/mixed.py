"""A file whose matrices are a base and sets of kept weights: planning, rounding, writing.

What the article's tiers and TaCQ share. The architecture is called csaq-…, so that readers
which know nothing of the kept weights refuse the file instead of misreading it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csaq_export.budget.allocate import planned
from csaq_export.guidance import Guidance
from csaq_export.metadata import Metadata, f32, text
from csaq_export.methods.outliers import OutlierSet
from csaq_export.methods.ranking import Counts
from csaq_export.model import Model
from csaq_export.pipeline import Conversion, packed_rows
from csaq_export.plan import Plan, TensorPlan, plan_of
from csaq_export.quantize import GRID_FORMATS, decode
from csaq_export.quantize.exempt import Exempt
from csaq_export.quantize.feedback import compensation, round_around
from csaq_export.quantize.grid_feedback import encode_grid_around
from csaq_export.quantize.guided import encode_guided, regular
from csaq_export.sensitivity import Sensitivity
from csaq_export.write_gguf import front_matter, new_file, padded, write_rows
from csaq_runtime.formats import GGMLType

# The weights of a matrix that each set keeps, bool [n_row, n_col], by the matrix's name.
Kept = Callable[[str], tuple[Tensor, ...]]

# Of a vector: lengths of its name and shape, the shape, type and offset.
_INDEX_ENTRY = 8 + 4 + 8 + 4 + 8


@dataclass(frozen=True)
class Mixture:
    """Base `types` of all matrices by name, and the `sets` beside those that `counts` names."""

    types: Mapping[str, GGMLType]
    sets: tuple[OutlierSet, ...]
    counts: tuple[Counts, ...]

    def beside(self, base: TensorPlan) -> tuple[TensorPlan, ...]:
        """The further tensors of one matrix."""
        pairs = zip(self.sets, self.counts, strict=True)
        found = (part.tensors(base.weight, counts.get(base.name, 0)) for part, counts in pairs)
        return tuple(tensor for tensors in found for tensor in tensors)


def plan_mixture(model: Model, mixture: Mixture, keys: Metadata) -> Plan:
    """The file's Plan: base tensors, and the size with everything beside them."""
    base = planned(model, mixture.types, keys)
    metadata = csaq_architecture(base.metadata, model.architecture)
    metadata["csaq.actual_bpw"] = f32(0.0)
    sized = plan_of(base.type, metadata, _all_tensors(base, mixture), model.notes)
    bpw = 8 * sized.n_bytes / base.n_weight
    metadata["csaq.actual_bpw"] = f32(bpw)
    name = f"CSAQ_{bpw:.2f}BPW".replace(".", "_")
    return Plan(name, metadata, base.tensors, sized.n_bytes, model.notes)


def added_bytes(tensor: TensorPlan) -> int:
    """Bytes of a vector beside a base: data, and its entry in the file's index."""
    return padded(tensor.n_bytes) + len(tensor.name) + _INDEX_ENTRY


def csaq_architecture(metadata: Metadata, architecture: str) -> Metadata:
    """The same keys under the name of an architecture that only this project reads."""
    prefix = f"{architecture}."
    own = {f"csaq-{key}" if key.startswith(prefix) else key: v for key, v in metadata.items()}
    layout = {"general.architecture": text(f"csaq-{architecture}"), "csaq.layout": text("rows")}
    return own | layout


def write_mixture(
    conversion: Conversion,
    guidance: Guidance,
    plan: Plan,
    mixture: Mixture,
    kept: Kept,
    report: Callable[[str, int, int], None],
) -> None:
    """Round and write matrix by matrix; raises what `pipeline.convert` raises."""
    with new_file(conversion.out, plan.n_bytes, conversion.force) as file:
        file.write(front_matter(plan.metadata, _all_tensors(plan, mixture)))
        for done, tensor in enumerate(plan.tensors):
            report("rounding", done, len(plan.tensors))
            beside = mixture.beside(tensor)
            if not beside:
                write_rows(file, _plain_rows(tensor, guidance), tensor.n_bytes)
                continue
            data = _mixed_data(tensor, guidance, mixture, kept(tensor.name))
            for part in (tensor, *beside):
                write_rows(file, [data[part.name].numpy()], part.n_bytes)


def _all_tensors(plan: Plan, mixture: Mixture) -> tuple[TensorPlan, ...]:
    return tuple(part for base in plan.tensors for part in (base, *mixture.beside(base)))


def _plain_rows(tensor: TensorPlan, guidance: Guidance) -> Iterator[NDArray[np.uint8]]:
    if tensor.name not in guidance.sensitivities:
        yield from packed_rows(tensor)
        return
    sensitivity = guidance.sensitivities[tensor.name].to(guidance.device)
    weight = guidance.model.read(tensor.name).to(guidance.device)
    yield encode_guided(weight, tensor.type, sensitivity, n_sweep=0).cpu().numpy()


def _mixed_data(
    tensor: TensorPlan, guidance: Guidance, mixture: Mixture, masks: tuple[Tensor, ...]
) -> dict[str, Tensor]:
    """Bytes by tensor name; what one set rounds off, no later one makes up for."""
    weight = guidance.model.read(tensor.name).to(guidance.device)
    sensitivity = guidance.sensitivities[tensor.name].to(guidance.device)
    exact, *near = (mask.to(guidance.device) for mask in masks)
    exempt = Exempt(exact, near[0] if near else torch.zeros_like(exact))
    packed, left = round_kept(weight, tensor.type, sensitivity, exempt)
    residual = (left - decode(packed, tensor.type)).cpu()
    data = {tensor.name: packed.cpu()}
    for part, mask in zip(mixture.sets, masks, strict=True):
        data |= part.packed(tensor.weight, residual, mask).data
    return data


def round_kept(
    weight: Tensor, ggml_type: GGMLType, sensitivity: Sensitivity, exempt: Exempt
) -> tuple[Tensor, Tensor]:
    """A linear layer's base, uint8 [n_row, row_bytes], and its weights as feedback left them.

    Where `exempt` the latter are to be kept, float32 [n_row, n_col].
    """
    (_, curvature), *_ = sensitivity.groups()
    upper = compensation(regular(curvature.to(weight)))
    if ggml_type in GRID_FORMATS:
        return encode_grid_around(weight, ggml_type, upper, exempt)
    coded, left = round_around(weight, ggml_type, upper, exempt)
    return coded.packed(), left
