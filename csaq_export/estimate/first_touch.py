"""Memory that no stage had before → the seconds until the machine has given it.

Trials use the same memory again and again; a stage that needs more than those before it takes
new pages. An ordinary machine clears them at 3 GiB/s and more. A virtual one whose host has
taken free memory back asks for it page by page: .6 s per GiB were measured for the first half,
2 s for two. The trial takes tensors, as stages do: NumPy would ask for pages of 2 MiB, 3 s per GiB.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

import torch

from csaq_export.estimate.stage import Stage
from csaq_export.footprint import PROCESS_BYTES

# Pieces are touched until there are so many bytes, and held until the last.
PIECE, MOST = 64 << 20, 512 << 20
PAGE = 4096


def with_first_touch(stages: Sequence[Stage], device: torch.device) -> tuple[Stage, ...]:
    """The stages with these seconds; files count, as they go through the system's cache."""
    had, new = PROCESS_BYTES["cpu"], list[int]()
    for stage in stages:
        new.append(max(0, _in_ram(stage, device) - had))
        had += new[-1]
    rate = touch_rate(sum(new))
    pairs = zip(stages, new, strict=True)
    return tuple(replace(stage, seconds=stage.seconds + n * rate) for stage, n in pairs)


def _in_ram(stage: Stage, device: torch.device) -> int:
    memory = stage.memory if device.type == "cpu" else PROCESS_BYTES["cpu"]
    return memory + stage.disk


def touch_rate(n_byte: int) -> float:
    """Seconds per byte of new memory, tried on no more than `n_byte`; 0 below a piece.

    The later half counts, as the first pieces may be pages that were freed a moment ago.
    """
    pieces, seconds = [], []
    for _ in range(min(n_byte, MOST) // PIECE):
        start = time.perf_counter()
        pieces.append(torch.empty(PIECE, dtype=torch.uint8))
        pieces[-1][::PAGE] = 1
        seconds.append(time.perf_counter() - start)
    later = seconds[len(seconds) // 2 :]
    return mean(later) / PIECE if later else 0.0
