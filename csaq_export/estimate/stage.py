"""One stage of a conversion and what it is expected to take."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """`seconds` on this machine when nothing else runs; `memory` at its worst moment, in bytes.

    `memory` is the device's on CUDA, else the process's; `disk` are bytes of the work dir or
    the output that the stage needs at most.
    """

    name: str
    seconds: float
    memory: int
    disk: int


@dataclass(frozen=True)
class Estimate:
    """The stages in order; `device` as torch names it."""

    device: str
    stages: tuple[Stage, ...]

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def memory(self) -> int:
        """Of the stage that needs most."""
        return max(stage.memory for stage in self.stages)

    @property
    def disk(self) -> int:
        """Of the stage that needs most: work dir and output lie side by side."""
        return max(stage.disk for stage in self.stages)
