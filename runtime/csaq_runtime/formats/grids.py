"""The codebooks of the IQ1, IQ2 and IQ3 types, from `iq_grids.txt`.

A stored index selects a vector of 8 (IQ1, IQ2) or 4 (IQ3) levels. The tables are
part of the file format (ggml/src/ggml-common.h: iq1s_grid, iq2xxs_grid, …); the
text file says how it was made. `iq_quants.py` looks the vectors up.
"""

from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray


@cache
def grid(name: str) -> NDArray[np.int8]:
    """Codebook `name` (iq1s, iq2xxs, iq2xs, iq2s, iq3xxs, iq3s) as [n_vector, width], read-only."""
    text = files("csaq_runtime.formats").joinpath("iq_grids.txt").read_text("ascii")
    head, _, digits = text.partition(f"[{name}]\n")[2].partition("[")[0].partition("\n")
    width, *levels = map(int, head.split())
    indices = np.frombuffer("".join(digits.split()).encode(), np.uint8) - ord("0")
    table = np.array(levels, np.int8)[indices].reshape(-1, width)
    table.flags.writeable = False
    return table
