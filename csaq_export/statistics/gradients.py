"""Weight gradients of every linear layer, element by element: what single weights are ranked by.

As in `collect` one decoder layer is in memory at a time and every finished layer is a stage
of the work dir. The loss is the likelihood of given labels (a task's answers) or, without,
that of tokens drawn from the model itself.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from csaq_export.device import tensor_float
from csaq_export.layered_model import LayeredModel
from csaq_export.ranks import rank_and_count
from csaq_export.statistics.collect import Report, run_forward
from csaq_export.statistics.labels import sampled_labels
from csaq_export.statistics.stages import Run
from csaq_runtime.errors import UsageError

# Stands in labels where nothing is to be predicted.
NO_LABEL = -100
_PREFIX = "model.layers."


@dataclass(frozen=True)
class Gradients:
    """Per GGUF name: `gradient` Σ ∂L/∂W and `salience` Σ_b |g_b·W|, float32 [n_row, n_col]."""

    run: Run
    model: LayeredModel
    places: Mapping[str, tuple[int, str]]

    def gradient(self, name: str) -> Tensor:
        """The signed sum over all batches."""
        return self._read(name, "gradient")

    def salience(self, name: str) -> Tensor:
        """The sum over batches of |gradient · weight|."""
        return self._read(name, "salience")

    def _read(self, name: str, kind: str) -> Tensor:
        index, module = self.places[name]
        stored = self.run.work.load_one(_stage(index), self.run.fingerprint, f"{module}/{kind}")
        return self.model.to_gguf(name, stored)


def collect_gradients(
    run: Run, model: LayeredModel, labels: Tensor | None, report: Report
) -> Gradients:
    """Gradients of all linear layers of `model` on the windows of `run`.

    `labels` int64 [n_sample, seq_len]: the token each position should predict next, or
    NO_LABEL. What the work dir holds is not made again.
    """
    if rank_and_count()[1] > 1:
        raise UsageError("gradients of single weights are collected by one process", "no torchrun")
    run = replace(run, fingerprint={**run.fingerprint, "labels": _labels_text(labels)})
    n_layer = len(run.decoder.layers)
    missing = [i for i in range(n_layer) if not run.work.has(_stage(i), run.fingerprint)]
    if missing:
        with tensor_float(True):
            run_forward(run, report)
            gradients = _head_gradients(run, labels)
            for index in reversed(range(n_layer)):
                report("gradients", n_layer - index, n_layer)
                gradients = _observe_layer(run, index, gradients)
                run.forget(f"input-{index + 1}")
            run.forget("input-0")
    return Gradients(run, model, _places(model))


def _places(model: LayeredModel) -> dict[str, tuple[int, str]]:
    found = {}
    for name, slot in model.slots.items():
        if slot.source.startswith(_PREFIX) and len(slot.shape) == 2:
            index, _, module = slot.source.removeprefix(_PREFIX).partition(".")
            found[name] = (int(index), module.removesuffix(".weight"))
    return found


def _stage(index: int) -> str:
    return f"gradients-{index}"


def _labels_text(labels: Tensor | None) -> str:
    if labels is None:
        return "drawn"
    return hashlib.sha256(labels.contiguous().numpy().tobytes()).hexdigest()


def _head_gradients(run: Run, labels: Tensor | None) -> list[Tensor]:
    """Gradient of the loss with respect to the last layer's output, a tensor per batch."""
    device, decoder, found = run.settings.device, run.decoder, []
    with decoder.placed(decoder.norm, device), decoder.placed(decoder.head, device):
        for lane in run.own_lanes():
            hidden = run.kept(f"input-{len(decoder.layers)}", lane)
            for (number, tokens), states in zip(lane.batches, hidden, strict=True):
                inputs = states.to(device).requires_grad_(True)
                logits = decoder.logits(inputs).float()
                wanted = _batch_labels(run, labels, logits, number, len(tokens))
                loss = nn.functional.cross_entropy(
                    logits.flatten(0, 1), wanted, ignore_index=NO_LABEL, reduction="sum"
                )
                torch.autograd.backward([loss])
                assert inputs.grad is not None
                found.append(inputs.grad.cpu())
    return found


def _batch_labels(
    run: Run, labels: Tensor | None, logits: Tensor, number: int, n_window: int
) -> Tensor:
    if labels is None:
        return sampled_labels(logits.detach(), run.calibration.seed, number)
    start = number * run.settings.batch_size
    return labels[start : start + n_window].flatten().to(logits.device)


def _observe_layer(run: Run, index: int, above: list[Tensor]) -> list[Tensor]:
    """Keep one layer's sums; the gradients of its input, a tensor per batch."""
    device, layer, below = run.settings.device, run.decoder.layers[index], []
    sums: dict[str, Tensor] = {}
    rest = iter(above)
    with run.decoder.placed(layer, device):
        linears = {n: m for n, m in layer.named_modules() if isinstance(m, nn.Linear)}
        for linear in linears.values():
            linear.weight.requires_grad_(True)
        for lane in run.own_lanes():
            for states in run.kept(f"input-{index}", lane):
                inputs = states.to(device).requires_grad_(True)
                output = run.decoder.run_layer(index, inputs)
                torch.autograd.backward([output], [next(rest).to(device)])
                assert inputs.grad is not None
                below.append(inputs.grad.cpu())
                _add(sums, linears)
    run.work.save(_stage(index), run.fingerprint, sums)
    return below


def _add(sums: dict[str, Tensor], linears: Mapping[str, nn.Linear]) -> None:
    """Add one batch's gradients, and clear them."""
    for name, linear in linears.items():
        gradient, linear.weight.grad = linear.weight.grad, None
        assert gradient is not None
        salience = (gradient * linear.weight.detach()).abs()
        for kind, value in (("gradient", gradient), ("salience", salience)):
            key = f"{name}/{kind}"
            sums[key] = sums[key] + value if key in sums else value.clone()
