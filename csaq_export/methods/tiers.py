"""The article's tiers: the most salient weights at 16 bits, the next at 8, the rest in few.

Salience is Σ|g·W| over calibration batches, weight by weight over all linear layers. The rest
is a base of an ordinary ggml type; weights of the upper tiers add what they differ from it by,
with their places. The places cost more than the article's arithmetic says: a weight of the
16-bit tier takes 32 bits beside its base.
"""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from csaq_export.budget.allocate import target_bytes
from csaq_export.budget.target import Target
from csaq_export.guidance import Calibrating
from csaq_export.metadata import Metadata, f32, text
from csaq_export.methods.mixed import Mixture, added_bytes, plan_mixture, write_mixture
from csaq_export.methods.outliers import FULL, coarse
from csaq_export.methods.ranking import (
    NONE,
    Counts,
    Scores,
    count_above,
    held,
    lowest_threshold,
    threshold_for,
)
from csaq_export.methods.session import Report, Session, open_session
from csaq_export.pipeline import Conversion
from csaq_export.plan import Plan, TensorPlan
from csaq_export.write_gguf import ALIGNMENT
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import GGMLType

BASE_TYPES = {4: GGMLType.Q4_K, 3: GGMLType.Q3_K, 2: GGMLType.Q2_K}
_SHARES = r"16:(0?\.\d+|0|1),\s*8:(0?\.\d+|0|1),\s*([234]):rest"


@dataclass(frozen=True)
class Tiers:
    """Shares of all weights in linear layers at 16 and at 8 bits; the others take `base_bits`."""

    at_16: float = 0.05
    at_8: float = 0.20
    base_bits: int = 4

    @property
    def base(self) -> GGMLType:
        """Type of the base tensors."""
        return BASE_TYPES[self.base_bits]

    def text(self) -> str:
        """As the user writes it."""
        return f"16:{self.at_16:g},8:{self.at_8:g},{self.base_bits}:rest"


def read_tiers(given: str) -> Tiers:
    """What `--tiers` says; UsageError for anything not like 16:0.05,8:0.20,4:rest."""
    match = re.fullmatch(_SHARES, given.strip())
    if match is None or float(match[1]) + float(match[2]) > 1:
        raise UsageError(
            f"--tiers {given}: not two shares of at most 1 and a rest of 2, 3 or 4 bits",
            "write it like 16:0.05,8:0.20,4:rest",
        )
    return Tiers(float(match[1]), float(match[2]), int(match[3]))


@dataclass(frozen=True)
class TiersRequest:
    """`bpw` None takes the shares as they are, else only their proportion."""

    calibrating: Calibrating
    tiers: Tiers
    bpw: float | None = None
    work_dir: Path | None = None


def convert_tiers(conversion: Conversion, request: TiersRequest, report: Report) -> Plan:
    """Write the file and return its plan; raises UsageError, ModelError or ResourceError."""
    with open_session(conversion, request.calibrating, request.work_dir, report) as session:
        scores = _salience(session)
        thresholds = _thresholds(session, request, scores)
        mixture = _mixture(session, request.tiers, scores, thresholds)
        plan = plan_mixture(session.model, mixture, _keys(session, request, thresholds))

        def kept(name: str) -> tuple[Tensor, Tensor]:
            top, upper = (scores[name]() >= threshold for threshold in thresholds)
            return top, upper & ~top

        write_mixture(conversion, session.guidance, plan, mixture, kept, report)
    return plan


def _salience(session: Session) -> Scores:
    gradients = session.gradients()
    scores = {name: partial(gradients.salience, name) for name in session.linears()}
    return held(scores, _n_weight(session))


Thresholds = tuple[float, float]


def _thresholds(session: Session, request: TiersRequest, scores: Scores) -> Thresholds:
    """The saliences from which a weight gets 16 and 8 bits."""
    tiers = request.tiers
    n_weight = sum(w.n_row * w.n_col for w in session.model.weights if w.name in scores)
    top = threshold_for(scores, int(tiers.at_16 * n_weight))
    upper = threshold_for(scores, int((tiers.at_16 + tiers.at_8) * n_weight))
    if request.bpw is None:
        return top, upper
    ratio = top / upper if top < NONE else NONE
    return _fitting(session, request, scores, ratio)


def _fitting(session: Session, request: TiersRequest, scores: Scores, ratio: float) -> Thresholds:
    """The lowest thresholds in that `ratio` whose file is no larger than the target."""
    limit = target_bytes(session.model, Target(bpw=request.bpw))
    nothing = _mixture(session, request.tiers, scores, (NONE, NONE))
    least = plan_mixture(session.model, nothing, _keys(session, request, (NONE, NONE))).n_bytes
    if least > limit:
        raise UsageError(_too_little(session, request, least))
    bases = [TensorPlan(w, w.type, w.type) for w in session.model.weights if w.name in scores]

    def fits(threshold: float) -> bool:
        mixture = _mixture(session, request.tiers, scores, (threshold * ratio, threshold))
        more = sum(added_bytes(part) for base in bases for part in mixture.beside(base))
        return least + more + ALIGNMENT <= limit

    found = lowest_threshold(fits)
    return found * ratio, found


def _n_weight(session: Session) -> int:
    return sum(weight.n_row * weight.n_col for weight in session.model.weights)


def _too_little(session: Session, request: TiersRequest, least: int) -> str:
    bits = 8 * least / _n_weight(session)
    base = request.tiers.base
    return (
        f"--bpw {request.bpw}: the file takes {bits:.3f} bits per weight with every linear weight "
        f"at {base.name} and none above; each weight at 16 bits adds 32, each at 8 bits "
        f"{coarse(request.tiers.base_bits).bits:g}, places included"
    )


def _mixture(session: Session, tiers: Tiers, scores: Scores, thresholds: Thresholds) -> Mixture:
    top, both = (count_above(scores, threshold) for threshold in thresholds)
    upper = {name: both[name] - top[name] for name in scores}
    counts: tuple[Counts, Counts] = (top, upper)
    return Mixture(session.types(tiers.base), (FULL, coarse(tiers.base_bits)), counts)


def _keys(session: Session, request: TiersRequest, thresholds: Thresholds) -> Metadata:
    keys = session.keys("tiers") | {"csaq.tiers": text(request.tiers.text())}
    for bits, threshold in zip((16, 8), thresholds, strict=True):
        keys[f"csaq.tiers.salience_{bits}"] = f32(threshold)
    if request.bpw is not None:
        keys["csaq.target_bpw"] = f32(request.bpw)
    return keys
