"""`csaq convert`: a Hugging Face model or a GGUF → a GGUF, or (`--dry-run`) what it would be.

Only here does the command line touch torch, and only after the arguments are understood.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from csaq_cli.calibration_options import (
    calibration_options,
    read_overrides,
    read_request,
    read_target,
)
from csaq_cli.extra import extra_installed
from csaq_cli.method_options import check_method, convert_by_method, method_name, method_options
from csaq_cli.out_name import default_name
from csaq_cli.shell_completion import complete_file, complete_type
from csaq_export.presets import find_preset
from csaq_runtime.errors import UsageError

if TYPE_CHECKING:
    from csaq_export.budget.target import Target
    from csaq_export.calibrated import Request
    from csaq_export.pipeline import Conversion
    from csaq_export.plan import Plan

EPILOG = """\b
Examples:
  csaq convert Qwen/Qwen3-0.6B --to gguf              a model of the Hugging Face hub
  csaq convert ./my-model --type Q8_0 -o my.gguf      a folder with config.json
  csaq convert my-BF16.gguf --type Q4_K_M             a GGUF again, smaller
  csaq convert ./my-model --dry-run                   only say what it would be
  csaq convert ./my-model --bpw 4.25                  the closest file of that size
  csaq convert ./my-model --bpw 4.25 --calib my.txt   … for text like this
