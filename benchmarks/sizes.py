"""Whether `--bpw` is kept all the way: planned at every step, written at some, one table.

    python -m benchmarks.sizes MODEL --calib calib.txt --work-dir quality-files/work

Every size must be met from below within 0.3 %; files are made as `csaq convert` makes them.
"""

import argparse
import tempfile
from pathlib import Path

from csaq_export.budget.target import Target
from csaq_export.calibrated import Request, convert_calibrated, plan_calibrated
from csaq_export.guidance import Calibrating
from csaq_export.pipeline import Conversion
from csaq_runtime.errors import UsageError

TOLERANCE = 0.003


def unused(bpw: float, n_byte: int, n_weight: int) -> float:
    """The share of the size that is left; stops where it is too large or negative."""
    limit = bpw * n_weight / 8
    left = 1 - n_byte / limit
    assert 0 <= left <= TOLERANCE, (bpw, n_byte, limit)
    return left


def main() -> None:
    """Plan all sizes, write some, print what is left of each."""
    args = arguments()
    calibrating = Calibrating(str(args.calib), args.nsamples, args.seqlen, 0, "cpu")
    worst: dict[str, float] = {}
    n_step = round((args.last - args.first) / args.step)
    with tempfile.TemporaryDirectory() as folder:
        conversion = Conversion(str(args.model), Path(folder) / "out.gguf", "Q4_K_M", force=True)
        for index in range(n_step + 1):
            bpw = round(args.first + index * args.step, 4)
            request = Request(calibrating, Target(bpw=bpw), args.effort, work_dir=args.work_dir)
            try:
                planned = plan_calibrated(conversion, request)
            except UsageError as error:
                print(f"{bpw:.2f} {error}")
                continue
            assert planned is not None, "the work dir has no cost curves yet"
            left = {"planned": unused(bpw, planned.n_bytes, planned.n_weight)}
            if index % args.write_every == 0:
                convert_calibrated(conversion, request)
                left["written"] = unused(bpw, conversion.out.stat().st_size, planned.n_weight)
            print(f"{bpw:.2f}", *(f"{kind} -{share:.4%}" for kind, share in left.items()))
            worst = {kind: max(worst.get(kind, 0.0), left.get(kind, 0.0)) for kind in left | worst}
    print("furthest below:", *(f"{kind} {share:.4%}" for kind, share in worst.items()))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("quality-files/work"))
    parser.add_argument("--first", type=float, default=2.2)
    parser.add_argument("--last", type=float, default=8.6)
    parser.add_argument("--step", type=float, default=0.1)
    parser.add_argument("--write-every", type=int, default=4)
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--nsamples", type=int, default=128)
    parser.add_argument("--seqlen", type=int, default=256)
    return parser.parse_args()


if __name__ == "__main__":
    main()
