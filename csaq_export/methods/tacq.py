"""TaCQ (arXiv 2504.07389): the weights a task depends on at 16 bits, all others in 2 or 3.

1. Every linear layer is rounded with error feedback: W_q.
2. A weight's score is |Σ ∂L/∂W| · |W − W_q| · |W|, with L the loss on the task's answers.
3. The highest scores of all layers together are kept: the circuit.
4. Everything is rounded again around them.
Scores stay in the work dir, so that another ratio needs steps 3 and 4 only.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from csaq_export.calibrated import local_folder
from csaq_export.calibration import Calibration, read_calibration
from csaq_export.guidance import Calibrating
from csaq_export.metadata import Metadata, f32, text, u32
from csaq_export.methods.mixed import Mixture, plan_mixture, round_kept, write_mixture
from csaq_export.methods.outliers import FULL
from csaq_export.methods.ranking import Scores, count_above, held, threshold_for
from csaq_export.methods.session import Report, Session, open_session
from csaq_export.pipeline import Conversion
from csaq_export.plan import Plan
from csaq_export.quantize import decode
from csaq_export.quantize.exempt import Exempt
from csaq_export.statistics.gradients import Gradients
from csaq_export.task_text import next_tokens, task_windows
from csaq_export.torch_model import load_tokenizer
from csaq_export.workdir import WorkDir
from csaq_runtime.formats import GGMLType
from csaq_runtime.tasks.read import is_task, read_task

# Nearest to 2 and 3 bits of what llama.cpp has.
BASE_TYPES = {2: GGMLType.IQ2_XXS, 3: GGMLType.IQ3_XXS}
OUTLIER_RATIO = 0.0035


@dataclass(frozen=True)
class TacqRequest:
    """`task`: a file of questions (see `csaq_runtime.tasks`) or any text to keep.

    `calibrating.source` None rounds by the task as well; `outlier_ratio` is a share of the
    linear layers' weights.
    """

    calibrating: Calibrating
    task: Path
    base_bits: int = 3
    outlier_ratio: float = OUTLIER_RATIO
    work_dir: Path | None = None

    @property
    def base(self) -> GGMLType:
        """Type of the base tensors."""
        return BASE_TYPES[self.base_bits]


def convert_tacq(conversion: Conversion, request: TacqRequest, report: Report) -> Plan:
    """Write the file and return its plan; raises UsageError, ModelError or ResourceError."""
    windows, labels = _task(conversion, request)
    rounding = windows if request.calibrating.source is None else None
    opened = open_session(conversion, request.calibrating, request.work_dir, report, rounding)
    with opened as session:
        scores = _scores(session, request, windows, labels)
        n_weight = sum(w.n_row * w.n_col for w in session.model.weights if w.name in scores)
        threshold = threshold_for(scores, int(request.outlier_ratio * n_weight))
        mixture = Mixture(session.types(request.base), (FULL,), (count_above(scores, threshold),))
        plan = plan_mixture(session.model, mixture, _keys(session, request))

        def kept(name: str) -> tuple[Tensor]:
            return (scores[name]() >= threshold,)

        write_mixture(conversion, session.guidance, plan, mixture, kept, report)
    return plan


def _task(conversion: Conversion, request: TacqRequest) -> tuple[Calibration, Tensor]:
    """The task's windows and labels."""
    tokenizer = load_tokenizer(local_folder(conversion))
    wanted = request.calibrating
    shape = (wanted.n_sample, wanted.seq_len, wanted.seed)
    if is_task(request.task):
        return task_windows(read_task(request.task), tokenizer, *shape)
    windows = read_calibration(str(request.task), tokenizer, *shape)
    return windows, next_tokens(windows)


def _scores(session: Session, request: TacqRequest, windows: Calibration, labels: Tensor) -> Scores:
    gradients = session.gradients(windows, labels)
    kept = WorkDir(session.guidance.work.folder / "scores")
    fingerprint = gradients.run.fingerprint
    stages = {name: f"{name}-{request.base.name}" for name in session.linears()}
    for done, (name, stage) in enumerate(stages.items()):
        session.report("scoring", done, len(stages))
        if not kept.has(stage, fingerprint):
            found = _score(session, gradients, name, request.base)
            kept.save(stage, fingerprint, {"score": found})
    scores = {n: partial(kept.load_one, stage, fingerprint, "score") for n, stage in stages.items()}
    return held(scores, sum(weight.n_row * weight.n_col for weight in session.model.weights))


def _score(session: Session, gradients: Gradients, name: str, base: GGMLType) -> Tensor:
    """|Σ ∂L/∂W| · |W − W_q| · |W|, float32 [n_row, n_col]."""
    guidance = session.guidance
    weight = guidance.model.read(name).to(guidance.device)
    nothing = torch.zeros_like(weight, dtype=torch.bool)
    ggml_type = session.types(base)[name]
    sensitivity = guidance.sensitivities[name].to(guidance.device)
    packed, _ = round_kept(weight, ggml_type, sensitivity, Exempt(nothing, nothing))
    lost = (weight - decode(packed, ggml_type)).abs().cpu()
    return gradients.gradient(name).abs() * lost * weight.abs().cpu()


def _keys(session: Session, request: TacqRequest) -> Metadata:
    return session.keys("tacq") | {
        "csaq.tacq.task": text(request.task.name),
        "csaq.tacq.base_bits": u32(request.base_bits),
        "csaq.tacq.outlier_ratio": f32(request.outlier_ratio),
    }