"""
IMATRIX: "click.Path" = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(epilog=EPILOG)
@click.argument("model", shell_complete=complete_file)
@click.option("--to", "target", type=click.Choice(["gguf"]), default="gguf", show_default=True)
@click.option(
    "--type",
    "kind",
    default="Q4_K_M",
    show_default=True,
    shell_complete=complete_type,
    help="Type or preset name.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Default: MODEL-TYPE.gguf, here."
)
@click.option("--revision", help="Branch, tag or commit of a hub model.")
@click.option("--imatrix", type=IMATRIX, help="Round by a llama.cpp imatrix file.")
@click.option("--report", type=click.Path(path_type=Path), help="Write an HTML page (and JSON).")
@click.option("--force", is_flag=True, help="Overwrite the output.")
@click.option("--dry-run", is_flag=True, help="Print types and sizes; read no weights.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@calibration_options
@method_options
def convert(
    model: str,
    target: str,
    kind: str,
    output: Path | None,
    revision: str | None,
    imatrix: Path | None,
    report: Path | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **calibration: Any,
) -> None:
    """Convert MODEL (a folder, a hub name or a GGUF) to a GGUF that llama.cpp loads too.

    With --bpw, --size or --like every matrix gets the type that keeps the model closest to
    the original within that size. The rounding is guided by the text of --calib, or else by
    text that the model writes; a GGUF or an --imatrix is judged by its weights.
    The path of the new file is printed on standard output.
    """
    name, _ = find_preset(kind)
    others = {"dry-run": dry_run, "imatrix": imatrix, "report": report}
    check_method(calibration, others)
    with extra_installed("convert"):
        target_size, overrides = read_target(calibration), read_overrides(calibration)
        from csaq_cli import plan_report
        from csaq_export import pipeline
        from csaq_export.ranks import is_first

    out = output or Path(default_name(model, _encoding_name(name, calibration)))
    if calibration["calib"] is not None and imatrix is not None:
        raise UsageError("--imatrix and --calib both say what matters, one is enough")
    conversion = pipeline.Conversion(model, out, name, revision, force, imatrix, overrides)
    by_weights = imatrix is not None or Path(model).is_file()
    request = None
    if calibration["calib"] is not None or (target_size is not None and not by_weights):
        request = read_request(calibration, target_size)
    if calibration["method"] is not None:
        plan_report.print_made(_by_method(conversion, calibration, quiet), out, as_json, quiet)
        return
    if calibration["layout"] is not None:
        plan_report.print_made(_stock(conversion, calibration, quiet), out, as_json, quiet)
        return
    if dry_run:
        forecast = _forecast(conversion, request, target_size, as_json)
        if report is not None and forecast is not None:
            _write_report(report, forecast, out)
        return
    if request is not None:
        plan = _calibrated(conversion, request, quiet)
    elif is_first():
        plan = _plain(conversion, target_size, quiet)
    else:
        return
    if report is not None and is_first():
        _write_report(report, plan, out)
    if as_json:
        plan_report.print_json(plan, out)
    else:
        if (calibration["calib"] is not None or target_size is not None) and not quiet:
            plan_report.print_allocation(plan)
        plan_report.print_outcome(plan, out, quiet)


def _forecast(
    conversion: "Conversion", request: "Request | None", target: "Target | None", as_json: bool
) -> "Plan | None":
    """Print what the conversion would write, if that is known, and what it would take."""
    from csaq_cli.plan_report import print_forecast, print_forecast_json
    from csaq_export import pipeline
    from csaq_export.calibrated import plan_calibrated
    from csaq_export.estimate import estimate_conversion, estimate_plain
    from csaq_export.sized import plan_sized

    plan: Plan | None
    if request is None:
        plan = pipeline.plan(conversion) if target is None else plan_sized(conversion, target)
        estimate = estimate_plain(plan)
    else:
        estimate = estimate_conversion(conversion, request)
        plan = plan_calibrated(conversion, request)
    shown = print_forecast_json if as_json else print_forecast
    shown(plan, estimate, conversion.out)
    return plan


def _by_method(conversion: "Conversion", options: Mapping[str, Any], quiet: bool) -> "Plan":
    from csaq_cli.progress import show_stages

    with show_stages(quiet) as report:
        return convert_by_method(conversion, options, report)


def _stock(conversion: "Conversion", options: Mapping[str, Any], quiet: bool) -> "Plan":
    """A rows file as a stock one."""
    from csaq_cli.progress import show_progress
    from csaq_export.methods.stock import convert_stock

    if options["layout"] == "rows":
        raise UsageError("--layout rows goes with --method csaq")
    if not Path(conversion.source).is_file():
        raise UsageError("--layout stock takes a rows file", "folders become stock files anyway")
    with show_progress(quiet) as progress:
        return convert_stock(conversion, progress, lora=bool(options["lora"]))


def _calibrated(conversion: "Conversion", request: "Request", quiet: bool) -> "Plan":
    from csaq_cli.progress import show_stages
    from csaq_export.calibrated import convert_calibrated

    with show_stages(quiet) as report:
        return convert_calibrated(conversion, request, report)


def _plain(conversion: "Conversion", target: "Target | None", quiet: bool) -> "Plan":
    """Without calibration: a preset, or a size by the weights alone."""
    from csaq_cli.progress import show_progress
    from csaq_export import pipeline
    from csaq_export.packed_folder import convert_packed, is_packed
    from csaq_export.sized import convert_sized

    with show_progress(quiet) as progress:
        if is_packed(conversion.source):
            return convert_packed(conversion, progress)
        if target is None:
            return pipeline.convert(conversion, progress)
        return convert_sized(conversion, target, progress)


def _write_report(path: Path, plan: "Plan", out: Path) -> None:
    from csaq_export.report.conversion import conversion_figures, conversion_page
    from csaq_export.report.page import write_page

    write_page(path, conversion_page(plan, out), conversion_figures(plan, out))


def _encoding_name(preset: str, calibration: Mapping[str, Any]) -> str:
    """What the file's name says of its types: `CSAQ_4_25BPW` for `--bpw 4.25`."""
    if calibration["method"] is not None:
        return method_name(calibration)
    if calibration["layout"] == "stock":
        return "F16"
    if calibration["bpw"] is not None:
        return f"CSAQ_{calibration['bpw']:g}BPW".replace(".", "_")
    size = calibration["size"] or calibration["like"]
    return f"CSAQ_{size}".replace(".", "_").upper() if size else preset
