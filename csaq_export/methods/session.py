"""What every method starts with: the model opened, calibrated, its work dir at hand."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from csaq_export.calibrated import local_folder
from csaq_export.calibration import Calibration
from csaq_export.guidance import Calibrating, Guidance, guide
from csaq_export.metadata import Metadata, text, u32
from csaq_export.model import Model
from csaq_export.pipeline import Conversion
from csaq_export.ranks import ranks_folder
from csaq_export.source import open_model
from csaq_export.statistics.gradients import Gradients, collect_gradients
from csaq_export.statistics.stages import Collection, Run
from csaq_export.type_choice import Shape, fitting, is_quantizable
from csaq_export.workdir import WorkDir
from csaq_export.write_gguf import check_place
from csaq_runtime.formats import GGMLType

Report = Callable[[str, int, int], None]
# Embedding and output, which the methods leave out, are stored as llama.cpp's presets do.
OUTSIDE = GGMLType.Q6_K


@dataclass(frozen=True)
class Session:
    """One conversion by a method; weights of `model` can be read while it is open."""

    conversion: Conversion
    model: Model
    guidance: Guidance
    report: Report

    def linears(self) -> list[str]:
        """The matrices inside decoder layers, in file order."""
        return [name for name in self.matrices() if name.startswith("blk.")]

    def matrices(self) -> list[str]:
        """All quantizable matrices, in file order."""
        shapes = (Shape(weight.name, weight.shape) for weight in self.model.weights)
        return [shape.name for shape in shapes if is_quantizable(shape)]

    def types(self, base: GGMLType) -> dict[str, GGMLType]:
        """`base` for the linear layers and OUTSIDE for others, or what fits their rows."""
        columns = {weight.name: weight.n_col for weight in self.model.weights}
        wanted = {name: base if name.startswith("blk.") else OUTSIDE for name in self.matrices()}
        return {name: fitting(t, columns[name]) for name, t in wanted.items()}

    def gradients(
        self, windows: Calibration | None = None, labels: Tensor | None = None
    ) -> Gradients:
        """Gradients of single weights on `windows` (the calibration's if none are given)."""
        guidance = self.guidance
        windows = windows or guidance.calibration
        batch_size = max(1, min(4, len(windows.tokens)))
        settings = Collection(batch_size, guidance.device, 0.0, {})
        decoder = guidance.model.decoder(windows.tokens.shape[1], guidance.device)
        work = WorkDir(guidance.work.folder / "elements")
        fingerprint = {**guidance.fingerprint, **_of(windows), "elements": str(batch_size)}
        run = Run(decoder, windows, work, fingerprint, settings)
        return collect_gradients(run, guidance.model, labels, self.report)

    def keys(self, method: str) -> Metadata:
        """The `csaq.*` keys of any method."""
        calibration = self.guidance.calibration
        n_sample, seq_len = calibration.tokens.shape
        return {
            "csaq.version": u32(1),
            "csaq.method": text(method),
            "csaq.seed": u32(calibration.seed),
            "csaq.calibration.dataset": text(calibration.dataset),
            "csaq.calibration.sha256": text(calibration.sha256),
            "csaq.calibration.n_sample": u32(n_sample),
            "csaq.calibration.seq_len": u32(seq_len),
        }


def _of(windows: Calibration) -> dict[str, str]:
    return {f"element {key}": value for key, value in windows.fingerprint.items()}


@contextmanager
def open_session(
    conversion: Conversion,
    calibrating: Calibrating,
    work_dir: Path | None,
    report: Report,
    windows: Calibration | None = None,
) -> Iterator[Session]:
    """Open and calibrate, on `windows` if they are given; raises what `convert_calibrated` does."""
    folder = local_folder(conversion)
    check_place(conversion.out, 0, conversion.force)
    with (
        open_model(conversion.source, conversion.revision) as model,
        ranks_folder(work_dir) as work,
    ):
        guidance = guide(folder, calibrating, WorkDir(work), report, windows)
        yield Session(conversion, model, guidance, report)
