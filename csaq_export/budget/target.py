"""What the user wants as size → bytes of the file."""

import re
from dataclasses import dataclass

from csaq_runtime.errors import UsageError

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


@dataclass(frozen=True)
class Target:
    """Exactly one is given: `bpw` bits of the file per weight, `size` in bytes, `like` a preset."""

    bpw: float | None = None
    size: int | None = None
    like: str | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.bpw, self.size, self.like)) != 1:
            raise UsageError("give one of --bpw, --size and --like")
        if self.bpw is not None and not 0 < self.bpw < 64:
            raise UsageError(f"--bpw {self.bpw}: not a number of bits per weight")


def parse_size(text: str) -> int:
    """Bytes of "3.2GiB", "800M", "1500000"; UsageError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?I?)B?", text.strip().upper())
    if match is None or match[2] not in UNITS:
        raise UsageError(f"{text!r} is not a size", "write it like 3.2GiB or 800MB")
    return int(float(match[1]) * UNITS[match[2]])
