"""Quantize with llama.cpp's own `ggml_quantize_chunk`, in a process of its own.

Run as a script: `python ggml_reference.py IN.npz OUT.npz`. IN holds `weight` [n_row, n_col],
`importance` [n_col], and names of types in `plain` and `weighted`; OUT gets packed rows under
"plain NAME" and "weighted NAME". ggml ends the process on what it dislikes, hence a process.
"""

import ctypes
import importlib.util
import sys
from collections.abc import Callable

import numpy as np

from csaq_runtime.formats import GGMLType, row_bytes


def quantizer() -> Callable[[np.ndarray, str, int | None], np.ndarray]:
    """`ggml_quantize_chunk` as a function of weights, type name and importance address."""
    spec = importlib.util.find_spec("xllamacpp.xllamacpp")
    function = ctypes.CDLL(spec.origin).ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]

    def quantize(weight: np.ndarray, name: str, imatrix: int | None) -> np.ndarray:
        n_row, n_col = weight.shape
        ggml_type = GGMLType[name]
        out = np.zeros((n_row, row_bytes(ggml_type, n_col)), np.uint8)
        source, target = weight.ctypes.data, out.ctypes.data
        function(int(ggml_type), source, target, 0, n_row, n_col, imatrix)
        return out

    return quantize


def main(source: str, target: str) -> None:
    """Read the request, write one array of packed rows per type and kind."""
    quantize = quantizer()
    request = np.load(source)
    weight = np.ascontiguousarray(request["weight"], np.float32)
    importance = np.ascontiguousarray(request["importance"], np.float32)
    packed = {f"plain {name}": quantize(weight, name, None) for name in request["plain"]}
    for name in request["weighted"]:
        packed[f"weighted {name}"] = quantize(weight, name, importance.ctypes.data)
    np.savez(target, **packed)


if __name__ == "__main__":
    main(*sys.argv[1:])
