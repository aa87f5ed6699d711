"""How much memory the stages of a calibrated conversion need, from the shapes of a model alone.

Bytes on the device that computes; on a CPU that is the process's memory. The figures
follow what the stages hold at their worst moment: `calibrate` one decoder layer or the
head with its statistics and activations, `round` a matrix per worker.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch

from csaq_export.device import compute_dtype
from csaq_export.quantize.guided import rows_at_once
from csaq_runtime.errors import ResourceError
from csaq_runtime.memory_limits import available_memory

# Python, torch and transformers before any weight is read; a CUDA context.
PROCESS_BYTES = {"cpu": 520 << 20, "cuda": 1 << 30}
# Share of the free memory that is used where nothing else is said.
FREE_SHARE = 0.8
# Partial sums of statistics beside the one in work: the levels of a tree over 16 lanes.
N_PARTIAL = 5
# Activations per token of the layer at work: of the model's width, and of its matrices' rows.
WIDE_COPIES, INNER_COPIES = 16, 5
# What a layer keeps of them until its backward pass, as torch's saved_tensors_hooks count it:
# 1.16 to 1.42 times what nine tiny models of all families do, 1.31 the demo.
WIDE_SAVED, INNER_SAVED = 8, 2
# Copies of float32 logits with gradients and labels drawn.
LOGIT_COPIES = 5
# Bytes per weight in work, and per entry of a curvature with its float64 factors.
ROUNDING_BYTES, CURVATURE_BYTES = 36, 44
# Bytes per weight of a matrix that waits to be compared: rounded to few bits.
WAITING_BYTES = 0.45
# Models in float32 while one is tuned: it, the original twice, and what blocks are scaled from.
TUNING_COPIES = 4


class Place(Protocol):
    """What of a tensor the figures depend on: its GGUF name and row-major shape."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102


@dataclass(frozen=True)
class Shapes:
    """Matrices [n_row, n_col] of a decoder layer, and of the embedding; `tied` as elsewhere."""

    layer: tuple[tuple[int, int], ...]
    embedding: tuple[int, int]
    n_layer: int
    tied: bool

    @property
    def layer_weights(self) -> int:
        """Weights of one decoder layer."""
        return sum(prod(shape) for shape in self.layer)

    @property
    def n_weight(self) -> int:
        """Weights in all matrices."""
        return self.n_layer * self.layer_weights + (2 - self.tied) * prod(self.embedding)

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """Every matrix that is rounded."""
        ends = (self.embedding,) * (2 - self.tied)
        return self.layer * self.n_layer + ends


def shapes_of(places: Iterable[Place]) -> Shapes:
    """The Shapes of a model with these tensors."""
    shapes = {place.name: place.shape for place in places}
    layer = [s for name, s in shapes.items() if name.startswith("blk.0.") and len(s) == 2]
    n_layer = len({name.split(".")[1] for name in shapes if name.startswith("blk.")})
    n_vocab, n_embd = shapes["token_embd.weight"]
    pairs = tuple((shape[0], shape[1]) for shape in layer)
    return Shapes(pairs, (n_vocab, n_embd), n_layer, "output.weight" not in shapes)


def calibration_bytes(shapes: Shapes, n_token: int, device: torch.device) -> int:
    """The least that calibration with `n_token` tokens at once can do with."""
    width = compute_dtype(device).itemsize
    squares = 4 * sum(n_col * n_col for _, n_col in shapes.layer)
    n_embd = shapes.embedding[1]
    layer = width * shapes.layer_weights + squares * (N_PARTIAL + 1)
    layer += n_token * width * _per_token(shapes, WIDE_COPIES, INNER_COPIES)
    head_weights = 2 * width * prod(shapes.embedding)
    head = head_weights + 4 * LOGIT_COPIES * n_token * shapes.embedding[0]
    return PROCESS_BYTES[device.type] + max(layer, head + 4 * n_embd * n_embd * (N_PARTIAL + 1))


def _per_token(shapes: Shapes, n_wide: int, n_inner: int) -> int:
    """Activations of a layer per token: so many of the width, and of the rows of all matrices."""
    return n_wide * shapes.embedding[1] + n_inner * sum(n_row for n_row, _ in shapes.layer)


def rounding_bytes(shape: tuple[int, int], device: torch.device) -> int:
    """What rounding one matrix takes."""
    n_row, n_col = shape
    in_work = min(n_row, rows_at_once(n_col, device)) * n_col
    return 8 * n_row * n_col + ROUNDING_BYTES * in_work + CURVATURE_BYTES * n_col * n_col


