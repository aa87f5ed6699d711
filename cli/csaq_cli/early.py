"""What `csaq run` does before the imports that take long, so that the first token comes sooner."""

import gc
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager

from csaq_runtime.pages import Pages


@contextmanager
def early_pages(n_byte: int) -> Iterator[Pages]:
    """Memory for a file of `n_byte`, fetched from now on; what is not taken inside goes back.

    Meanwhile nothing is searched for garbage: a vocabulary is hundreds of thousands of objects,
    none of them garbage. NumPy's own threads, which no kernel uses, stay away: they would spin
    on the core that fetches.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.disable()
    try:
        with closing(Pages(n_byte)) as pages:
            yield pages
    finally:
        gc.freeze()  # what has been loaded stays until the end, so nobody need look at it again
        gc.enable()
