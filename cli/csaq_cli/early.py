"""What `csaq run` does before the imports that take long, so that the first token comes sooner."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

from csaq_runtime.pages import Pages

SWITCH_SECONDS = 0.0005
"""A thread that packs weights asks for Python's lock between two kernels; 5 ms is the default."""


@contextmanager
def early_pages(n_byte: int) -> Iterator[Pages]:
    """Memory for a file of `n_byte`, fetched from now on; what is not taken inside goes back.

    Meanwhile nothing is searched for garbage: a vocabulary is hundreds of thousands of objects,
    none of them garbage; and threads take turns soon, so that packing goes on while it is read.
    NumPy's own threads, which no kernel uses, stay away: they would spin on the core that fetches.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.disable()
    kept = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        with closing(Pages(n_byte)) as pages:
            yield pages
    finally:
        sys.setswitchinterval(kept)
        gc.freeze()  # what has been loaded stays until the end, so nobody need look at it again
        gc.enable()
