"""What `csaq convert --dry-run` says beside what the conversion took: time, memory, disk per stage.

    python -m benchmarks.estimates --work /tmp/estimates --only demo

Nothing else should run on the machine: seconds are those of the clock. Every forecast and every
conversion is a process of its own. Efforts of one model share a work dir, so that a stage is
compared once. Results go to results.json in --work; stages under half a second are left out of
the worst ratio.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.random_folder import DEMO, llama_config, write_random_folder
from benchmarks.stage_clock import StageClock, Taken, timed_stages
from csaq_export.budget.target import Target
from csaq_export.calibrated import Request, convert_calibrated
from csaq_export.estimate import Estimate, estimate_conversion, estimate_plain
from csaq_export.guidance import Calibrating
from csaq_export.pipeline import Conversion, convert, plan

# What `convert_calibrated` reports → the stage of the estimate.
NAMES = {
    "forward": "calibrate",
    "backward": "calibrate",
    "writing text": "write text",
    "measuring types": "measure types",
    "measuring tensors": "measure tensors",
    "measuring the dearest": "measure tensors",
    "rounding": "round",
    "comparing": "compare",
    "tuning": "tune",
    "writing": "write",
    "convert": "convert",
}
# n_layer, n_embd, n_ff, n_head, n_head_kv, n_vocab
SHAPES = {
    "small": (2, 256, 768, 4, 2, 4096),
    "wide": (4, 1024, 2816, 16, 8, 8192),
    "0.3B": (20, 1024, 3328, 16, 8, 16384),
}
STORIES = Path(__file__).resolve().parents[1] / "demo" / "stories.txt"
BRIEF_SECONDS = 0.5
LIKE = Target(like="Q4_K_M")


@dataclass(frozen=True)
class Case:
    """A conversion to a `target` (None: the preset `type`); plain where there is no `effort`."""

    name: str
    model: str
    target: Target | None = None
    effort: str = ""
    n_sample: int = 64
    seq_len: int = 256
    calib: bool = True
    max_memory: int | None = None
    type: str = "Q4_K_M"


CASES = (
    Case("demo plain", "demo"),
    Case("demo fast", "demo", LIKE, "fast"),
    Case("demo normal", "demo", LIKE, "normal"),
    Case("demo best", "demo", None, "best"),
    Case("demo 3.5 bpw", "demo", Target(bpw=3.5), "normal"),
    Case("demo 5.5 bpw", "demo", Target(bpw=5.5), "normal"),
    Case("demo own text", "demo", None, "fast", 32, 128, calib=False),
    Case("small fast", "small", LIKE, "fast", 32),
    Case("small normal", "small", LIKE, "normal", 32),
    Case("small best", "small", None, "best", 32),
    Case("small 3.5 bpw", "small", Target(bpw=3.5), "normal", 32),
    Case("wide preset", "wide", None, "fast", 16),
    Case("wide streamed", "wide", None, "fast", 16, max_memory=1 << 30),
    Case("wide plain", "wide"),
    Case("0.3B Q6_K", "0.3B", None, "fast", 4, 128, type="Q6_K"),
)


def folder_of(case: Case, work: Path) -> Path:
    """The model's folder, made if it is of random weights."""
    if case.model == "demo":
        return DEMO
    folder = work / case.model
    if not (folder / "model.safetensors.index.json").exists():
        write_random_folder(folder, llama_config(*SHAPES[case.model]))
    return folder


def asked(case: Case, work: Path) -> tuple[Conversion, Request | None]:
    """What the command line would make of the case."""
    conversion = Conversion(str(folder_of(case, work)), work / "out" / "out.gguf", case.type)
    if not case.effort:
        return conversion, None
    source = str(STORIES) if case.calib else None
    calibrating = Calibrating(source, case.n_sample, case.seq_len, 0, "cpu",
                              max_memory=case.max_memory)  # fmt: skip
    return conversion, Request(calibrating, case.target, case.effort, work_dir=work / "stages")


def forecast(case: Case, work: Path) -> dict[str, Any]:
    """Seconds, memory and disk by stage; what finding them took."""
    conversion, request = asked(case, work)
    began = time.perf_counter()
    found: Estimate
    if request is None:
        found = estimate_plain(plan(conversion))
    else:
        found = estimate_conversion(conversion, request)
    took = time.perf_counter() - began
    stages = {s.name: asdict(Taken(s.seconds, s.seconds, s.memory, s.disk)) for s in found.stages}
    return {"stages": stages, "took": took}


