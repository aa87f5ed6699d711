"""What a collection is given and what it leaves: settings, parts of the model, stages on disk."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from csaq_export.calibration import Calibration
from csaq_export.statistics.decoder import Decoder
from csaq_export.statistics.linear import LinearStatistics, from_tensors
from csaq_export.statistics.reduce import rank_and_count, sum_over_ranks
from csaq_export.workdir import Fingerprint, WorkDir

Batches = list[Tensor]
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
        tensors = self.work.load(stage_of(part), self.fingerprint) or {}
        names = sorted({name.rpartition("/")[0] for name in tensors})
        return {name: from_tensors(tensors, f"{name}/") for name in names}


def layer_part(index: int) -> str:
    """Part name of decoder layer `index`."""
    return f"layer-{index}"


def stage_of(part: str) -> str:
    """Name of the stage that holds a part's statistics."""
    return f"statistics-{part}"


@dataclass(frozen=True)
class Run:
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
            self.work.save(stage_of(part), self.fingerprint, tensors)

    def own(self, stage: str) -> str:
        """This rank's name for a stage that every rank has."""
        return f"{stage}-rank-{rank_and_count()[0]}"

    def _shared(self) -> dict[str, str]:
        return {**self.fingerprint, "ranks": str(rank_and_count()[1])}
