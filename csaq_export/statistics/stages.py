"""What a collection is given and what it leaves: settings, parts of the model, stages on disk."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from csaq_export.calibration import Calibration
from csaq_export.ranks import rank_and_count, wait_for_ranks
from csaq_export.statistics.decoder import Decoder
from csaq_export.statistics.linear import LinearStatistics, from_tensors
from csaq_export.statistics.pairwise import PairwiseSum, total_at_first
from csaq_export.workdir import Fingerprint, WorkDir

Batches = list[Tensor]
# The windows are divided into this many lanes whatever the number of ranks: sums are the same
# bits for any, and so many ranks can share the work.
N_LANE = 16
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
        return {name: self.of_one(part, name) for name in self.modules(part)}

    def of_one(self, part: str, module: str) -> LinearStatistics:
        """Statistics of one linear module."""
        stage = stage_of(part)
        return from_tensors(self.work.load_part(stage, self.fingerprint, f"{module}/"))

    def modules(self, part: str) -> list[str]:
        """Names of a part's linear modules."""
        names = self.work.names(stage_of(part), self.fingerprint)
        return sorted({name.rpartition("/")[0] for name in names})


def layer_part(index: int) -> str:
    """Part name of decoder layer `index`."""
    return f"layer-{index}"


def stage_of(part: str) -> str:
    """Name of the stage that holds a part's statistics."""
    return f"statistics-{part}"


@dataclass(frozen=True)
class Lane:
    """Neighbouring batches that one rank runs: (number among all, tokens [n, seq_len]) each."""

    number: int
    batches: tuple[tuple[int, Tensor], ...]

    def stage(self, name: str) -> str:
        """The stage that holds this lane's part of `name`."""
        return f"{name}-lane-{self.number:02}"


@dataclass(frozen=True)
class Run:
    """What every step of one collection needs."""

    decoder: Decoder
    calibration: Calibration
    work: WorkDir
    fingerprint: Fingerprint
    settings: Collection

    def lanes(self) -> list[Lane]:
        """All batches of token windows and their numbers, in at most N_LANE runs of neighbours."""
        batches = list(enumerate(torch.split(self.calibration.tokens, self.settings.batch_size)))
        n = min(N_LANE, len(batches))
        cuts = [i * len(batches) // n for i in range(n + 1)]
        return [
            Lane(number, tuple(batches[start:end]))
            for number, (start, end) in enumerate(pairwise(cuts))
        ]

    def own_lanes(self) -> list[Lane]:
        """This rank's; the first rank has one at least."""
        lanes, (rank, count) = self.lanes(), rank_and_count()
        first, last = (-(-(rank + i) * len(lanes) // count) for i in (0, 1))
        return lanes[first:last]

    def keep(self, stage: str, lane: Lane, batches: Batches) -> None:
        """Store one boundary's activations or gradients."""
        named = {f"{i:06}": batch for i, batch in enumerate(batches)}
        self.work.save(lane.stage(stage), self.fingerprint, named)

    def kept(self, stage: str, lane: Lane) -> Batches:
        """What `keep` stored."""
        named = self.work.load(lane.stage(stage), self.fingerprint)
        assert named is not None
        return [named[name] for name in sorted(named)]

    def has(self, stage: str, lanes: Iterable[Lane]) -> bool:
        """Whether `keep` has stored this for all `lanes`."""
        return all(self.work.has(lane.stage(stage), self.fingerprint) for lane in lanes)

    def forget(self, stage: str) -> None:
        """Drop what `keep` stored for this rank's lanes."""
        for lane in self.own_lanes():
            self.work.drop(lane.stage(stage))

    def new_sum(self) -> PairwiseSum:
        """An empty sum over all lanes."""
        return PairwiseSum(len(self.lanes()))

    def finish(self, part: str, sums: PairwiseSum) -> None:
        """Add up the ranks and store a part's statistics."""
        total = total_at_first(sums)
        if total is not None:
            tensors = {
                f"{name}/{field}": tensor
                for name, linear in sorted(total.items())
                for field, tensor in linear.tensors().items()
            }
            self.work.save(stage_of(part), self.fingerprint, tensors)
        wait_for_ranks()
