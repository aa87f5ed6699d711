"""Conversions ended by SIGKILL and resumed: `kill_stages.py N FOLDER` kills N times in each stage.

One process loads torch and forks every conversion, so a kill costs no import. A stage's kills
begin from a copy of the work dir as it was when the stage began. A kill that comes late and hits
the next stage is checked and then repeated; the last attempt comes at once when the stage reports.
Prints one JSON object: kills by the stage they hit. Ends with an error at the first resumed file
that differs.
"""

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from csaq_export import calibrated
from csaq_export.budget import curve
from csaq_export.budget.target import Target
from csaq_export.calibrated import Request, convert_calibrated
from csaq_export.guidance import Calibrating
from csaq_export.pipeline import Conversion
from csaq_runtime.formats import GGMLType
from tests.export.models import TEXT, save_folder

STAGES = (
    *("forward", "backward", "measuring types", "measuring tensors"),
    *("rounding", "comparing", "tuning", "writing"),
)
ATTEMPTS = 6


@dataclass
class Clock:
    """When each stage reported; calls `begun` when a stage reports for the first time."""

    begun: Callable[[str], None] = lambda stage: None
    reported: Callable[[str, int], None] = lambda stage, number: None
    times: dict[str, list[float]] = field(default_factory=dict)

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self.times:
            self.begun(stage)
        times = self.times.setdefault(stage, [])
        times.append(time.monotonic())
        self.reported(stage, len(times))


def convert(model: Path, work: Path, out: Path, clock: Clock) -> None:
    """The best effort (with few steps), so that every stage takes part."""
    calibrating = Calibrating(str(model / "calib.txt"), 6, 16, 0, "cpu")
    request = Request(calibrating, Target(like="Q8_0"), "best", work_dir=work)
    conversion = Conversion(str(model), out, "Q4_0", force=True)
    convert_calibrated(conversion, request, clock, lambda progress: clock("writing", 0, 0))


def child(task: Callable[[], None]) -> int:
    """Exit code of `task` in a forked process, negative for a signal."""
    process = os.fork()
    if process == 0:
        try:
            task()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killing(stage: str, number: int, delay: float, mark: Path) -> Clock:
    """A clock that kills its process `delay` seconds after report `number` of `stage`."""

    def reported(now: str, count: int) -> None:
        mark.write_text(now)
        if now == stage and count == number:
            if delay == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Timer(delay, os.kill, [os.getpid(), signal.SIGKILL]).start()

    return Clock(reported=reported)


def save_model(folder: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    save_folder(folder, "llama3-tied", **sizes, **heads)
    (folder / "calib.txt").write_text(" ".join(TEXT))


def undisturbed(folder: Path) -> tuple[bytes, dict[str, list[float]]]:
    """The file to be reached, and when stages reported; leaves `at STAGE` copies of the work."""
    work = folder / "work"

    def keep(stage: str) -> None:
        work.mkdir(exist_ok=True)
        shutil.copytree(work, folder / f"at {stage}")

    def task() -> None:
        clock = Clock(begun=keep)
        convert(folder / "model", work, folder / "whole.gguf", clock)
        (folder / "times.json").write_text(json.dumps(clock.times))

    assert child(task) == 0
    return (folder / "whole.gguf").read_bytes(), json.loads((folder / "times.json").read_text())


def kill_once(folder: Path, stage: str, number: int, delay: float) -> str:
    """Kill `delay` seconds after a report of `stage`, resume; the stage hit, "" if all was over."""
    work, out, mark = folder / "again", folder / "again.gguf", folder / "mark"
    for place in (work, out, mark):
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    shutil.copytree(folder / f"at {stage}", work)
    clock = killing(stage, number, delay, mark)
    code = child(lambda: convert(folder / "model", work, out, clock))
    assert code in (0, -signal.SIGKILL), code
    if code == 0:
        return ""
    whole = (folder / "whole.gguf").read_bytes()
    assert not out.exists() or out.read_bytes() == whole
    assert child(lambda: convert(folder / "model", work, out, Clock())) == 0
    assert out.read_bytes() == whole, f"killed in {mark.read_text()}: another file"
    assert not [*work.glob("*.partial"), *folder.glob("*.partial")]
    return mark.read_text()


def points(times: list[float], chance: random.Random) -> Iterator[tuple[int, float]]:
    """(report, delay) of each attempt to hit a stage that reported at `times`; the last hits."""
    between = (times[-1] - times[0]) / len(times)
    for _ in range(ATTEMPTS - 1):
        yield chance.randint(1, len(times)), chance.uniform(0, between)
    yield 1, 0.0


def hit(folder: Path, stage: str, times: list[float], chance: random.Random) -> str:
    """Kill in `stage`, however many attempts that takes; the stage of the last one."""
    found = ""
    for point in points(times, chance):
        found = kill_once(folder, stage, *point)
        if found == stage:
            break
    return found


def main(n_kill: int, folder: Path) -> None:
    torch.set_num_threads(1)
    calibrated.TUNING_STEPS["best"], calibrated.SWEEPS["best"] = 3, 1
    curve.LADDER = (GGMLType.Q4_0, GGMLType.Q5_0, GGMLType.Q8_0)
    save_model(folder / "model")
    _, times = undisturbed(folder)
    assert set(times) == set(STAGES), sorted(times)
    chance, hits = random.Random(n_kill), Counter[str]()
    for stage in STAGES:
        for _ in range(n_kill):
            hits[hit(folder, stage, times[stage], chance)] += 1
        print(dict(hits), file=sys.stderr, flush=True)
    print(json.dumps(hits))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
