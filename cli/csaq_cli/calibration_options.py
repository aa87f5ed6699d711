"""The options of `csaq convert` that need calibration, and the Request they make."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from csaq_runtime.errors import UsageError
from csaq_runtime.formats import GGMLType

if TYPE_CHECKING:
    from csaq_export.calibrated import Request

Command = TypeVar("Command", bound=Callable[..., None])
EFFORTS = ("fast", "normal", "best")

_OPTIONS = (
    click.option("--bpw", "--target-bits", type=float, help="Size: bits of the file per weight."),
    click.option("--size", help="Size of the file, e.g. 3.2GiB."),
    click.option("--like", help="Size: that of a preset, e.g. Q4_K_M."),
    click.option("--calib", help="Calibration text: a text or .jsonl file, or a hub dataset."),
    click.option("--nsamples", type=click.IntRange(2), default=128, show_default=True,
                 help="Calibration windows."),
    click.option("--seqlen", type=click.IntRange(8), default=512, show_default=True,
                 help="Tokens per window."),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True,
                 help="Which windows are drawn."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
    click.option("--effort", type=click.Choice(EFFORTS), default="normal", show_default=True,
                 help="How long to refine the rounding."),
    click.option("--floor", default="IQ2_XXS", show_default=True, help="Least type of any matrix."),
    click.option("--tensor-type", multiple=True, metavar="NAME=TYPE",
                 help="Fix one tensor's type."),
    click.option("--work-dir", type=click.Path(path_type=Path, file_okay=False),
                 help="Keep statistics here: to resume, or to try other sizes."),
)  # fmt: skip


def calibration_options(command: Command) -> Command:
    """Add the options to a click command, which receives them as keyword arguments."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_request(options: Mapping[str, Any]) -> "Request | None":
    """The Request, or None where neither a size nor a calibration text is given.

    Raises UsageError for contradictions, and for a size without text to calibrate on.
    """
    sizes = {key: options[key] for key in ("bpw", "size", "like") if options[key] is not None}
    if not sizes and options["calib"] is None:
        return None
    if options["calib"] is None:
        raise UsageError(
            f"--{next(iter(sizes))} needs --calib: text that shows which weights matter",
            "any text like what the model will be used for, from about 100 kB",
        )
    from csaq_export.budget.target import Target, parse_size

    if "size" in sizes:
        sizes["size"] = parse_size(sizes["size"])
    target = Target(**sizes) if sizes else None
    floor = _type(options["floor"])
    overrides = dict(_override(text) for text in options["tensor_type"])
    from csaq_export.calibrated import Request
    from csaq_export.guidance import Calibrating

    calibrating = Calibrating(
        source=options["calib"],
        n_sample=options["nsamples"],
        seq_len=options["seqlen"],
        seed=options["seed"],
        device=options["device"],
    )
    return Request(calibrating, target, options["effort"], floor, overrides, options["work_dir"])


def _override(text: str) -> tuple[str, GGMLType]:
    name, separator, type_name = text.partition("=")
    if not separator:
        raise UsageError(f"--tensor-type {text!r}: not NAME=TYPE")
    return name, _type(type_name)


def _type(name: str) -> GGMLType:
    try:
        return GGMLType[name.upper()]
    except KeyError:
        raise UsageError(f"unknown type {name!r}", "a type such as Q4_K, not a preset") from None
