"""Core seconds per token of running the model, from one batch through one layer and the head.

The trial is the real thing: the first decoder layer and the output matrix with their own
weights, random states, statistics written to a temporary work dir.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from csaq_export.budget.walk import BATCH_SIZE, divergence_of
from csaq_export.calibration import Calibration
from csaq_export.device import compute_dtype
from csaq_export.estimate.clock import timed
from csaq_export.estimate.job import Job
from csaq_export.footprint import shapes_of
from csaq_export.layered_model import LayeredModel
from csaq_export.statistics.collect import forward_layer, observe_head, observe_layer
from csaq_export.statistics.decoder import Decoder
from csaq_export.statistics.stages import Collection, Run
from csaq_export.workdir import WorkDir

# Multiply-adds of the trial's forward pass, at most, if that leaves a window: seconds on a core.
MOST_WORK = 1 << 36


@dataclass(frozen=True)
class LayerTrial:
    """Core seconds per token.

    `forward`: a layer with its states from file to file, `observe`: it backwards with
    statistics, `head`: the output and the loss likewise; `walk`: a layer of a changed copy,
    `predict`: the output, `compare`: a copy's with its divergence; `train`, `train_head`:
    forward and backward with weight gradients. `read`: per weight, a matrix from its file.
    """

    forward: float
    observe: float
    head: float
    walk: float
    predict: float
    compare: float
    train: float
    train_head: float
    read: float


def try_layer(model: LayeredModel, job: Job, device: torch.device) -> LayerTrial:
    """Run what `job` would once, on random states; training only if it tunes."""
    n_window = _windows(model, job)
    with _run(model, 1, job.seq_len, device) as warm:
        _calibration_seconds(warm, device)
    with _run(model, n_window, job.seq_len, device) as run:
        calibration = _calibration_seconds(run, device)
    decoder, n_embd = model.decoder(job.seq_len, device), shapes_of(model.slots.values()).embedding
    states = torch.randn(n_window, job.seq_len, n_embd[1]).to(device, compute_dtype(device))
    walk = _walk_seconds(decoder, states[:BATCH_SIZE])
    train = _train_seconds(decoder, states) if job.n_step else (0.0, 0.0)
    return LayerTrial(*calibration, *walk, *train, _read_seconds(model, device))


def _windows(model: LayeredModel, job: Job) -> int:
    """Of a batch, or fewer where the layer is large."""
    shapes = shapes_of(model.slots.values())
    each = job.seq_len * max(shapes.layer_weights, prod(shapes.embedding))
    return max(1, min(job.batch_size, job.n_window, MOST_WORK // each))


def _calibration_seconds(run: Run, device: torch.device) -> tuple[float, float, float]:
    n_layer, n_token = len(run.decoder.layers), run.calibration.tokens.numel()
    steps = (partial(forward_layer, run, 0), partial(observe_layer, run, 0),
             partial(observe_head, run, n_layer))  # fmt: skip
    forward, observe, head = (timed(step, device) / n_token for step in steps)
    return forward, observe, head


@contextmanager
def _run(model: LayeredModel, n_window: int, seq_len: int, device: torch.device) -> Iterator[Run]:
    """A collection on one batch of random tokens, with random states at the layer's ends."""
    n_vocab, n_embd = model.parameter("token_embd.weight").shape
    tokens = torch.randint(0, n_vocab, (n_window, seq_len))
    with tempfile.TemporaryDirectory(prefix="csaq-") as folder:
        settings = Collection(n_window, device, 0.0, {})
        decoder, work = model.decoder(seq_len, device), WorkDir(Path(folder))
        run = Run(decoder, Calibration(tokens, "trial", "", 0), work, {}, settings)
        states = torch.randn(n_window, seq_len, n_embd).to(compute_dtype(device))
        for stage in ("input-0", "gradient-1", f"input-{len(decoder.layers)}"):
            run.keep(stage, run.lanes()[0], [states])
        yield run


@torch.no_grad()
def _walk_seconds(decoder: Decoder, states: Tensor) -> tuple[float, float, float]:
    device, n_token = states.device, states[..., 0].numel()
    with decoder.placed(decoder.layers[0], device):
        walk = _again(lambda: decoder.run_layer(0, states), device)
    with decoder.placed(decoder.norm, device), decoder.placed(decoder.head, device):
        window, head = states[:1], decoder.head.weight
        none = _again(lambda: divergence_of(decoder, window, [], []), device)
        both = timed(lambda: divergence_of(decoder, window, [window] * 2, [head] * 2), device)
    n_here = window[..., 0].numel()
    return walk / n_token, none / n_here, max(none, (both - none) / 2) / n_here


def _train_seconds(decoder: Decoder, states: Tensor) -> tuple[float, float]:
    device, n_token = states.device, states[..., 0].numel()
    inputs = states.detach().requires_grad_(True)

    def head() -> Tensor:
        return decoder.logits(inputs).float().log_softmax(-1).exp()

    with decoder.placed(decoder.norm, device):
        pairs = ((decoder.layers[0], lambda: decoder.run_layer(0, inputs)), (decoder.head, head))
        layer, predicted = (_passed(decoder, module, run, device) for module, run in pairs)
    return layer / n_token, predicted / n_token


def _passed(
    decoder: Decoder, module: torch.nn.Module, run: Callable[[], Tensor], device: torch.device
) -> float:
    with decoder.placed(module, device):
        module.requires_grad_(True)
        seconds = _again(lambda: torch.autograd.backward([run().float().sum()]), device)
        module.requires_grad_(False)
    return seconds


def _read_seconds(model: LayeredModel, device: torch.device) -> float:
    name = "blk.0.attn_q.weight"
    return _again(lambda: model.read(name).to(device), device) / model.parameter(name).numel()


def _again(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the second time: the first prepares what is made once."""
    work()
    return timed(work, device)
