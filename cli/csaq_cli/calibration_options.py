"""The options of `csaq convert` that need calibration, and the Request they make."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from csaq_cli.shell_completion import complete_file, complete_type

if TYPE_CHECKING:
    from csaq_export.budget.target import Target
    from csaq_export.calibrated import Request
    from csaq_export.guidance import Calibrating
    from csaq_export.overrides import Override

Command = TypeVar("Command", bound=Callable[..., None])
EFFORTS = ("fast", "normal", "best")

_OPTIONS = (
    click.option("--bpw", "--target-bits", type=float, help="Size: bits of the file per weight."),
    click.option("--size", help="Size of the file, e.g. 3.2GiB."),
    click.option("--like", shell_complete=complete_type,
                 help="Size: that of a preset, e.g. Q4_K_M."),
    click.option("--calib", shell_complete=complete_file,
                 help="Calibration text: a text or .jsonl file, or a dataset."),
    click.option("--nsamples", type=click.IntRange(2), default=128, show_default=True,
                 help="Calibration windows, at most."),
    click.option("--stable", type=click.FloatRange(0, 1), default=0.0, show_default=True,
                 metavar="RHO", help="Stop when the ranking of weights is; 0 takes all windows."),
    click.option("--seqlen", type=click.IntRange(8), default=512, show_default=True,
                 help="Tokens per window."),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True,
                 help="Which windows are drawn."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
    click.option("--max-memory", metavar="SIZE",
                 help="Most memory to use, e.g. 8GiB; of the GPU with cuda."),
    click.option("--effort", type=click.Choice(EFFORTS), default="normal", show_default=True,
                 help="How long to refine the rounding."),
    click.option("--floor", default="IQ2_XXS", show_default=True, help="Least type of any matrix."),
    click.option("--tensor-type", multiple=True, metavar="REGEX=TYPE",
                 help="Fix the type of matrices; the first match counts."),
    click.option("--cliques", type=click.FloatRange(0), default=0.0, show_default=True,
                 help="Store cliques of rows: similarity below 1, or how many groups; 0: none."),
    click.option("--work-dir", type=click.Path(path_type=Path, file_okay=False),
                 help="Keep statistics here: to resume, or to try other sizes."),
)  # fmt: skip


def calibration_options(command: Command) -> Command:
    """Add the options to a click command, which receives them as keyword arguments."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_overrides(options: Mapping[str, Any]) -> "tuple[Override, ...]":
    """What --tensor-type says; UsageError for what is not REGEX=TYPE."""
    from csaq_export.overrides import read_override

    return tuple(read_override(text) for text in options["tensor_type"])


def read_target(options: Mapping[str, Any]) -> "Target | None":
    """The size asked for, if one is; UsageError for two of them and for what is not a size."""
    from csaq_export.budget.target import Target, parse_size

    sizes = {key: options[key] for key in ("bpw", "size", "like") if options[key] is not None}
    if "size" in sizes:
        sizes["size"] = parse_size(sizes["size"])
    return Target(**sizes) if sizes else None


def read_request(options: Mapping[str, Any], target: "Target | None") -> "Request":
    """The Request; without --calib the model writes its calibration text."""
    from csaq_export.calibrated import Request
    from csaq_export.overrides import read_type

    floor = read_type(options["floor"])
    return Request(
        read_calibrating(options),
        target,
        options["effort"],
        floor,
        options["work_dir"],
        options["cliques"],
    )


def read_calibrating(options: Mapping[str, Any]) -> "Calibrating":
    """How to calibrate."""
    from csaq_export.budget.target import parse_size
    from csaq_export.guidance import Calibrating

    limit = options["max_memory"]
    return Calibrating(
        source=options["calib"],
        n_sample=options["nsamples"],
        seq_len=options["seqlen"],
        seed=options["seed"],
        device=options["device"],
        stable=options["stable"],
        max_memory=None if limit is None else parse_size(limit),
    )
