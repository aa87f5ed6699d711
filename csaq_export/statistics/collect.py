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
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from csaq_export.calibration import Calibration
from csaq_export.statistics.decoder import Decoder, on_device, take_apart
from csaq_export.statistics.linear import LinearStatistics, from_tensors, observe
from csaq_export.statistics.reduce import (
    highest_over_ranks,
    rank_and_count,
    sum_over_ranks,
    wait_for_ranks,
)
from csaq_export.workdir import Fingerprint, WorkDir

Batches = list[Tensor]
Report = Callable[[str, int, int], None]
HEAD, EMBEDDING = "head", "embedding"


@dataclass(frozen=True)
class Collection:
    """How to collect: `batch_size` windows at once on `device`.

    `share` > 0 counts coactivation among that share of outputs; `groups` assigns the
    rows of a linear layer (by name; int64 [n_out]) to separate curvatures, one otherwise.
    """

    batch_size: int
    device: torch.device
    share: float
    groups: Mapping[str, Tensor]


@dataclass(frozen=True)
class Statistics:
    """The collected stages: `of(part)` reads one layer's, by linear module name."""

    work: WorkDir
    fingerprint: Fingerprint
    n_layer: int

    def parts(self) -> list[str]:
        """Stage names: embedding, one per decoder layer, head."""
        return [EMBEDDING, *(layer_part(i) for i in range(self.n_layer)), HEAD]

    def of(self, part: str) -> dict[str, LinearStatistics]:
        """Statistics of one part, by module name relative to the part ("" is the part itself)."""
        tensors = self.work.load(_stage(part), self.fingerprint) or {}
        names = sorted({name.rpartition("/")[0] for name in tensors})
        return {name: from_tensors(tensors, f"{name}/") for name in names}


def layer_part(index: int) -> str:
    """Part name of decoder layer `index`."""
    return f"layer-{index}"


def _stage(part: str) -> str:
    return f"statistics-{part}"


def collect(
    model: PreTrainedModel,
    calibration: Calibration,
    work: WorkDir,
    fingerprint: Fingerprint,
    settings: Collection,
    report: Report = lambda stage, done, total: None,
) -> Statistics:
    """Collect what is missing in `work`; `fingerprint` names the model.

    Raises UsageError where the work dir holds statistics of other inputs.
    """
    model.requires_grad_(False)
    decoder = take_apart(model, calibration.tokens.shape[1])
    fingerprint = {**fingerprint, **calibration.fingerprint, "batch": str(settings.batch_size)}
    run = _Run(decoder, calibration, work, fingerprint, settings)
    statistics = Statistics(work, fingerprint, len(decoder.layers))
    if any(work.load(_stage(part), fingerprint) is None for part in statistics.parts()):
        _forward(run, report)
        _backward(run, report)
    return statistics


@dataclass(frozen=True)
class _Run:
    """What every step of one collection needs."""

    decoder: Decoder
    calibration: Calibration
    work: WorkDir
    fingerprint: Fingerprint
    settings: Collection

    def batches(self) -> list[tuple[int, Tensor]]:
        """This rank's batches of token windows and their numbers among all."""
        rank, n_rank = rank_and_count()
        every = torch.split(self.calibration.tokens, self.settings.batch_size)
        return list(enumerate(every))[rank::n_rank]

    def keep(self, stage: str, batches: Batches) -> None:
        """Store one boundary's activations or gradients of this rank."""
        named = {f"{i:06}": batch for i, batch in enumerate(batches)}
        self.work.save(self.own(stage), self._shared(), named)

    def kept(self, stage: str) -> Batches | None:
        """What `keep` stored, or None."""
        named = self.work.load(self.own(stage), self._shared())
        return None if named is None else [named[name] for name in sorted(named)]

    def forget(self, stage: str) -> None:
        """Drop what `keep` stored."""
        self.work.drop(self.own(stage))

    def finish(self, part: str, sums: dict[str, LinearStatistics]) -> None:
        """Add up the ranks and store a part's statistics."""
        tensors = {
            f"{name}/{field}": tensor.cpu()
            for name, linear in sorted(sums.items())
            for field, tensor in linear.tensors().items()
        }
        sum_over_ranks(list(tensors.values()))
        if rank_and_count()[0] == 0:
            self.work.save(_stage(part), self.fingerprint, tensors)

    def own(self, stage: str) -> str:
        """This rank's name for a stage that every rank has."""
        return f"{stage}-rank-{rank_and_count()[0]}"

    def _shared(self) -> dict[str, str]:
        return {**self.fingerprint, "ranks": str(rank_and_count()[1])}


