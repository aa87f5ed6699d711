"""What each stage of a calibrated conversion brings, at equal file bytes: one Markdown table.

    python -m benchmarks.ablation MODEL --calib calib.txt --text valid.txt --text wiki.test.raw \
        --work-dir work

Stages add up from top to bottom: rounding to the nearest under searched scales; squared errors
weighed by the mean squares of inputs (what an imatrix is), then by the guided curvature's
diagonal; its whole, by error feedback; coordinate descent; types by allocation instead of the
preset's; scales and norms tuned. The two rows about groups replace a matrix's one curvature by
one for each of four groups of rows and lead no further. Up to there the preset's types are
stored, so that files differ in nothing but rounding; none is larger than the preset's. The work
dir may be that of benchmarks/quality.py.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from benchmarks.conversion_parser import conversion_parser
from benchmarks.grouped_rows import Labels, by_cliques, by_profiles, collect_groups, encode_groups
from benchmarks.peer_files import Made
from benchmarks.quality import measure
from csaq_export.budget.curve import Curve
from csaq_export.budget.swaps import Budget
from csaq_export.calibrated import CODEBOOKS_BELOW, SWAPS, SWEEPS, TUNING_STEPS, silent
from csaq_export.costs import curves
from csaq_export.guidance import Calibrating, Guidance, guide
from csaq_export.model import Model
from csaq_export.pipeline import Conversion, convert, packed_rows
from csaq_export.plan import Plan, TensorPlan, plan_model
from csaq_export.quantize import encode
from csaq_export.quantize.guided import encode_guided
from csaq_export.rival import closest
from csaq_export.rounded import Rounded, refine, round_tensors
from csaq_export.sensitivity import Sensitivities, Sensitivity
from csaq_export.source import open_model
from csaq_export.statistics import Statistics
from csaq_export.workdir import WorkDir
from csaq_export.write_gguf import front_matter, new_file, write_rows

Bytes = Callable[[TensorPlan], Tensor | None]
FILE_NAME = str.maketrans({" ": "-", ":": None, ",": None, "+": None})
DESCENT, ALLOCATION = "+ descent", "+ allocation"
CLIQUES, PROFILES = "descent, groups: cliques", "descent, groups: profiles"
# The stage that a stage is compared with, where it is not the one before.
COMPARED_WITH = {PROFILES: DESCENT, ALLOCATION: DESCENT}


def main() -> None:
    """Make a file per stage and preset, measure all, print the table."""
    args = arguments()
    args.folder.mkdir(parents=True, exist_ok=True)
    base = args.folder / "F32.gguf"
    convert(Conversion(str(args.model), base, "F32", force=True))
    calibrating = Calibrating(str(args.calib), args.nsamples, args.seqlen, 0, "cpu")
    with open_model(str(args.model)) as model:
        guidance = guide(args.model, calibrating, WorkDir(args.work_dir), silent)
        found = curves(guidance, silent)
        made = []
        for preset in args.presets:
            plan = plan_model(model, preset, importance=True)
            for stage, planned, bytes_of in stages(model, plan, guidance, found):
                out = args.folder / f"{preset}-{stage.translate(FILE_NAME)}.gguf"
                write(planned, bytes_of, out)
                made.append(Made(preset, stage, out, 0.0, 0.0))
                print(preset, stage, file=sys.stderr, flush=True)
                if stage == args.until:
                    break
    print_table(made, base, args)


def stages(
    model: Model, plan: Plan, guidance: Guidance, found: Mapping[str, Curve]
) -> Iterator[tuple[str, Plan, Bytes]]:
    """Name, plan and bytes of each stage, made when asked for."""

    def rounded(encode_one: Callable[[Tensor, TensorPlan, Sensitivity], Tensor]) -> Bytes:
        def bytes_of(tensor: TensorPlan) -> Tensor | None:
            if tensor.name not in guidance.sensitivities:
                return None
            weight = guidance.model.read(tensor.name)
            return encode_one(weight, tensor, guidance.sensitivities[tensor.name])

        return bytes_of

    yield "plain", plan, rounded(lambda w, t, s: encode(w, t.type))
    squares = input_squares(guidance)
    yield "+ importance", plan, rounded(lambda w, t, s: encode(w, t.type, squares(t.name)))
    yield "+ guidance", plan, rounded(lambda w, t, s: encode(w, t.type, s.importance()))
    yield "+ error feedback", plan, rounded(lambda w, t, s: encode_guided(w, t.type, s, 0))
    n_sweep = SWEEPS["normal"]
    yield DESCENT, plan, stored(round_tensors(plan, guidance, n_sweep, silent))
    yield from grouped(plan, guidance, n_sweep)
    ours, final = allocated(model, plan, guidance, found, n_sweep)
    yield ALLOCATION, ours, stored(final)
    tuned = refine(ours, guidance, final, TUNING_STEPS["best"], silent)
    yield "+ tuning", ours, stored(tuned)


def input_squares(guidance: Guidance) -> Callable[[str], Tensor]:
    """Σ x² per column of a matrix by name, the importance of an imatrix."""
    found = guidance.sensitivities
    assert isinstance(found, Sensitivities)
    return lambda name: found.statistics.of_one(*found.places[name][-1]).input_square


def grouped(plan: Plan, guidance: Guidance, n_sweep: int) -> Iterator[tuple[str, Plan, Bytes]]:
    """Rounded with descent by the curvatures of groups of rows."""
    found = guidance.sensitivities
    assert isinstance(found, Sensitivities)
    base = found.statistics
    for stage, labels in (
        (CLIQUES, by_cliques(guidance)),
        (PROFILES, by_profiles(guidance, base)),
    ):
        statistics = collect_groups(guidance, stage.rpartition(" ")[2], labels, base)

        def bytes_of(
            tensor: TensorPlan, statistics: Statistics = statistics, labels: Labels = labels
        ) -> Tensor | None:
            if tensor.name not in guidance.sensitivities:
                return None
            return encode_groups(guidance, statistics, labels, tensor, n_sweep)

        yield stage, plan, bytes_of


def allocated(
    model: Model, plan: Plan, guidance: Guidance, found: Mapping[str, Curve], n_sweep: int
) -> tuple[Plan, Rounded]:
    """What a conversion to the preset's size stores."""
    budget = Budget(model, allowed(found, plan), plan.n_bytes, {})
    return closest(guidance, budget, SWAPS["normal"], n_sweep, silent)


