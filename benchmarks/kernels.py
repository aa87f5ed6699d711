"""Speed of the matmul kernels on random weights: `python benchmarks/kernels.py [TYPE …]`.

For every type, with 1 and 2 threads: weights read per second by a one-token
product (and as a share of the read bandwidth measured just before), time of
2, 4 and 8 tokens relative to one, and operations per second of prompt batches.
Enough matrices are used in turn that caches do not hold them. Every figure is
the lower quartile of interleaved repetitions: on a shared machine the median
measures the neighbours, whose load is printed.
"""

import argparse
import ctypes
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from llvmlite import ir

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runtime"))

from csaq_runtime.formats import GGMLType, row_bytes
from csaq_runtime.kernels.activation import packed_activation_bytes
from csaq_runtime.kernels.compile import load_module
from csaq_runtime.kernels.dispatch import KernelEntry, kernel_for
from csaq_runtime.kernels.module import new_function
from csaq_runtime.simd.target import host_target
from csaq_runtime.simd.vector import I32_X16, counted_loop, integer, load, store, variable, zeros
from csaq_runtime.weights import PackedMatrix, pack_matrix

TYPES = ("F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_0", "IQ4_XS", "Q3_K", "Q2_K")
VERIFY_TOKENS = (2, 4, 8)
PROMPT_TOKENS = (128, 512)
TOTAL_BYTES = 160 << 20
N_REPEAT = 15

_matmul_type = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 8)
_quantize_type = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 5)
_read_type = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)


@dataclass(frozen=True)
class Work:
    """Matrices of one type, taken in turn by every product."""

    entry: KernelEntry
    matrices: list[PackedMatrix]

    @property
    def n_byte(self) -> int:
        """Bytes of all matrices."""
        return sum(matrix.data.nbytes for matrix in self.matrices)


def main() -> None:
    """Print one table row per type and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", default=TYPES)
    parser.add_argument("--size", type=int, default=4096, help="rows and columns of a matrix")
    arguments = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, {host_target().cpu}")
    header = "GB/s (of read)   v(2) v(4) v(8)   GOP/s at 128, 512"
    print(f"{'type':8}{'threads':>8}  {header}")
    for name in arguments.types:
        work = make_work(GGMLType[name], arguments.size)
        for n_thread in (1, 2):
            print(f"{name:8}{n_thread:8}  {measure(work, n_thread)}", flush=True)


def make_work(ggml_type: GGMLType, size: int) -> Work:
    """Random matrices of `size` x `size`, `TOTAL_BYTES` together."""
    generator = np.random.default_rng(0)
    width = row_bytes(ggml_type, size)
    count = max(2, TOTAL_BYTES // (size * width))
    # Bytes below 64 are harmless as any part of a block, floats and scales included.
    rows = generator.integers(0, 64, (size, width), dtype=np.uint8)
    return Work(kernel_for(ggml_type), [pack_matrix(rows, ggml_type, size) for _ in range(count)])


def measure(work: Work, n_thread: int) -> str:
    """All figures of one table row."""
    runs = [reader(work), *(products(work, n) for n in (1, *VERIFY_TOKENS))]
    read, one, *few = quartiles(n_thread, runs, N_REPEAT)
    speed, share = work.n_byte / one / 1e9, read / one
    verify = [some / one for some in few]
    prompt = [prompt_speed(work, n_thread, n) for n in PROMPT_TOKENS]
    return (
        f"{speed:6.1f} ({share:4.0%})     "
        + " ".join(f"{ratio:5.2f}" for ratio in verify)
        + "  "
        + " ".join(f"{rate:6.0f}" for rate in prompt)
    )


def prompt_speed(work: Work, n_thread: int, n_token: int) -> float:
    """Multiply-adds counted twice, in 10⁹ per second, of one matrix times `n_token` tokens."""
    few = Work(work.entry, work.matrices[:2])
    n_operation = 2 * n_token * sum(matrix.n_row * matrix.n_col for matrix in few.matrices)
    return n_operation / quartiles(n_thread, [products(few, n_token)], 3)[0] / 1e9


def products(work: Work, n_token: int) -> Callable[[int, int], None]:
    """A function (thread, n_thread) that multiplies this thread's share of all matrices."""
    first = work.matrices[0]
    x = np.random.default_rng(1).standard_normal((n_token, first.n_col)).astype(np.float32)
    packed = np.zeros(
        packed_activation_bytes(work.entry.activation, first.n_col, n_token), np.uint8
    )
    quantize = _quantize_type(work.entry.quantize)
    quantize(x.ctypes.data, x.strides[0], first.n_col, n_token, packed.ctypes.data)
    y = np.zeros((n_token, first.n_row_padded), np.float32)
    multiply = _matmul_type(work.entry.matmul)

    def run(thread: int, n_thread: int) -> None:
        for matrix in work.matrices:
            start = matrix.n_group * thread // n_thread
            stop = matrix.n_group * (thread + 1) // n_thread
            addresses = (matrix.address, packed.ctypes.data, y.ctypes.data)
            multiply(*addresses, y.strides[0], matrix.n_col, n_token, start, stop)

    return run


def reader(work: Work) -> Callable[[int, int], None]:
    """A function (thread, n_thread) that reads this thread's share of all matrices."""
    read = _read_type(load_module("read", host_target(), _read_module)("read"))
    sinks = [np.zeros(16, np.int32) for _ in range(2)]

    def run(thread: int, n_thread: int) -> None:
        for matrix in work.matrices:
            share = matrix.data.nbytes // n_thread // 512 * 512
            read(matrix.address + thread * share, share, sinks[thread].ctypes.data)

    return run


def _read_module() -> ir.Module:
    """`read(address, n_byte, out)`: adds up 512 bytes per step in 8 independent sums."""
    module = ir.Module("read")
    module.triple = host_target().triple
    _, b = new_function(module, "read", 3)
    address, n_byte, out = module.get_global("read").args
    sums = [variable(b, zeros(I32_X16)) for _ in range(8)]
    with counted_loop(b, integer(0), n_byte, 512) as index:
        for number, slot in enumerate(sums):
            vector = load(b, b.add(address, index), I32_X16, 64 * number)
            b.store(b.add(b.load(slot), vector), slot)
    total = b.load(sums[0])
    for slot in sums[1:]:
        total = b.add(total, b.load(slot))
    store(b, total, out)
    b.ret_void()
    return module


def quartiles(n_thread: int, runs: list[Callable[[int, int], None]], n_repeat: int) -> list[float]:
    """Lower quartile of the seconds of each of `runs`, repeated in turn."""
    rounds = [[seconds(n_thread, run) for run in runs] for _ in range(n_repeat)]
    return [statistics.quantiles(times, n=4)[0] for times in zip(*rounds, strict=True)]


def seconds(n_thread: int, run: Callable[[int, int], None]) -> float:
    """Wall time of `run(thread, n_thread)` on `n_thread` threads at once."""
    others = [threading.Thread(target=run, args=(index, n_thread)) for index in range(1, n_thread)]
    start = time.perf_counter()
    for other in others:
        other.start()
    run(0, n_thread)
    for other in others:
        other.join()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