def actual(case: Case, work: Path) -> dict[str, Any]:
    """The same of the conversion itself."""
    conversion, request = asked(case, work)
    (work / "out").mkdir(exist_ok=True)
    clock = StageClock(torch.device("cpu"), (work / "stages", work / "out"))
    writing = lambda progress: clock("writing")  # noqa: E731
    if request is None:
        stages = timed_stages(clock, lambda: convert(conversion, lambda _: clock("convert")))
    else:
        stages = timed_stages(
            clock, lambda: convert_calibrated(conversion, request, clock, writing)
        )
    merged: dict[str, Taken] = {}
    for name, taken in stages.items():
        into = merged.setdefault(NAMES.get(name, name), Taken())
        into.seconds, into.wall = into.seconds + taken.seconds, into.wall + taken.wall
        into.peak, into.disk = max(into.peak, taken.peak), max(into.disk, taken.disk)
    return {"stages": {name: asdict(taken) for name, taken in merged.items()}}


def in_process(part: str, case: Case, work: Path) -> dict[str, Any]:
    """`forecast` or `actual` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.estimates", "--work", str(work),
               "--part", part, "--case", case.name]  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(case: Case, work: Path, parts: list[str]) -> dict[str, Any]:
    """Both, with stages of an earlier case of the same text kept."""
    found = {}
    if "forecast" in parts:
        found["forecast"] = in_process("forecast", case, work)
    if "actual" in parts:
        shutil.rmtree(work / "out", ignore_errors=True)
        if case.effort in ("", "fast"):
            shutil.rmtree(work / "stages", ignore_errors=True)
        for old in (work / "stages").glob("rounded-*"):
            old.unlink()
        found["actual"] = in_process("actual", case, work)
    return found


def show(results: dict[str, Any]) -> None:
    """One line per stage: foretold / taken, and their ratio."""
    worst = {"time": 1.0, "memory": 1.0, "disk": 1.0}
    print("| conversion | stage | seconds | ratio | memory | ratio | disk | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for name, each in results.items():
        for stage, said in each.get("forecast", {"stages": {}})["stages"].items():
            took = each.get("actual", {"stages": {}})["stages"].get(stage)
            if took is None or (stage == "calibrate" and took["seconds"] == 0):
                continue
            counts = max(said["wall"], took["wall"]) >= BRIEF_SECONDS
            cells = [f"{said['wall']:.1f} / {took['wall']:.1f}"]
            cells.append(_ratio(said["wall"], took["wall"], worst, "time", counts))
            for key, title in (("peak", "memory"), ("disk", "disk")):
                cells.append(f"{said[key] / 2**20:.0f} / {took[key] / 2**20:.0f}")
                cells.append(_ratio(said[key], took[key], worst, title, True))
            print(f"| {name} | {stage} | {' | '.join(cells)} |")
        if "forecast" in each:
            print(f"| {name} | the forecast | {each['forecast']['took']:.1f} | | | | | |")
    print("worst:", ", ".join(f"{title} {ratio:.2f}" for title, ratio in worst.items()))


def _ratio(said: float, took: float, worst: dict[str, float], title: str, counts: bool) -> str:
    ratio = said / max(took, 1e-9)
    if counts:
        far = max(ratio, 1 / max(ratio, 1e-9))
        worst[title] = max(worst[title], far)
    return f"{ratio:.2f}" if counts else "·"


def main() -> None:
    """Run the cases, keep the figures, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", action="append", help="a case, or the beginning of its name")
    parser.add_argument("--case", help="of --part")
    parser.add_argument("--part", choices=("forecast", "actual"), help="print JSON of one alone")
    parser.add_argument("--parts", default="forecast,actual", help="which to make anew")
    parser.add_argument("--show", action="store_true", help="print what was measured before")
    arguments = parser.parse_args()
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    if arguments.part is not None:
        (case,) = (case for case in CASES if case.name == arguments.case)
        measure = forecast if arguments.part == "forecast" else actual
        print(json.dumps(measure(case, work)))
        return
    chosen = [c for c in CASES if any(c.name.startswith(o) for o in arguments.only or [""])]
    kept = work / "results.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    for case in chosen if not arguments.show else ():
        found = compare(case, work, arguments.parts.split(","))
        results.setdefault(case.name, {}).update(found)
        kept.write_text(json.dumps(results, indent=1))
    show(results)


if __name__ == "__main__":
    main()
