"""The options of `csaq convert` that choose a published method, and the conversion by it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from csaq_cli.calibration_options import read_calibrating
from csaq_runtime.errors import UsageError

if TYPE_CHECKING:
    from csaq_export.guidance import Calibrating
    from csaq_export.methods.session import Report
    from csaq_export.pipeline import Conversion
    from csaq_export.plan import Plan

Command = TypeVar("Command", bound=Callable[..., None])
METHODS = ("csaq", "tiers", "tacq", "serq")

_OPTIONS = (
    click.option("--method", type=click.Choice(METHODS),
                 help="A published method instead of types per matrix."),
    click.option("--layout", type=click.Choice(["stock", "rows"]),
                 help="rows: with --method csaq; stock: of a rows file, one llama.cpp loads."),
    click.option("--bits", metavar="LIST",
                 help="Method csaq: bits that a row may have; default 2,4,8,16."),
    click.option("--protection-floor", type=click.FloatRange(0, 1),
                 help="Method csaq: share of salient rows with 8 bits at least; default 0.1."),
    click.option("--clique-threshold", type=click.FloatRange(0, 1, min_open=True),
                 help="Method csaq: similarity from which rows share their bits; default 0.85."),
    click.option("--group-size", type=int,
                 help="Method csaq: 256 or 32 weights to a block; default 256."),
    click.option("--tiers", metavar="SHARES",
                 help="Method tiers: shares of weights by bits, e.g. 16:0.05,8:0.20,4:rest."),
    click.option("--task", type=click.Path(path_type=Path, exists=True),
                 help="Method tacq: questions to stay good at (MMLU, GSM8K, Spider), or a text."),
    click.option("--base-bits", type=click.IntRange(2, 3),
                 help="Method tacq: bits of all other weights; default 3."),
    click.option("--outlier-ratio", type=click.FloatRange(0, 1),
                 help="Method tacq: share of weights at 16 bits; default 0.0035."),
    click.option("--rank", type=click.IntRange(1),
                 help="Method serq: input columns of a matrix that get a factor; default 128."),
    click.option("--w-bits", type=click.IntRange(2, 4),
                 help="Method serq: bits of the main matrices; default 4."),
    click.option("--a-bits", type=click.Choice([8, 4]),
                 help="Method serq: bits of activations it is meant for; csaq run has 8."),
    click.option("--mxfp4", is_flag=True, default=None,
                 help="Method serq: main matrices in MXFP4."),
    click.option("--lora", is_flag=True, default=None,
                 help="serq, --layout stock: a stock file, and an adapter beside it."),
)  # fmt: skip
_OWNERS = {
    "bits": "csaq",
    "protection_floor": "csaq",
    "clique_threshold": "csaq",
    "group_size": "csaq",
    "tiers": "tiers",
    "task": "tacq",
    "base_bits": "tacq",
    "outlier_ratio": "tacq",
    **dict.fromkeys(("rank", "w_bits", "a_bits", "mxfp4"), "serq"),
}
_NOT_TAKEN = ("size", "like", "stable", "tensor_type", "cliques")


def method_options(command: Command) -> Command:
    """Add the options to a click command, which receives them as keyword arguments."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check_method(options: Mapping[str, Any], others: Mapping[str, object]) -> None:
    """UsageError for an option of another method, and for `others` that no recipe takes."""
    method, layout = options["method"], options["layout"]
    for name, owner in _OWNERS.items():
        if options[name] is not None and method != owner:
            raise UsageError(f"--{name.replace('_', '-')} belongs to --method {owner}")
    if options["lora"] and method != "serq" and options["layout"] != "stock":
        raise UsageError("--lora belongs to --method serq, or to --layout stock of a rows file")
    if method is None and layout is None:
        return
    recipe = f"--layout {layout}" if method is None else f"--method {method}"
    not_taken = {} if method is None else {key: options[key] for key in _NOT_TAKEN}
    for name, value in {**others, **not_taken}.items():
        if value:
            raise UsageError(f"{recipe} takes no --{name.replace('_', '-')}")