def worker_bytes(shapes: Shapes, n: int, device: torch.device) -> int:
    """What `n` matrices rounded side by side take, the largest at once."""
    each = sorted((rounding_bytes(shape, device) for shape in shapes.matrices), reverse=True)
    return PROCESS_BYTES[device.type] + sum(each[:n])


def state_bytes(shapes: Shapes, n_token: int, device: torch.device) -> int:
    """Hidden states of one copy of the model for so many tokens."""
    return n_token * shapes.embedding[1] * compute_dtype(device).itemsize


def walk_bytes(shapes: Shapes, seq_len: int, device: torch.device) -> int:
    """What measuring changed copies takes beside their states: a layer or the head, twice."""
    width, head = compute_dtype(device).itemsize, prod(shapes.embedding)
    layer = 2 * width * shapes.layer_weights
    head_bytes = (2 * width + 4) * head + 4 * LOGIT_COPIES * seq_len * shapes.embedding[0]
    waiting = int(WAITING_BYTES * shapes.n_weight)
    return PROCESS_BYTES[device.type] + max(layer, head_bytes) + waiting


def memory_limit(wanted: int | None, device: torch.device) -> int:
    """`wanted`, or most of what the device has free."""
    if wanted is not None:
        return wanted
    if device.type == "cuda":
        return int(FREE_SHARE * torch.cuda.mem_get_info(device)[0])
    free = available_memory()
    return int(FREE_SHARE * free.n_byte) if free is not None else 1 << 62


def keep_bytes(shapes: Shapes, n_token: int, limit: int, device: torch.device) -> int:
    """Bytes of weights that may stay between passes; ResourceError if not even a layer fits."""
    needed = calibration_bytes(shapes, n_token, device)
    if needed > limit:
        raise ResourceError(
            f"--max-memory {_mib(limit)}: calibration needs {_mib(needed)} for this model, its "
            f"largest part at a time",
            "a shorter --seqlen does not change it much; a smaller vocabulary or layer would",
        )
    return limit - needed


def n_worker(shapes: Shapes, limit: int, device: torch.device) -> int:
    """Matrices that may be rounded side by side; ResourceError if not even one fits."""
    largest = max(rounding_bytes(shape, device) for shape in shapes.matrices)
    room = (limit - PROCESS_BYTES[device.type]) // largest
    if room < 1:
        raise ResourceError(
            f"--max-memory {_mib(limit)}: rounding the largest matrix needs "
            f"{_mib(largest + PROCESS_BYTES[device.type])}"
        )
    return room


def tuning_bytes(shapes: Shapes, n_token: int, device: torch.device) -> int:
    """What `--effort best` holds: models, and a whole backward pass of `n_token` tokens."""
    models, active = 4 * TUNING_COPIES * shapes.n_weight, _whole_pass_bytes(shapes, n_token)
    return PROCESS_BYTES[device.type] + models + active


def _whole_pass_bytes(shapes: Shapes, n_token: int) -> int:
    """Activations that all layers keep in float32, those of one at work, and predictions."""
    kept = shapes.n_layer * _per_token(shapes, WIDE_SAVED, INNER_SAVED)
    at_work = _per_token(shapes, WIDE_COPIES, INNER_COPIES)
    return 4 * n_token * (kept + at_work + LOGIT_COPIES * shapes.embedding[0])


def check_tuning(shapes: Shapes, n_token: int, limit: int, device: torch.device) -> None:
    """ResourceError where `--effort best` would not fit."""
    needed, models = tuning_bytes(shapes, n_token, device), 4 * TUNING_COPIES * shapes.n_weight
    if needed > limit:
        raise ResourceError(
            f"--effort best needs {_mib(needed)}: {TUNING_COPIES} models in float32 "
            f"({_mib(models)}) and a backward pass; there are {_mib(limit)}",
            "--effort normal takes one layer at a time",
        )


def whole_bytes(shapes: Shapes, n_token: int) -> int:
    """The whole model in float32 on the CPU, with a backward pass of `n_token` tokens or none."""
    return PROCESS_BYTES["cpu"] + 4 * shapes.n_weight + _whole_pass_bytes(shapes, n_token)


def check_whole(shapes: Shapes, n_token: int, limit: int, hint: str) -> None:
    """ResourceError where `whole_bytes` do not fit."""
    needed = whole_bytes(shapes, n_token)
    if needed > limit:
        raise ResourceError(
            f"this needs the whole model in memory, {_mib(needed)}; there are {_mib(limit)}",
            hint,
        )


def _mib(n_byte: int) -> str:
    return f"{n_byte / (1 << 20):,.0f} MiB"
