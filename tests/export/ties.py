"""Codes on a rounding boundary: the kernels' sums in another order may put them on its other side.

One code that differs moves the logits by about a step of one input, far more than float32 sums
do, and all later codes with it. So a text is read token by token: where the logits differ, those
codes of the token that lie within `TIES` of a boundary are tried the other way, until they agree.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SCALE = "scale"
"""Kind of a block's scale, which has a boundary of its own: it is rounded to float16."""
TIES = {"block_32": 3e-4, "block_256": 3e-4, "float16": 1e-3, SCALE: 1e-3}
"""Of a code's step, how far from a boundary sums in float32 may err; steps of float16 are finer."""
CLOSE = 1e-5
"""Of the logits' spread: what they may differ by without a search."""
MAX_RUNS = 200
"""Passes per token before the search gives up."""

Place = tuple[int, str, int, int]
"""Number of the input within a pass, kind of activations, token, column."""
Logits = NDArray[np.floating]


@dataclass
class Rounding:
    """Codes of a pass over one text: the nearest, at `flipped` places the next nearest.

    `near` collects the places close to a boundary. Matrices that read the same tensor share its
    codes, as in the runtime.
    """

    flipped: frozenset[Place] = frozenset()
    near: list[Place] = field(default_factory=list)
    _last: Tensor | None = None
    _number: int = 0

    def begin(self, flipped: Iterable[Place]) -> None:
        """Forget the last pass."""
        self.flipped, self.near, self._last, self._number = frozenset(flipped), [], None, 0

    def codes(self, exact: Tensor, kind: str, used: Tensor, source: Tensor) -> Tensor:
        """Integers near `exact` [..., n_token, n_col], the input `source` in steps of its codes.

        Columns that are not `used` (bool [n_col]) may fall either way unseen.
        """
        if source is not self._last:
            self._last, self._number = source, self._number + 1
        codes = exact.round()
        rows, flat = exact.flatten(0, -2), codes.flatten(0, -2)
        close = ((rows - rows.floor() - 0.5).abs() < TIES[kind]) & used
        for token, column in close.nonzero().tolist():
            place = (self._number, kind, token, column)
            if place not in self.near:
                self.near.append(place)
            if place in self.flipped:
                flat[token, column] += 1 if rows[token, column] > flat[token, column] else -1
        return flat.view_as(codes)


Run = Callable[[list[int], Iterable[Place]], tuple[Logits, list[Place]]]
"""Ids and places to flip → float [n_token, n_vocab] and the places near a boundary."""


def pass_of(model: nn.Module, rounding: Rounding) -> Run:
    """Passes of a model whose layers round by `rounding`."""

    def run(ids: list[int], flipped: Iterable[Place]) -> tuple[Logits, list[Place]]:
        rounding.begin(flipped)
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0].numpy(), rounding.near

    return run


def settled(run: Run, ids: list[int], found: Logits) -> tuple[float, list[Place]]:
    """The largest difference of a text's logits from `found`, of their spread, and the flips.

    float32 [n_token, n_vocab]. Later tokens see the codes that earlier ones were settled with.
    """
    spread, flips, worst = np.ptp(found), list[Place](), 0.0
    difference = float(np.abs(run(ids, ())[0] - found).max() / spread)
    if difference < CLOSE:
        return difference, flips
    for token in range(len(ids)):

        def off(tried: list[Place], token: int = token) -> tuple[float, list[Place]]:
            logits, near = run(ids[: token + 1], tried)
            difference = float(np.abs(logits[-1] - found[token]).max() / spread)
            return difference, [place for place in near if place[2] == token]

        difference, flips = _fewest(off, flips)
        worst = max(worst, difference)
    return worst, flips


def _fewest(
    off: Callable[[list[Place]], tuple[float, list[Place]]], flips: list[Place]
) -> tuple[float, list[Place]]:
    """Breadth first: the fewest further flips with `off` below `CLOSE`, else the best found."""
    queue, best = [flips], (math.inf, flips)
    for tried in queue:
        difference, near = off(tried)
        best = min(best, (difference, tried))
        if difference < CLOSE:
            break
        more = [[*tried, place] for place in near if place not in tried]
        queue += more[: MAX_RUNS - len(queue)]
    return best
