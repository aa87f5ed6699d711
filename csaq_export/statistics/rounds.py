"""Collection in rounds: more and more windows, until they no longer change which weights matter.

The rule of csaq-quant 0.5.1: from 16 windows on the salience of all rows and columns is ranked
every 8 windows, and collection ends when no matrix's ranking has changed by more than a given
Spearman correlation. A round is a collection of its own in the work dir; sums of rounds add.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import reduce
from operator import add

from torch import Tensor

from csaq_export.calibration import Calibration
from csaq_export.ranks import from_first, is_first, wait_for_ranks
from csaq_export.statistics.collect import Report, collect
from csaq_export.statistics.decoder import Decoder
from csaq_export.statistics.linear import LinearStatistics
from csaq_export.statistics.stages import Collection, Statistics, layer_part, stage_of
from csaq_export.workdir import Fingerprint, WorkDir

FIRST_WINDOWS, NEXT_WINDOWS = 16, 8
# Keeps the draws of rounds apart; more than a round has batches.
_SEED_STEP = 1009


def collect_until_stable(
    decoder: Decoder,
    calibration: Calibration,
    work: WorkDir,
    fingerprint: Fingerprint,
    settings: Collection,
    stable: float,
    report: Report = lambda stage, done, total: None,
) -> Statistics:
    """As `collect`, from the first windows that rank rows and columns alike to `stable`."""
    wanted = {
        **fingerprint,
        **calibration.fingerprint,
        "batch": str(settings.batch_size),
        "stable": f"{stable:g}",
    }
    whole = Statistics(work, wanted, len(decoder.layers))
    if from_first(all(work.has(stage_of(part), wanted) for part in whole.parts())):
        return whole
    rounds: list[Statistics] = []
    before: list[Tensor] = []
    for number, part in enumerate(_parts(calibration, settings.batch_size)):
        folder = WorkDir(work.folder / f"round-{number:03}")
        rounds.append(collect(decoder, part, folder, wanted, settings, _numbered(report, number)))
        now = _salience(rounds[-1])
        if before:
            now = [old + new for old, new in zip(before, now, strict=True)]
            if from_first(_agreement(before, now) >= stable):
                break
        before = now
    _add_up(rounds, whole)
    return whole


def _parts(calibration: Calibration, batch_size: int) -> Iterator[Calibration]:
    """Rounds of whole batches; each draws with a seed of its own."""
    start, n = 0, FIRST_WINDOWS
    for number in range(len(calibration.tokens)):
        end = start + -(-n // batch_size) * batch_size
        tokens = calibration.tokens[start:end]
        if len(tokens):
            yield replace(calibration, tokens=tokens, seed=calibration.seed + number * _SEED_STEP)
        start, n = end, NEXT_WINDOWS


def _numbered(report: Report, number: int) -> Callable[[str, int, int], None]:
    return lambda stage, done, total: report(f"round {number + 1}, {stage}", done, total)


def _salience(statistics: Statistics) -> list[Tensor]:
    """Salience of the rows and of the columns of every layer's matrices."""
    found = []
    for index in range(statistics.n_layer):
        for _, linear in sorted(statistics.of(layer_part(index)).items()):
            found += [linear.salience_rows, linear.salience_columns]
    return found


def _agreement(before: list[Tensor], now: list[Tensor]) -> float:
    """The lowest of all rank correlations."""
    return min(rank_correlation(old, new) for old, new in zip(before, now, strict=True))


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's ρ of two vectors [n]; equal values rank by position."""
    ranks = [values.argsort(stable=True).argsort().double() for values in (one, other)]
    x, y = (each - each.mean() for each in ranks)
    return float((x @ y) / (x.norm() * y.norm()).clamp(min=1e-30))


def _add_up(rounds: list[Statistics], whole: Statistics) -> None:
    """Store the sums of all rounds under `whole`, then drop the rounds."""
    if is_first():
        for part in whole.parts():
            terms = [each.of(part) for each in rounds]
            tensors = {
                f"{name}/{field}": tensor
                for name in sorted(terms[0])
                for field, tensor in _sum([term[name] for term in terms]).tensors().items()
            }
            whole.work.save(stage_of(part), whole.fingerprint, tensors)
        for each in rounds:
            shutil.rmtree(each.work.folder)
    wait_for_ranks()


def _sum(terms: list[LinearStatistics]) -> LinearStatistics:
    return reduce(add, terms)


def windows_of(statistics: Statistics, seq_len: int) -> int:
    """How many windows the statistics were collected on."""
    linear = next(iter(statistics.of(layer_part(0)).values()))
    return round(float(linear.n_token) / seq_len)
