"""Seconds per token of running the model, from one batch through one layer and the head.

The trial is the real thing: the first decoder layer and the output matrix with their own
weights, random states, statistics written to a temporary work dir.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from csaq_export.budget.walk import BATCH_SIZE, divergence_of
from csaq_export.calibration import Calibration
from csaq_export.device import compute_dtype
from csaq_export.estimate.clock import steady, steady_alone, timed
from csaq_export.estimate.job import Job
from csaq_export.footprint import shapes_of
from csaq_export.layered_model import LayeredModel
from csaq_export.statistics.collect import forward_layer, observe_head, observe_layer
from csaq_export.statistics.decoder import Decoder
from csaq_export.statistics.stages import HEAD, Collection, Run, layer_part, stage_of
from csaq_export.workdir import WorkDir

# Multiply-adds of the trial's forward pass, at most, if that leaves a window: seconds on a core.
MOST_WORK = 1 << 36


@dataclass(frozen=True)
class LayerTrial:
    """Seconds per token on the clock, with weights at hand.

    `forward`: a layer with its states from file to file, `observe`: it backwards with
    statistics, `head`: the output and the loss likewise; `walk`: a layer of a changed copy,
    `predict`: the output, `compare`: a copy's with its divergence; `train`, `train_head`:
    forward and backward with weight gradients. `read`: core seconds per weight, a matrix from
    its file; `place`: seconds per weight, a layer's; `save`: per byte, statistics to their file,
    `load`: core seconds per byte of them from it.
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
    place: float
    save: float
    load: float


def try_layer(model: LayeredModel, job: Job, device: torch.device) -> LayerTrial:
    """Run what `job` would once, on random states; training only if it tunes."""
    n_window, shapes = _windows(model, job), shapes_of(model.slots.values())
    files = _read_seconds(model, device), _place_seconds(model, device) / shapes.layer_weights
    held = replace(model, keep_bytes=1 << 62)
    with _run(held, n_window, job.seq_len, device) as run:
        calibrating, saved = _calibration_seconds(run, device)
        stored = _file_rates(run, saved, device)
    decoder = held.decoder(job.seq_len, device)
    states = torch.randn(n_window, job.seq_len, shapes.embedding[1])
    states = states.to(device, compute_dtype(device))
    walk = _walk_seconds(decoder, states[:BATCH_SIZE])
    train = _train_seconds(decoder, states) if job.n_step else (0.0, 0.0)
    held.keeping(0)
    return LayerTrial(*calibrating, *walk, *train, *files, *stored)


def _windows(model: LayeredModel, job: Job) -> int:
    """Of a batch, or fewer where the layer is large."""
    shapes = shapes_of(model.slots.values())
    each = job.seq_len * max(shapes.layer_weights, prod(shapes.embedding))
    return max(1, min(job.batch_size, job.n_window, MOST_WORK // each))


def _calibration_seconds(
    run: Run, device: torch.device
) -> tuple[tuple[float, float, float], float]:
    """`forward`, `observe`, `head`, without saving statistics, which follows all batches.

    And the seconds of saving a layer's.
    """
    n_layer, n_token = len(run.decoder.layers), run.calibration.tokens.numel()
    steps = (partial(forward_layer, run, 0), partial(observe_layer, run, 0),
             partial(observe_head, run, n_layer))  # fmt: skip
    forward, observe, head = (steady(step, device) for step in steps)
    saved = steady(_saving(run, layer_part(0)), device)
    observe, head = observe - saved, head - steady(_saving(run, HEAD), device)
    passes = (forward / n_token, max(0.0, observe) / n_token, max(0.0, head) / n_token)
    return passes, saved


def _saving(run: Run, part: str) -> Callable[[], None]:
    return partial(run.work.save, "again", run.fingerprint, _statistics(run, part))


def _statistics(run: Run, part: str) -> dict[str, Tensor]:
    found = run.work.load(stage_of(part), run.fingerprint)
    assert found is not None
    return found


def _file_rates(run: Run, saved: float, device: torch.device) -> tuple[float, float]:
    """`save` and `load`, of a layer's statistics, which took `saved` seconds to save."""
    part = layer_part(0)
    n_byte = sum(each.nbytes for each in _statistics(run, part).values())

    def load() -> None:
        for each in _statistics(run, part).values():
            each.to(device).sum()  # a file is read when it is looked at

    return saved / n_byte, steady_alone(load, device) / n_byte


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
        walk = steady(lambda: decoder.run_layer(0, states), device)
    with decoder.placed(decoder.norm, device), decoder.placed(decoder.head, device):
        window, head = states[:1], decoder.head.weight
        none = steady(lambda: divergence_of(decoder, window, [], []), device)
        both = steady(lambda: divergence_of(decoder, window, [window] * 2, [head] * 2), device)
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
        seconds = steady(lambda: torch.autograd.backward([run().float().sum()]), device)
        module.requires_grad_(False)
    return seconds


def _read_seconds(model: LayeredModel, device: torch.device) -> float:
    name = "blk.0.attn_q.weight"
    model.read(name)
    return timed(lambda: model.read(name).to(device), device) / model.parameter(name).numel()


def _place_seconds(model: LayeredModel, device: torch.device) -> float:
    bare = model.keeping(0)
    decoder = bare.decoder(1, device)

    def place() -> None:
        with bare.placed(decoder.layers[0], device):
            pass

    return steady(place, device)
