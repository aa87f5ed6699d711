"""Kernels for the object cache, compiled by several processes at once.

One process compiles one module at a time, because llvmlite locks LLVM; so a cold start hands the
modules that a model needs to processes of their own: `python -m csaq_runtime.warmup NAME`.
"""

import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import chain
from pathlib import Path

from csaq_runtime.formats import GGMLType
from csaq_runtime.kernels.activation import Activation
from csaq_runtime.kernels.compile import object_path
from csaq_runtime.kernels.dispatch import (
    ACTIVATION_NAME,
    MATRIX_TYPES,
    PLANE_FORMATS,
    kernel_on,
    quantize_address,
    weight_format,
)
from csaq_runtime.kernels.native_step import native_attention, native_serve, step_names
from csaq_runtime.kernels.tile import WeightFormat
from csaq_runtime.simd.target import host_target
from csaq_runtime.threads import Serve, available_cores

Progress = Callable[[int, int], None]
"""Called with (modules compiled, modules in all)."""


def needed_modules(types: Iterable[GGMLType], planes: bool = False) -> list[str]:
    """Names of the modules that a model with matrices of `types` runs on, longest first.

    planes: those of two planes are stored so.
    """
    formats = [
        fmt
        for kind in types
        for fmt in (PLANE_FORMATS.get(kind, ()) if planes else ()) or (weight_format(kind),)
    ]
    return [*step_names(), *sorted({fmt.name for fmt in formats}), ACTIVATION_NAME]


def all_modules() -> list[str]:
    """Names of all modules."""
    names = [*needed_modules(MATRIX_TYPES), *needed_modules(PLANE_FORMATS, planes=True)]
    return list(dict.fromkeys(names))


def missing_modules(names: Iterable[str]) -> list[str]:
    """Those that the cache does not hold for this processor."""
    return [name for name in names if not object_path(name, host_target()).exists()]


def compile_modules(names: list[str], progress: Progress | None = None) -> None:
    """Compile modules into the cache, as many at once as there are cores.

    A process that fails leaves its module out: whoever needs it compiles it for himself.
    """
    with ThreadPoolExecutor(available_cores()) as pool:
        futures = [pool.submit(_compile_apart, name) for name in names]
        for n_done, _ in enumerate(as_completed(futures), 1):
            if progress is not None:
                progress(n_done, len(names))


def compiled_step() -> Serve:
    """The step as a callable; what is missing of it is compiled first, in processes of its own."""
    compile_modules(missing_modules(step_names()))
    return native_serve()


def _compile_apart(name: str) -> None:
    import subprocess

    package = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, *sys.path])}
    # LLVM's passes run in `machine_code`, over the whole module; Numba's, over each part, only
    # double the time.
    environment["NUMBA_OPT"] = "0"
    command = [sys.executable, "-m", "csaq_runtime.warmup", name]
    subprocess.run(command, env=environment, check=False, capture_output=True)


def _compile_here(name: str) -> None:
    """Load a module, which compiles it if the cache does not hold it."""
    step, attention = step_names()
    if name == step:
        native_serve()
    elif name == attention:
        native_attention()
    elif name == ACTIVATION_NAME:
        quantize_address(Activation.FLOAT32)
    else:
        kernel_on(_format_named(name), host_target())


def _format_named(name: str) -> WeightFormat:
    whole = map(weight_format, sorted(MATRIX_TYPES))
    return next(fmt for fmt in (*whole, *chain(*PLANE_FORMATS.values())) if fmt.name == name)


if __name__ == "__main__":
    _compile_here(sys.argv[1])
