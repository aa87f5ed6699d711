"""Calibration windows → LinearStatistics of every linear layer, one decoder layer at a time.

A forward pass stores the input of each layer; a backward pass from the head down
recomputes one layer at a time with gradients of its outputs only, observes its linear
layers and hands the gradient of its input on. Weights stay frozen: a weight gradient
exists only inside `observe`, for one linear layer and one batch. Every layer's sums are
a stage of the work dir, so a killed run goes on where it was.

The loss is the log-likelihood of tokens drawn from the model's own predictions: the
mean square of its gradients is the Fisher matrix, the curvature of the KL divergence
between the model and a perturbed copy, which is what a quantized file is judged by.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from csaq_export.calibration import Calibration
from csaq_export.device import tensor_float
from csaq_export.ranks import from_first, wait_for_ranks
from csaq_export.statistics.decoder import Decoder
from csaq_export.statistics.labels import sampled_labels
from csaq_export.statistics.linear import LinearStatistics, lookup_statistics, observe
from csaq_export.statistics.stages import (
    EMBEDDING,
    HEAD,
    Collection,
    Run,
    Statistics,
    layer_part,
    stage_of,
)
from csaq_export.workdir import Fingerprint, WorkDir

Report = Callable[[str, int, int], None]


def collect(
    decoder: Decoder,
    calibration: Calibration,
    work: WorkDir,
    fingerprint: Fingerprint,
    settings: Collection,
    report: Report = lambda stage, done, total: None,
) -> Statistics:
    """Collect what is missing in `work`; `fingerprint` names the model.

    `decoder` has no parameter with gradients and takes the calibration's windows. Raises
    UsageError where the work dir holds statistics of other inputs.
    """
    fingerprint = {**fingerprint, **calibration.fingerprint, "batch": str(settings.batch_size)}
    run = Run(decoder, calibration, work, fingerprint, settings)
    statistics = Statistics(work, fingerprint, len(decoder.layers))
    missing = [part for part in statistics.parts() if not work.has(stage_of(part), fingerprint)]
    if from_first(missing):
        with tensor_float(True):
            run_forward(run, report)
            _backward(run, report)
    return statistics


def run_forward(run: Run, report: Report) -> None:
    """Store the input of every layer, and the last one's output."""
    n_layer, device, lanes = len(run.decoder.layers), run.settings.device, run.own_lanes()
    report("forward", 0, n_layer)
    if not run.has("input-0", lanes):
        embedding = run.decoder.embedding
        with torch.no_grad(), run.decoder.placed(embedding, device):
            for lane in lanes:
                hidden = [embedding(tokens.to(device)).cpu() for _, tokens in lane.batches]
                run.keep("input-0", lane, hidden)
    for index in range(n_layer):
        report("forward", index, n_layer)
        if not run.has(f"input-{index + 1}", lanes):
            forward_layer(run, index)


def forward_layer(run: Run, index: int) -> None:
    """Store what layer `index` makes of its stored inputs."""
    device = run.settings.device
    with torch.no_grad(), run.decoder.placed(run.decoder.layers[index], device):
        for lane in run.own_lanes():
            hidden = run.kept(f"input-{index}", lane)
            following = [run.decoder.run_layer(index, h.to(device)).cpu() for h in hidden]
            run.keep(f"input-{index + 1}", lane, following)


def _backward(run: Run, report: Report) -> None:
    """From the head to the embedding: observe each part and store the gradient of its input."""
    n_layer = len(run.decoder.layers)
    wait_for_ranks()
    above = from_first(_resume_point(run, n_layer))
    if above > n_layer:
        observe_head(run, n_layer)
    for index in reversed(range(min(above, n_layer))):
        report("backward", n_layer - index, n_layer)
        observe_layer(run, index)
        run.forget(f"gradient-{index + 1}")
        run.forget(f"input-{index + 1}")
    _observe_embedding(run)
    run.forget("gradient-0")
    run.forget("input-0")


def _resume_point(run: Run, n_layer: int) -> int:
    """The lowest layer whose input gradients are stored; beyond the head if none are."""
    lanes = run.lanes()
    found = (index for index in range(n_layer + 1) if run.has(f"gradient-{index}", lanes))
    return next(found, n_layer + 1)