def _forward(run: _Run, report: Report) -> None:
    """Store the input of every layer, and the last one's output."""
    n_layer, device = len(run.decoder.layers), run.settings.device
    hidden = run.kept("input-0")
    if hidden is None:
        with torch.no_grad():
            hidden = [run.decoder.embedding(tokens).detach() for _, tokens in run.batches()]
        run.keep("input-0", hidden)
    for index in range(n_layer):
        report("forward", index, n_layer)
        following = run.kept(f"input-{index + 1}")
        if following is None:
            with torch.no_grad(), on_device(run.decoder.layers[index], device):
                following = [run.decoder.run_layer(index, h.to(device)).cpu() for h in hidden]
            run.keep(f"input-{index + 1}", following)
        hidden = following


def _backward(run: _Run, report: Report) -> None:
    """From the head to the embedding: observe each part and store the gradient of its input."""
    n_layer = len(run.decoder.layers)
    above, gradients = _resume_point(run, n_layer)
    for index in reversed(range(above)):
        report("backward", n_layer - index, n_layer)
        gradients = _observe_layer(run, index, run.kept(f"input-{index}") or [], gradients)
        run.keep(f"gradient-{index}", gradients)
        wait_for_ranks()
        run.forget(f"gradient-{index + 1}")
        run.forget(f"input-{index + 1}")
    _observe_embedding(run, gradients)
    wait_for_ranks()
    run.forget("gradient-0")
    run.forget("input-0")


def _resume_point(run: _Run, n_layer: int) -> tuple[int, Batches]:
    """The lowest layer whose input gradients all ranks know; the head is done if none is."""
    known = (
        index for index in range(n_layer) if run.work.path(run.own(f"gradient-{index}")).exists()
    )
    lowest = highest_over_ranks(next(known, n_layer))
    gradients = run.kept(f"gradient-{lowest}")
    if gradients is None:
        gradients = _observe_head(run, run.kept(f"input-{n_layer}") or [])
        run.keep(f"gradient-{n_layer}", gradients)
    return lowest, gradients


def _observe_head(run: _Run, hidden: Batches) -> Batches:
    """Statistics of the output matrix; gradients of the loss with respect to `hidden`."""
    sums: dict[str, LinearStatistics] = {}
    gradients, device, decoder = [], run.settings.device, run.decoder
    with on_device(decoder.norm, device), on_device(decoder.head, device):
        for (number, _), states in zip(run.batches(), hidden, strict=True):
            inputs = states.to(device).requires_grad_(True)
            with _observing({"": decoder.head}, run, number, HEAD, sums):
                logits = decoder.logits(inputs).float()
                labels = sampled_labels(logits.detach(), run.calibration.seed, number)
                loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels, reduction="sum")
                torch.autograd.backward([loss])
            gradients.append(_gradient(inputs))
    run.finish(HEAD, sums)
    return gradients


