"""Mutants of a small model, opened and run for one token: `run_mutants.py SEED COUNT`.

Runs alone in a process, as a mistake would end it: memory that kernels see ends at a page that
nobody may touch, so reading or writing one cache line too far is a crash. With
NUMBA_BOUNDSCHECK=1 the step checks its own arrays too. Prints one JSON object of counts.
"""

import ctypes
import json
import mmap
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from csaq_runtime import buffers, cache, model, rope, step, table, threads, weights
from csaq_runtime.engine import Engine
from csaq_runtime.errors import CsaqError
from csaq_runtime.prompt import chat_ids, conversation
from tests.malformed.mutate import mutant
from tests.malformed.small_model import MODEL, N_HEAD

PROT_NONE = 0


def guarded(shape: Any, dtype: Any = float) -> Any:
    """Zeros whose end, but for what a cache line rounds, is the end of readable memory."""
    n_byte = int(np.prod(shape)) * np.dtype(dtype).itemsize
    whole = -(-n_byte // 64) * 64
    n_page = -(-max(whole, 1) // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (n_page + 1) * mmap.PAGESIZE)
    everything = np.frombuffer(memory, np.uint8)
    end = everything.ctypes.data + n_page * mmap.PAGESIZE
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    assert protect(ctypes.c_void_p(end), mmap.PAGESIZE, PROT_NONE) == 0
    start = n_page * mmap.PAGESIZE - whole
    return everything[start : start + n_byte].view(dtype).reshape(shape)


def guarded_pad(array: Any, widths: Any) -> Any:
    padded = np.pad(array, widths)
    copy = guarded(padded.shape, padded.dtype)
    copy[...] = padded
    return copy


def guarded_bytes(n_byte: int) -> Any:
    return guarded(-(-n_byte // 64) * 64, np.uint8)


def guard(modules: list[ModuleType]) -> None:
    """Let `modules` allocate what kernels read and write by `guarded`."""
    own = {"zeros": guarded, "empty": guarded, "pad": guarded_pad}
    numpy = SimpleNamespace(**(vars(np) | own))
    for module in modules:
        module.np = numpy  # type: ignore[attr-defined]
    for module in (buffers, step, threads):
        module.aligned_bytes = guarded_bytes  # type: ignore[attr-defined]
    weights._aligned = guarded_bytes


def run(path: Path) -> None:
    with Engine.open(path, n_ctx=8, n_batch=1, n_threads=1) as engine:
        engine.logits([engine.hparams.n_vocab - 1])
        vocabulary = engine.vocabulary
        ids = vocabulary.encode("ab c<|im_end|>") + chat_ids(vocabulary, conversation("", "a b"))
        vocabulary.decode(ids)


def main(seed: int, count: int) -> None:
    guard([cache, model, rope, step, table])
    sound, chance, counts = MODEL.build(), random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.gguf"
        path.write_bytes(sound)
        run(path)
        for _ in range(count):
            content = mutant(sound, N_HEAD, chance)
            with path.open("r+b") as file:
                file.write(content)
                file.truncate()
            try:
                run(path)
                counts["ran"] += 1
            except CsaqError as error:
                one_line = "\n" not in str(error)
                counts[type(error).__name__ if one_line else "several lines"] += 1
    print(json.dumps(counts))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
