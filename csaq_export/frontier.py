"""A model → files of many sizes, ours and llama-quantize's → size and divergence of each.

All files are made from one baseline and, with a calibration text, guided by the same
text: ours by our statistics, the peer's by the imatrix of the same windows.
"""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from csaq_export.budget.target import Target
from csaq_export.calibrated import Request, convert_calibrated, local_folder
from csaq_export.guidance import Calibrating, guide
from csaq_export.imatrix import write_imatrix
from csaq_export.imatrix.collected import collected_imatrix
from csaq_export.pipeline import Conversion, convert
from csaq_export.workdir import WorkDir
from csaq_runtime.engine import Engine
from csaq_runtime.errors import CsaqError, UsageError
from csaq_runtime.evaluate import Evaluation, evaluate, text_windows

Report = Callable[[str, int, int], None]
OURS, PEER = "csaq", "llama-quantize"
PEER_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Frontier:
    """What is asked: `source` at the sizes of `presets`, measured on `text`.

    `calibrating` None compares plain conversions; `peer` is the path of llama-quantize;
    `folder` receives the files; `n_chunk` windows of `n_ctx` tokens are scored, 0 for all.
    """

    source: str
    presets: tuple[str, ...]
    text: str
    folder: Path
    calibrating: Calibrating | None = None
    peer: Path | None = None
    n_ctx: int = 512
    n_chunk: int = 0


@dataclass(frozen=True)
class Made:
    """A file of the frontier: whose, which preset's size, bytes and figures."""

    maker: str
    preset: str
    path: Path
    n_bytes: int
    evaluation: Evaluation


def measure_frontier(wanted: Frontier, report: Report) -> list[Made]:
    """Make and measure every file; raises UsageError, ModelError, ResourceError or CsaqError."""
    if wanted.peer is not None and not wanted.peer.is_file():
        raise UsageError(f"{wanted.peer}: no such file", "give the path of llama-quantize")
    base = wanted.folder / "baseline-F16.gguf"
    convert(Conversion(wanted.source, base, "F16", force=True))
    imatrix = _imatrix(wanted, report)
    made: list[Made] = []
    total = len(wanted.presets) * (1 + (wanted.peer is not None))
    with Engine.open(base, n_ctx=wanted.n_ctx) as original:
        windows = text_windows(original, wanted.text, wanted.n_ctx, wanted.n_chunk)
        for maker, preset, path in _files(wanted, base, imatrix, report):
            report("measuring files", len(made), total)
            with Engine.open(path, n_ctx=wanted.n_ctx) as engine:
                (evaluation,) = evaluate([engine], windows, original)
            made.append(Made(maker, preset, path, path.stat().st_size, evaluation))
    report("measuring files", total, total)
    return made


def _files(
    wanted: Frontier, base: Path, imatrix: Path | None, report: Report
) -> Iterator[tuple[str, str, Path]]:
    for preset in wanted.presets:
        path = wanted.folder / f"{OURS}-{preset}.gguf"
        _make_ours(wanted, preset, path, report)
        yield OURS, preset, path
        if wanted.peer is not None:
            path = wanted.folder / f"{PEER}-{preset}.gguf"
            _make_peer(wanted.peer, preset, base, imatrix, path)
            yield PEER + (" + imatrix" if imatrix else ""), preset, path


def _make_ours(wanted: Frontier, preset: str, path: Path, report: Report) -> None:
    conversion = Conversion(wanted.source, path, preset, force=True)
    if wanted.calibrating is None:
        convert(conversion)
        return
    work = wanted.folder / "work"
    request = Request(wanted.calibrating, Target(like=preset), work_dir=work)
    convert_calibrated(conversion, request, report)


def _imatrix(wanted: Frontier, report: Report) -> Path | None:
    """The imatrix of our calibration, for the peer."""
    if wanted.peer is None or wanted.calibrating is None:
        return None
    folder = local_folder(Conversion(wanted.source, wanted.folder, "F16"))
    guidance = guide(folder, wanted.calibrating, WorkDir(wanted.folder / "work"), report)
    path = wanted.folder / "imatrix.gguf"
    # llama-imatrix leaves embedding and output out; so does the file the peer gets.
    imatrix = collected_imatrix(guidance)
    layers = {name: e for name, e in imatrix.entries.items() if name.startswith("blk.")}
    write_imatrix(path, replace(imatrix, entries=layers), force=True)
    return path


def _make_peer(tool: Path, preset: str, base: Path, imatrix: Path | None, path: Path) -> None:
    guided = ["--imatrix", str(imatrix)] if imatrix else []
    # A bare name would be looked for on PATH, not in this folder.
    command = [str(tool.absolute()), *guided, str(base), str(path), preset]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PEER_SECONDS, check=False
        )
    except OSError as error:
        raise UsageError(f"{tool}: cannot be run: {error.strerror or error}") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise CsaqError(f"{tool.name} {preset}: {last}")
