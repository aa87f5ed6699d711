"""What each stage of a conversion took: seconds, worst memory, most disk."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

import torch

# Read once: stages change torch's own number while they run threads of their own.
CORES = torch.get_num_threads()
# Seconds between looks at the disk: a stage's file lives longer.
DISK_EVERY = 0.05


@dataclass
class Taken:
    """Of one stage; `seconds` of the cores over their number, `wall` of the clock.

    `peak` and `disk` in bytes, `disk` of work dir and output together. On CUDA both times
    are the clock's.
    """

    seconds: float = 0.0
    wall: float = 0.0
    peak: int = 0
    disk: int = 0


@dataclass
class StageClock:
    """The callback of `convert_calibrated`; `stages` by what they are called there.

    `folders` are watched for their size.
    """

    device: torch.device
    folders: tuple[Path, ...] = ()
    stages: dict[str, Taken] = field(default_factory=dict)
    current: str = ""
    began: tuple[float, float] = (0.0, 0.0)
    most: int = 0

    def __post_init__(self) -> None:
        self.ended = Event()
        if self.folders:
            Thread(target=self._watch, daemon=True).start()

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Note that `stage` is at work."""
        if stage != self.current:
            self.finish()
            self.current, self.began, self.most = stage, self.now(), 0
            self._forget_peak()

    def finish(self) -> None:
        """Note the stage that ends."""
        if self.current:
            taken = self.stages.setdefault(self.current, Taken())
            seconds, wall = self.now()
            taken.seconds += seconds - self.began[0]
            taken.wall += wall - self.began[1]
            taken.peak = max(taken.peak, self.peak())
            taken.disk = max(taken.disk, self.most, self._on_disk())
        self.current = ""

    def now(self) -> tuple[float, float]:
        """Seconds of the cores over their number, and of the clock."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter(), time.perf_counter()
        return time.process_time() / CORES, time.perf_counter()

    def peak(self) -> int:
        """Of the device's memory since the stage began, or of the process's."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        status = Path("/proc/self/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])

    def _forget_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def _watch(self) -> None:
        while not self.ended.wait(DISK_EVERY):
            self.most = max(self.most, self._on_disk())

    def _on_disk(self) -> int:
        found = 0
        for folder in self.folders:
            for path in folder.rglob("*"):
                with suppress(OSError):
                    found += path.stat().st_size
        return found


def timed_stages(clock: StageClock, work: Callable[[], object]) -> dict[str, Taken]:
    """`clock.stages` after `work`, which reports to it."""
    clock("start")
    try:
        work()
    finally:
        clock.finish()
        clock.ended.set()
    return clock.stages
