"""llama.cpp's programs → the files that ours are compared with, and what they cost to make."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PLAIN, GUIDED = "llama-quantize", "llama-quantize + imatrix"
# Presets that llama-quantize refuses to make without an imatrix.
NEEDS_IMATRIX = ("IQ1", "IQ2", "IQ3_XXS", "Q2_K_S")


@dataclass(frozen=True)
class Made:
    """A file, who made it for which preset, and at what cost (peak resident memory)."""

    preset: str
    maker: str
    path: Path
    seconds: float
    peak_mib: float


def run(*command: object) -> tuple[float, float]:
    """Run quietly; seconds and peak MiB. Stops with the program's output if it fails."""
    began = time.monotonic()
    with subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as child:
        assert child.stderr is not None
        said = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{command[0]} failed:\n{said[-2000:].decode()}")
    return time.monotonic() - began, usage.ru_maxrss / 2**10


def make_imatrix(tools: Path, base: Path, calib: Path, out: Path, n_ctx: int, n: int) -> Made:
    """Run llama-imatrix over the first `n` windows of the calibration text."""
    shape = ("-c", n_ctx, "--chunks", n, "-ngl", 0, "-t", os.cpu_count())
    return Made(
        "", "llama-imatrix", out, *run(tools / "llama-imatrix", "-m", base, "-f", calib,
                                       "-o", out, *shape)
    )  # fmt: skip


def quantized(tools: Path, base: Path, imatrix: Path | None, preset: str, folder: Path) -> Made:
    """Run llama-quantize."""
    maker = PLAIN if imatrix is None else GUIDED
    out = folder / f"{preset}-{'plain' if imatrix is None else 'imatrix'}.gguf"
    guide = [] if imatrix is None else ["--imatrix", imatrix]
    return Made(
        preset,
        maker,
        out,
        *run(tools / "llama-quantize", *guide, base, out, preset, os.cpu_count()),
    )


def needs_imatrix(preset: str) -> bool:
    """Whether llama-quantize makes `preset` only with an imatrix."""
    return preset.startswith(NEEDS_IMATRIX)
