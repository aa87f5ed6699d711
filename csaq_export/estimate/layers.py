"""Seconds and bytes of calibration, from one batch through one layer and the head.

The trial is the real thing: the first decoder layer and the output matrix with their own
weights, random states, statistics written to a temporary work dir.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from csaq_export.calibration import Calibration
from csaq_export.estimate.encoders import timed
from csaq_export.layered_model import LayeredModel
from csaq_export.statistics.collect import observe_head, observe_layer
from csaq_export.statistics.stages import Collection, Run
from csaq_export.workdir import WorkDir


@dataclass(frozen=True)
class LayerTrial:
    """Core seconds per token: a layer forward, a layer observed, head and loss observed or read."""

    forward: float
    observe: float
    head: float
    predict: float


def try_layer(model: LayeredModel, n_token: int, seq_len: int, device: torch.device) -> LayerTrial:
    """Run one batch of `n_token` tokens."""
    n_vocab, n_embd = model.parameter("token_embd.weight").shape
    n_window = max(1, n_token // seq_len)
    tokens = torch.randint(0, n_vocab, (n_window, seq_len))
    with _run(model, tokens, device) as run:
        n_layer, (lane,) = len(run.decoder.layers), run.lanes()
        states = torch.randn(n_window, seq_len, n_embd)
        for stage in ("input-0", "gradient-1", f"input-{n_layer}"):
            run.keep(stage, lane, [states])
        layer, moved = run.decoder.layers[0], states.to(device)
        with run.decoder.placed(layer, device), torch.no_grad():
            run.decoder.run_layer(0, moved[:1])
            forward = timed(lambda: run.decoder.run_layer(0, moved), device)
        observe = timed(lambda: observe_layer(run, 0), device)
        head = timed(lambda: observe_head(run, n_layer), device)
        parts = run.decoder.norm, run.decoder.head
        with run.decoder.placed(parts[0], device), run.decoder.placed(parts[1], device):
            predict = timed(lambda: run.decoder.logits(moved).float().log_softmax(-1), device)
    per_token = [each / tokens.numel() for each in (forward, observe, head, predict)]
    return LayerTrial(*per_token)


@contextmanager
def _run(model: LayeredModel, tokens: torch.Tensor, device: torch.device) -> Iterator[Run]:
    decoder = model.decoder(tokens.shape[1], device)
    with tempfile.TemporaryDirectory(prefix="csaq-") as folder:
        calibration = Calibration(tokens, "trial", "", 0)
        settings = Collection(len(tokens), device, 0.0, {})
        yield Run(decoder, calibration, WorkDir(Path(folder)), {}, settings)