def observe_head(run: Run, n_layer: int) -> None:
    """Statistics of the output matrix; gradients of the loss with respect to its input."""
    found, device, decoder = run.new_sum(), run.settings.device, run.decoder
    with decoder.placed(decoder.norm, device), decoder.placed(decoder.head, device):
        for lane in run.own_lanes():
            sums: dict[str, LinearStatistics] = {}
            gradients = []
            hidden = run.kept(f"input-{n_layer}", lane)
            for (number, _), states in zip(lane.batches, hidden, strict=True):
                inputs = states.to(device).requires_grad_(True)
                with _observing({"": decoder.head}, run, number, HEAD, sums):
                    torch.autograd.backward([_loss(run, inputs, number)])
                gradients.append(_gradient(inputs))
            run.keep(f"gradient-{n_layer}", lane, gradients)
            found.add(lane.number, sums)
    run.finish(HEAD, found)


def _loss(run: Run, inputs: Tensor, number: int) -> Tensor:
    logits = run.decoder.logits(inputs).float()
    labels = sampled_labels(logits.detach(), run.calibration.seed, number)
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels, reduction="sum")


def observe_layer(run: Run, index: int) -> None:
    """Statistics of one decoder layer; gradients with respect to its input."""
    found, device, layer = run.new_sum(), run.settings.device, run.decoder.layers[index]
    linears = {n: m for n, m in layer.named_modules() if isinstance(m, nn.Linear)}
    with run.decoder.placed(layer, device):
        for lane in run.own_lanes():
            sums: dict[str, LinearStatistics] = {}
            lower = []
            kept = run.kept(f"input-{index}", lane), run.kept(f"gradient-{index + 1}", lane)
            for (number, _), states, gradient in zip(lane.batches, *kept, strict=True):
                inputs = states.to(device).requires_grad_(True)
                with _observing(linears, run, number, layer_part(index), sums):
                    output = run.decoder.run_layer(index, inputs)
                    torch.autograd.backward([output], [gradient.to(device)])
                lower.append(_gradient(inputs))
            run.keep(f"gradient-{index}", lane, lower)
            found.add(lane.number, sums)
    run.finish(layer_part(index), found)


def _gradient(inputs: Tensor) -> Tensor:
    assert inputs.grad is not None
    return inputs.grad.cpu()


@contextmanager
def _observing(
    linears: Mapping[str, nn.Linear],
    run: Run,
    number: int,
    part: str,
    sums: dict[str, LinearStatistics],
) -> Iterator[None]:
    """Hook `linears` so that one forward and backward pass adds to `sums`."""
    groups, seed = run.settings.groups, run.calibration.seed + number

    def follow(name: str, linear: nn.Linear) -> Callable[..., None]:
        rows = groups.get(
            f"{part}/{name}", torch.zeros(linear.out_features, dtype=torch.long, device="cpu")
        )

        def on_forward(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            x, z = args[0].detach().flatten(0, -2), output.detach().flatten(0, -2)

            def on_gradient(gradient: Tensor) -> None:
                delta = gradient.detach().flatten(0, -2)
                seen = observe(x, z, delta, linear.weight, rows, seed, run.settings.share)
                _add(sums, name, seen)

            output.register_hook(on_gradient)  # type: ignore[no-untyped-call]

        return on_forward

    hooks = [linear.register_forward_hook(follow(name, linear)) for name, linear in linears.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _observe_embedding(run: Run) -> None:
    """Statistics of the embedding: its rows' curvature is that of the tokens that use them."""
    n_vocab, found = int(run.decoder.embedding.weight.shape[0]), run.new_sum()
    device = run.settings.device
    for lane in run.own_lanes():
        sums: dict[str, LinearStatistics] = {}
        gradients = run.kept("gradient-0", lane)
        for (_, tokens), gradient in zip(lane.batches, gradients, strict=True):
            rows = gradient.flatten(0, 1).to(device).float()
            _add(sums, "", lookup_statistics(tokens.flatten(), rows, n_vocab))
        found.add(lane.number, sums)
    run.finish(EMBEDDING, found)


def _add(sums: dict[str, LinearStatistics], name: str, seen: LinearStatistics) -> None:
    sums[name] = sums[name].add_(seen) if name in sums else seen
