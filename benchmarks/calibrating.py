"""What less calibration, or text of the model's own, costs and saves: one Markdown table.

    python -m benchmarks.calibrating MODEL --calib calib.txt --text valid.txt --text wiki.test.raw

Every row starts from nothing: windows used, processor seconds of the statistics and of the rest
(cost curves, rounding, comparison; all sizes together), and divergence at each size.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from time import process_time

from benchmarks.conversion_parser import conversion_parser
from benchmarks.peer_files import Made
from benchmarks.quality import measure
from csaq_export.budget.target import Target
from csaq_export.calibrated import Request, convert_calibrated, silent
from csaq_export.guidance import Calibrating, guide
from csaq_export.pipeline import Conversion, convert
from csaq_export.workdir import WorkDir


def variants(base: Calibrating, stable: list[float]) -> dict[str, Calibrating]:
    """What is compared, by name; a stable correlation of 0 takes all windows."""
    found = {"all windows": base}
    found |= {f"--stable {rho:g}": replace(base, stable=rho) for rho in stable}
    return found | {"text of its own": replace(base, source=None)}


def main() -> None:
    """Make every variant's files, measure all, print the table."""
    args = arguments()
    args.folder.mkdir(parents=True, exist_ok=True)
    original = args.folder / "F32.gguf"
    convert(Conversion(str(args.model), original, "F32", force=True))
    base = Calibrating(str(args.calib), args.nsamples, args.seqlen, 0, "cpu")
    made, costs = [], {}
    for name, calibrating in variants(base, args.stable).items():
        files, costs[name] = make(args, name, calibrating)
        print(name, costs[name], flush=True)
        made += files
    print_table(made, costs, original, args)


def make(
    args: argparse.Namespace, name: str, calibrating: Calibrating
) -> tuple[list[Made], tuple[int, float, float]]:
    """Files of all sizes; windows observed, CPU seconds of the statistics and of the rest."""
    files = []
    with tempfile.TemporaryDirectory() as work:
        began = process_time()
        guidance = guide(args.model, calibrating, WorkDir(Path(work)), silent)
        observed = process_time()
        for preset in args.presets:
            out = args.folder / f"{preset}-{name.replace(' ', '-')}.gguf"
            request = Request(calibrating, Target(like=preset), work_dir=Path(work))
            convert_calibrated(Conversion(str(args.model), out, preset, force=True), request)
            files.append(Made(preset, name, out, 0.0, 0.0))
        ended = process_time()
    return files, (len(guidance.calibration.tokens), observed - began, ended - observed)


def print_table(
    made: list[Made],
    costs: dict[str, tuple[int, float, float]],
    original: Path,
    args: argparse.Namespace,
) -> None:
    """A row per variant, a column per size and text."""
    kl: dict[tuple[str, str, Path], str] = {}
    for text in args.text:
        for file, found in zip(
            made, measure(made, original, text, args.seqlen, args.chunks), strict=True
        ):
            assert found.divergence is not None
            mean = found.divergence.mean
            kl[file.maker, file.preset, text] = f"{mean.value:.5f} ± {1.96 * mean.error:.5f}"
    columns = [(preset, text) for preset in args.presets for text in args.text]
    heads = " | ".join(f"{preset}: {text.name}" for preset, text in columns)
    print(f"| calibrated on | windows | statistics, CPU s | the rest, CPU s | {heads} |")
    print("|---" * (4 + len(columns)) + "|")
    for name, (n_window, statistics, rest) in costs.items():
        cells = " | ".join(kl[name, preset, text] for preset, text in columns)
        print(f"| {name} | {n_window} | {statistics:.0f} | {rest:.0f} | {cells} |")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = conversion_parser(__doc__, ["Q2_K", "Q4_K_M"], 20)
    parser.add_argument("--stable", nargs="*", type=float, default=[0.99, 0.95])
    parser.add_argument("--folder", type=Path, default=Path("calibrating-files"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
