"""CSAQ rows against whole matrices of one type, at equal file bytes: Markdown tables.

    python benchmarks/calibration_text.py calib.txt
    python -m benchmarks.rows MODEL --calib calib.txt --text valid.txt --text wiki.test.raw

Per size: rows by `--widths`, and by csaq-quant's own settings (2, 4, 8, 16 bits, 10 % protected);
one type for all matrices, the next wider one for as many as fit in file order, rounded to the
nearest and by error feedback (GPTQ in ggml's blocks, on the same curvature, with the descent
that rows get); and what `csaq convert --bpw` makes. No file is larger than the size, those of one
type are smaller by less than a matrix's step. Then what rows lose by width. KL divergence by
llama-perplexity's protocol, in nats. Sizes missed and cliques by their rows go to standard error.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.ablation import stored, write
from benchmarks.conversion_parser import conversion_parser
from benchmarks.peer_files import Made
from benchmarks.quality import interval, measure, record
from csaq_export.budget.allocate import planned
from csaq_export.budget.target import Target
from csaq_export.calibrated import SWEEPS, Request, convert_calibrated, silent
from csaq_export.guidance import Calibrating
from csaq_export.methods.csaq.convert import convert_csaq
from csaq_export.methods.csaq.options import SUPER_BLOCK, CsaqRequest, read_bits
from csaq_export.methods.session import Session, open_session
from csaq_export.pipeline import Conversion, convert
from csaq_export.plan import Plan, TensorPlan
from csaq_export.quantize import encode
from csaq_export.rounded import round_tensors
from csaq_export.type_choice import fitting
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import GGMLType
from csaq_runtime.gguf import open_gguf
from csaq_runtime.hparams import read_hparams
from csaq_runtime.tensors import check_tensors

LADDER = ("IQ2_XXS", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
SEED_WIDTHS, SEED_FLOOR, SEED_THRESHOLD = "2,4,8,16", 0.1, 0.85
THRESHOLDS = (0.5, 0.3)
Errors = NDArray[np.float64]
FILE_NAME = str.maketrans(" ", "-", ",'")


def main() -> None:
    """Make the files of a size, measure them, print their lines; then the errors of their rows."""
    args = arguments()
    args.folder.mkdir(parents=True, exist_ok=True)
    base = args.folder / "F32.gguf"
    convert(Conversion(str(args.model), base, "F32", force=True))
    texts = [text.name for text in args.text]
    print(f"| bits asked for | file | bytes | {' | '.join(texts)} |")
    print("|---|---|---" + "|---" * len(texts) + "|")
    made: list[Made] = []
    for kind in (row_files, one_type_files, stock_file):
        for size in args.presets:
            of_size = list(kind(args, size))
            print_quality(of_size, base, args)
            made += of_size
    print_errors([file for file in made if file.maker.startswith("rows")], base)


def arguments() -> argparse.Namespace:
    """The command line; a size is in bits of the file per weight."""
    parser = conversion_parser(__doc__, ["2.5", "3", "4", "4.25", "5"], 40)
    parser.add_argument("--widths", default="2,3,4,5,6,8,16")
    parser.add_argument("--work-dir", type=Path, default=Path("rows-files/work"))
    parser.add_argument("--folder", type=Path, default=Path("rows-files"))
    return parser.parse_args()


def row_files(args: argparse.Namespace, size: str) -> Iterator[Made]:
    """The rows files of one size; at 4 bits with cliques found at lower thresholds too."""
    yield from rows_file(args, size, "rows", args.widths, 0.0)
    yield from rows_file(args, size, "rows, seed's settings", SEED_WIDTHS, SEED_FLOOR)
    for threshold in THRESHOLDS if size == "4" else ():
        yield from rows_file(args, size, f"rows, cliques {threshold}", args.widths, 0.0, threshold)


def rows_file(
    args: argparse.Namespace,
    size: str,
    name: str,
    widths: str,
    floor: float,
    threshold: float = SEED_THRESHOLD,
) -> Iterator[Made]:
    """A rows file, or the reason why there is none."""
    out = args.folder / f"{size}-{name.translate(FILE_NAME)}.gguf"
    bits = read_bits(widths, SUPER_BLOCK)
    request = CsaqRequest(
        calibrating(args), float(size), bits, floor, threshold, work_dir=args.work_dir
    )
    try:
        plan = convert_csaq(Conversion(str(args.model), out, "", force=True), request, silent)
    except UsageError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return
    missed = plan.bpw - float(size)
    print(f"{name}, {size}: {missed:+.5f} bits; {plan.notes[-1]}", file=sys.stderr)
    yield Made(size, name, out, 0.0, 0.0)


def calibrating(args: argparse.Namespace) -> Calibrating:
    """The same text for all."""
    return Calibrating(str(args.calib), args.nsamples, args.seqlen, 0, "cpu")


def one_type_files(args: argparse.Namespace, size: str) -> Iterator[Made]:
    """Nearest and GPTQ, if the least type is small enough."""
    conversion = Conversion(str(args.model), args.folder / f"{size}.gguf", "", force=True)
    with open_session(conversion, calibrating(args), args.work_dir, silent) as session:
        plan = one_type(session, float(size))
        if plan.bpw > float(size):
            print(f"one type, {size}: {LADDER[0]} takes {plan.bpw:.3f} bits", file=sys.stderr)
            return
        gptq = stored(round_tensors(plan, session.guidance, SWEEPS["normal"], silent))
        for name, bytes_of in (("nearest", to_nearest(session)), ("GPTQ", gptq)):
            path = args.folder / f"{size}-{name}.gguf"
            write(plan, bytes_of, path)
            yield Made(size, name, path, 0.0, 0.0)


def stock_file(args: argparse.Namespace, size: str) -> Iterator[Made]:
    """What `csaq convert --bpw` makes."""
    path = args.folder / f"{size}-stock.gguf"
    request = Request(calibrating(args), Target(bpw=float(size)), work_dir=args.work_dir)
    try:
        convert_calibrated(Conversion(str(args.model), path, "Q4_K_M", force=True), request)
    except UsageError as error:
        print(f"stock: {error}", file=sys.stderr)
        return
    yield Made(size, "stock", path, 0.0, 0.0)


def one_type(session: Session, bpw: float) -> Plan:
    """The widest type that fits for all matrices, the next for the first of them."""
    columns = {weight.name: weight.n_col for weight in session.model.weights}
    ladder = [GGMLType[name] for name in LADDER]
    types = dict.fromkeys(session.matrices(), ladder[0])
    best = planned(session.model, types, {})
    for kind in ladder[1:]:
        for name in types:
            wider = planned(session.model, types | {name: fitting(kind, columns[name])}, {})
            if wider.bpw > bpw:
                return best
            types[name], best = fitting(kind, columns[name]), wider
    return best


def to_nearest(session: Session) -> Callable[[TensorPlan], Tensor | None]:
    """Rounding that knows nothing but the weights."""
    known = session.guidance.sensitivities
    read = session.guidance.model.read
    return lambda t: encode(read(t.name), t.type) if t.name in known else None


def print_quality(made: list[Made], base: Path, args: argparse.Namespace) -> None:
    """Bytes and divergence of every file."""
    records = [
        [
            record(file, text.name, found)
            for file, found in zip(
                made, measure(made, base, text, args.seqlen, args.chunks), strict=True
            )
        ]
        for text in args.text
    ]
    for file, found in zip(made, zip(*records, strict=True), strict=True):
        cells = " | ".join(interval(each) for each in found)
        n_byte = f"{file.path.stat().st_size:,}"
        print(f"| {file.preset} | {file.maker} | {n_byte} | {cells} |", flush=True)


def print_errors(made: list[Made], base: Path) -> None:
    """|Ŵ − W| / |W| of all rows of a type: their mean, and the worst row's."""
    print("\n| bits asked for | file | type | rows | mean | worst |")
    print("|---|---|---|---|---|---|")
    for file in made:
        for kind, errors in sorted(row_errors(file.path, base).items()):
            cells = f"{len(errors):,} | {errors.mean():.5f} | {errors.max():.5f}"
            print(f"| {file.preset} | {file.maker} | {kind} | {cells} |")


def row_errors(path: Path, base: Path) -> dict[str, Errors]:
    """The relative error of every row in layers, by type."""
    found: dict[str, list[Errors]] = {}
    with open_gguf(path) as file, open_gguf(base) as exact:
        for name, weight in check_tensors(file, read_hparams(file)).items():
            if not name.startswith("blk."):
                continue
            meant, stored_ = exact.float32(f"{name}.weight"), weight.float32(file)
            lost = np.linalg.norm(stored_ - meant, axis=1) / np.linalg.norm(meant, axis=1)
            for info, rows in weight.tiers.parts():
                found.setdefault(info.type.name, []).append(lost[rows].astype(np.float64))
    return {kind: np.concatenate(parts) for kind, parts in found.items()}


if __name__ == "__main__":
    main()
