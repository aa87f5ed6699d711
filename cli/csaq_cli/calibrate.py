"""`csaq calibrate`: a model and a text → statistics in a work dir, and an imatrix file."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from csaq_cli.extra import extra_installed
from csaq_cli.shell_completion import complete_file
from csaq_runtime.errors import UsageError

if TYPE_CHECKING:
    from csaq_export.guidance import Calibrating, Guidance
    from csaq_export.pipeline import Conversion

EPILOG = """\b
Examples:
  csaq calibrate ./my-model --calib my.txt --imatrix my-imatrix.gguf
  csaq calibrate ./my-model --calib my.txt --work-dir work   and later:
  csaq convert ./my-model --calib my.txt --work-dir work --bpw 4.25
"""
FOLDER: "click.Path" = click.Path(path_type=Path, file_okay=False)


@click.command(epilog=EPILOG)
@click.argument("model", shell_complete=complete_file)
@click.option(
    "--calib",
    required=True,
    shell_complete=complete_file,
    help="A text or .jsonl file, or a hub dataset.",
)
@click.option("--imatrix", type=click.Path(path_type=Path), help="Write an imatrix GGUF here.")
@click.option("--work-dir", type=FOLDER, help="Keep statistics here for csaq convert.")
@click.option("--report", type=click.Path(path_type=Path), help="Write an HTML page (and JSON).")
@click.option(
    "--elements",
    nargs=2,
    type=(str, click.Path(path_type=Path)),
    metavar="TENSOR FILE",
    help="Write one matrix's |g·W|, element by element.",
)
@click.option("--nsamples", type=click.IntRange(2), default=128, show_default=True, help="Windows.")
@click.option(
    "--seqlen", type=click.IntRange(8), default=512, show_default=True, help="Tokens per window."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the draw.")
@click.option(
    "--stable",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    metavar="RHO",
    help="Stop when the ranking of weights is; 0 takes all windows.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--max-memory", metavar="SIZE", help="Most memory to use, e.g. 8GiB.")
@click.option("--revision", help="Branch, tag or commit of a hub model.")
@click.option("--force", is_flag=True, help="Overwrite the imatrix.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def calibrate(
    model: str,
    calib: str,
    imatrix: Path | None,
    work_dir: Path | None,
    report: Path | None,
    elements: tuple[str, Path] | None,
    nsamples: int,
    seqlen: int,
    seed: int,
    stable: float,
    device: str,
    max_memory: str | None,
    revision: str | None,
    force: bool,
    quiet: bool,
) -> None:
    """Observe MODEL (a folder or a hub name) on a text.

    The statistics tell which weights matter: --imatrix for llama-quantize and csaq convert
    --imatrix, --work-dir for csaq convert --calib with the same text and options.
    """
    if imatrix is None and work_dir is None and report is None and elements is None:
        raise UsageError("what for? give --imatrix, --work-dir, --report or --elements")
    if imatrix is not None and imatrix.exists() and not force:
        raise UsageError(f"{imatrix}: exists already", "--force overwrites it")
    with extra_installed("calibrate"):
        from csaq_export.budget.target import parse_size
        from csaq_export.guidance import Calibrating
        from csaq_export.pipeline import Conversion
        from csaq_export.ranks import is_first, ranks_folder

    source = Conversion(model, imatrix or Path(), "F16", revision)
    limit = None if max_memory is None else parse_size(max_memory)
    wanted = Calibrating(calib, nsamples, seqlen, seed, device, stable, limit)
    _check_room(source, wanted, elements is not None)
    with ranks_folder(work_dir) as folder:
        guidance = _guided(source, wanted, folder, quiet)
        if not is_first():
            return
        if imatrix is not None:
            _write_imatrix(imatrix, guidance)
        if report is not None:
            _write_report(report, Path(model).name, guidance)
        if elements is not None:
            _write_elements(*elements, guidance, wanted.batch_size)


def _guided(source: "Conversion", wanted: "Calibrating", work: Path, quiet: bool) -> "Guidance":
    from csaq_cli.progress import show_stages
    from csaq_export.calibrated import local_folder
    from csaq_export.guidance import guide
    from csaq_export.workdir import WorkDir

    with show_stages(quiet) as report:
        return guide(local_folder(source), wanted, WorkDir(work), report)


def _check_room(source: "Conversion", wanted: "Calibrating", elements: bool) -> None:
    from csaq_export.calibrated import local_folder
    from csaq_export.room import Uses, check_room
    from csaq_export.source import open_model

    with open_model(str(local_folder(source))) as model:
        check_room(model, wanted, Uses(rounds=False, elements=elements))


def _write_imatrix(path: Path, guidance: "Guidance") -> None:
    from csaq_export.imatrix import write_imatrix
    from csaq_export.imatrix.collected import collected_imatrix

    write_imatrix(path, collected_imatrix(guidance), force=True)
    print(path)


def _write_elements(name: str, path: Path, guidance: "Guidance", batch_size: int) -> None:
    from csaq_export.statistics import element_salience
    from csaq_export.torch_model import load_torch_model
    from csaq_export.workdir import write_tensors

    model = load_torch_model(guidance.folder)
    if name not in model.slots or not model.has(name) or model.parameter(name).ndim != 2:
        raise UsageError(
            f"--elements {name}: the model has no such matrix", "e.g. blk.0.ffn_up.weight"
        )
    found = element_salience(model.model, model.parameter(name), guidance.calibration, batch_size)
    write_tensors(path, {name: model.to_gguf(name, found)}, {"salience": "mean |g·W| per batch"})
    print(path)


def _write_report(path: Path, name: str, guidance: "Guidance") -> None:
    from csaq_export.coactivation import held_coactivation
    from csaq_export.report import calibration
    from csaq_export.report.page import write_page

    salience = calibration.mean_salience(guidance)
    cliques = calibration.clique_table(held_coactivation(guidance))
    page = calibration.calibration_page(f"{name}: calibration report", salience, cliques)
    write_page(path, page, calibration.calibration_figures(salience, cliques))
    print(path)