def _observe_layer(run: _Run, index: int, hidden: Batches, gradients: Batches) -> Batches:
    """Statistics of one decoder layer; gradients with respect to its input."""
    sums: dict[str, LinearStatistics] = {}
    lower, device, layer = [], run.settings.device, run.decoder.layers[index]
    linears = {n: m for n, m in layer.named_modules() if isinstance(m, nn.Linear)}
    with on_device(layer, device):
        for (number, _), states, gradient in zip(run.batches(), hidden, gradients, strict=True):
            inputs = states.to(device).requires_grad_(True)
            with _observing(linears, run, number, layer_part(index), sums):
                output = run.decoder.run_layer(index, inputs)
                torch.autograd.backward([output], [gradient.to(device)])
            lower.append(_gradient(inputs))
    run.finish(layer_part(index), sums)
    return lower


def _gradient(inputs: Tensor) -> Tensor:
    assert inputs.grad is not None
    return inputs.grad.cpu()


@contextmanager
def _observing(
    linears: Mapping[str, nn.Linear],
    run: _Run,
    number: int,
    part: str,
    sums: dict[str, LinearStatistics],
) -> Iterator[None]:
    """Hook `linears` so that one forward and backward pass adds to `sums`."""
    groups, seed = run.settings.groups, run.calibration.seed + number

    def follow(name: str, linear: nn.Linear) -> Callable[..., None]:
        rows = groups.get(f"{part}/{name}", torch.zeros(linear.out_features, dtype=torch.long))

        def on_forward(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            x, z = args[0].detach().flatten(0, -2), output.detach().flatten(0, -2)

            def on_gradient(gradient: Tensor) -> None:
                delta = gradient.detach().flatten(0, -2)
                seen = observe(x, z, delta, linear.weight, rows, seed, run.settings.share)
                sums[name] = sums[name] + seen if name in sums else seen

            output.register_hook(on_gradient)  # type: ignore[no-untyped-call]

        return on_forward

    hooks = [linear.register_forward_hook(follow(name, linear)) for name, linear in linears.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def sampled_labels(logits: Tensor, seed: int, number: int) -> Tensor:
    """One token per position from the model's own prediction, int64 [n · seq_len].

    Uniform numbers come from the CPU, keyed by the batch's number: the same whatever
    the device and the division among ranks.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
    draw = torch.rand(logits[..., 0].numel(), 1, generator=generator).to(logits.device)
    cumulated = logits.flatten(0, 1).softmax(-1).cumsum(-1)
    return torch.searchsorted(cumulated, draw * cumulated[:, -1:]).clamp_(max=logits.shape[-1] - 1)[
        :, 0
    ]


def _observe_embedding(run: _Run, gradients: Batches) -> None:
    """Statistics of the embedding: its rows' curvature is that of the tokens that use them."""
    n_vocab = run.decoder.embedding.weight.shape[0]
    sums: dict[str, LinearStatistics] = {}
    for (_, tokens), gradient in zip(run.batches(), gradients, strict=True):
        seen = _lookup_statistics(tokens.flatten(), gradient.flatten(0, 1), int(n_vocab))
        sums[""] = sums[""] + seen if "" in sums else seen
    run.finish(EMBEDDING, sums)


def _lookup_statistics(ids: Tensor, gradient: Tensor, n_vocab: int) -> LinearStatistics:
    """As `observe`, for the matrix product that a lookup is (inputs one-hot, so no input sums)."""
    n_embd = gradient.shape[1]
    energy = gradient.new_zeros(n_vocab).index_add_(0, ids, gradient.square().sum(1))
    curvature = gradient.T @ gradient / n_vocab
    empty = gradient.new_zeros(0)
    return LinearStatistics(
        n_token=torch.tensor(float(len(ids)), dtype=torch.float64),
        n_batch=torch.tensor(1.0, dtype=torch.float64),
        input_sum=gradient.new_zeros(n_embd),
        input_square=torch.diagonal(curvature).clone(),
        curvature=curvature[None],
        row_curvature=energy / n_embd,
        salience_rows=empty,
        salience_columns=empty,
        salience_blocks=empty,
        profile=empty,
        coactivation=empty,
    )