def stored(rounded: Rounded) -> Bytes:
    """The bytes that a conversion's stages hold."""
    return lambda tensor: rounded.bytes_of(tensor.name)


def allowed(found: Mapping[str, Curve], plan: Plan) -> dict[str, Curve]:
    """The candidates a conversion to this size has."""
    if plan.bpw < CODEBOOKS_BELOW:
        return dict(found)
    return {name: curve.without_codebooks() for name, curve in found.items()}


def write(plan: Plan, bytes_of: Bytes, out: Path) -> None:
    """The file of one stage."""
    with new_file(out, plan.n_bytes, force=True) as file:
        file.write(front_matter(plan.metadata, plan.tensors))
        for tensor in plan.tensors:
            data = bytes_of(tensor)
            rows = packed_rows(tensor) if data is None else iter([data.cpu().numpy()])
            write_rows(file, rows, tensor.n_bytes)


def print_table(made: list[Made], base: Path, args: argparse.Namespace) -> None:
    """KL of every stage, and its change against the stage before."""
    results = {text: measure(made, base, text, args.seqlen, args.chunks) for text in args.text}
    print("| size of | stage | bytes | " + " | ".join(text.name for text in args.text) + " |")
    print("|---|---|---" + "|---" * len(args.text) + "|")
    before: dict[tuple[str, Path], float] = {}
    last = ""
    for index, file in enumerate(made):
        if file.maker == made[0].maker:
            before, last = {}, ""
        cells = []
        for text in args.text:
            divergence = results[text][index].divergence
            assert divergence is not None
            kl = divergence.mean
            against = before.get((COMPARED_WITH.get(file.maker, last), text))
            change = "" if against is None else f", {kl.value / against - 1:+.0%}"
            cells.append(f"{kl.value:.5f} ± {1.96 * kl.error:.5f}{change}")
            before[file.maker, text] = kl.value
        last = file.maker
        size = f"{file.path.stat().st_size:,}"
        print(f"| {file.preset} | {file.maker} | {size} | {' | '.join(cells)} |")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = conversion_parser(__doc__, ["Q3_K_S", "Q4_K_M"], 40)
    parser.add_argument("--until", default="", help="the last stage to make")
    parser.add_argument("--work-dir", type=Path, default=Path("quality-files/work"))
    parser.add_argument("--folder", type=Path, default=Path("ablation-files"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