def method_name(options: Mapping[str, Any]) -> str:
    """What a file's name says of the method, e.g. `TIERS_6BPW`."""
    size = "" if options["bpw"] is None else f"_{options['bpw']:g}BPW".replace(".", "_")
    return str(options["method"]).upper() + size


def convert_by_method(
    conversion: "Conversion", options: Mapping[str, Any], report: "Report"
) -> "Plan":
    """Write the file by the method asked for and return its plan."""
    return _RECIPES[options["method"]](conversion, read_calibrating(options), options, report)


def _csaq(
    conversion: "Conversion",
    calibrating: "Calibrating",
    options: Mapping[str, Any],
    report: "Report",
) -> "Plan":
    from csaq_export.methods.csaq.convert import convert_csaq
    from csaq_export.methods.csaq.options import SUPER_BLOCK, CsaqRequest, read_bits

    if options["layout"] == "stock":
        raise UsageError("--method csaq writes the rows layout", "leave --method out for stock")
    group_size = options["group_size"] or SUPER_BLOCK
    request = CsaqRequest(
        calibrating,
        4.0 if options["bpw"] is None else options["bpw"],
        bits=read_bits(options["bits"] or "2,4,8,16", group_size),
        group_size=group_size,
        work_dir=_work_dir(options),
        **_given(options, protected="protection_floor", similarity="clique_threshold"),
    )
    return convert_csaq(conversion, request, report)


def _tiers(
    conversion: "Conversion",
    calibrating: "Calibrating",
    options: Mapping[str, Any],
    report: "Report",
) -> "Plan":
    from csaq_export.methods.tiers import Tiers, TiersRequest, convert_tiers, read_tiers

    tiers = Tiers() if options["tiers"] is None else read_tiers(options["tiers"])
    request = TiersRequest(calibrating, tiers, options["bpw"], _work_dir(options))
    return convert_tiers(conversion, request, report)


def _given(options: Mapping[str, Any], **names: str) -> dict[str, Any]:
    """Fields of a request by the options that set them, those left out excepted."""
    return {field: options[name] for field, name in names.items() if options[name] is not None}


def _work_dir(options: Mapping[str, Any]) -> Path | None:
    found = options["work_dir"]
    assert found is None or isinstance(found, Path)
    return found


def _tacq(
    conversion: "Conversion",
    calibrating: "Calibrating",
    options: Mapping[str, Any],
    report: "Report",
) -> "Plan":
    from csaq_export.methods.tacq import TacqRequest, convert_tacq

    if options["task"] is None:
        raise UsageError("--method tacq needs a --task to stay good at")
    if options["bpw"] is not None:
        raise UsageError("--method tacq takes --base-bits and --outlier-ratio, no --bpw")
    request = TacqRequest(
        calibrating,
        options["task"],
        work_dir=_work_dir(options),
        **_given(options, base_bits="base_bits", outlier_ratio="outlier_ratio"),
    )
    return convert_tacq(conversion, request, report)


def _serq(
    conversion: "Conversion",
    calibrating: "Calibrating",
    options: Mapping[str, Any],
    report: "Report",
) -> "Plan":
    from csaq_export.methods.serq.recipe import SerqRequest, convert_serq

    if options["bpw"] is not None:
        raise UsageError("--method serq takes --w-bits and --rank, no --bpw")
    if options["mxfp4"] and options["w_bits"] not in (None, 4):
        raise UsageError("--mxfp4 has 4 bits")
    request = SerqRequest(
        calibrating,
        work_dir=_work_dir(options),
        **_given(
            options, rank="rank", w_bits="w_bits", a_bits="a_bits", mxfp4="mxfp4", lora="lora"
        ),
    )
    return convert_serq(conversion, request, report)


_RECIPES = {"csaq": _csaq, "tiers": _tiers, "tacq": _tacq, "serq": _serq}
