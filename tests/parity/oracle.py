"""llama.cpp as a test oracle: the C API of the pinned `xllamacpp` wheel, one process per call.

The functions below start this file as a script, because a failed assertion inside
ggml ends the whole process. Layouts of the parameter structures are those of
include/llama.h in the pinned version. The KV cache is F32 and flash attention off,
else llama.cpp's own rounding (1.4e-2) hides what is compared. The wheel leaves
llama-quantize's part of the library out.
"""

import ctypes
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TIMEOUT_SECONDS = 300


class OracleError(Exception):
    """llama.cpp refused or died; the text is the end of what it printed."""


def logits(
    path: Path, *sequences: Sequence[int], adapter: Path | None = None
) -> NDArray[np.float32]:
    """Logits of every position of each sequence, each from an empty cache: float32 [n, n_vocab].

    `adapter`: a LoRA that is added in full.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "logits.npy")
        rows = [[int(i) for i in ids] for ids in sequences]
        lora = None if adapter is None else str(adapter)
        _call("logits", path=str(path), sequences=rows, out=str(out), adapter=lora)
        return np.asarray(np.load(out), np.float32)


def tokenize(path: Path, texts: Sequence[str], parse_special: bool = True) -> list[list[int]]:
    """Token ids of each text, with the special tokens the file asks to add."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "ids.json")
        _call("tokenize", path=str(path), texts=list(texts), special=parse_special, out=str(out))
        ids: list[list[int]] = json.loads(out.read_text())
        return ids


def _call(action: str, **arguments: object) -> None:
    request = json.dumps({"action": action, **arguments})
    done = subprocess.run(
        [sys.executable, __file__], input=request, capture_output=True, text=True,
        timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode:
        raise OracleError(f"{action}: exit {done.returncode}: {done.stderr[-2000:]}")


# What follows runs in the child process only.


class _Params(ctypes.Structure):
    """Model or context parameters; structures over 16 bytes travel in memory on x86-64."""

    _fields_ = (("word", ctypes.c_uint32 * 256),)


class _Batch(ctypes.Structure):
    _fields_ = (
        ("n_token", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


# Positions of 32-bit words inside llama_context_params and llama_model_params.
_N_CTX, _N_BATCH, _N_UBATCH, _N_THREADS, _N_THREADS_BATCH = 0, 1, 2, 7, 8
_FLASH_ATTN, _TYPE_K, _TYPE_V = 13, 26, 27
_VOCAB_ONLY = 18  # lowest byte

_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "model_default_params": (_Params, []),
    "context_default_params": (_Params, []),
    "model_load_from_file": (ctypes.c_void_p, [ctypes.c_char_p, _Params]),
    "init_from_model": (ctypes.c_void_p, [ctypes.c_void_p, _Params]),
    "adapter_lora_init": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]),
    "set_adapters_lora": (
        ctypes.c_int32,
        [
            ctypes.c_void_p,
            ctypes.POINTER(ctypes.c_void_p),
            ctypes.c_size_t,
            ctypes.POINTER(ctypes.c_float),
        ],
    ),
    "batch_init": (_Batch, [ctypes.c_int32] * 3),
    "decode": (ctypes.c_int32, [ctypes.c_void_p, _Batch]),
    "get_memory": (ctypes.c_void_p, [ctypes.c_void_p]),
    "memory_clear": (None, [ctypes.c_void_p, ctypes.c_bool]),
    "get_logits": (ctypes.POINTER(ctypes.c_float), [ctypes.c_void_p]),
    "model_get_vocab": (ctypes.c_void_p, [ctypes.c_void_p]),
    "vocab_n_tokens": (ctypes.c_int32, [ctypes.c_void_p]),
    "tokenize": (
        ctypes.c_int32,
        [
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_int32,
            ctypes.POINTER(ctypes.c_int32),
            ctypes.c_int32,
            ctypes.c_bool,
            ctypes.c_bool,
        ],
    ),
}


def _library() -> ctypes.CDLL:
    found = importlib.util.find_spec("xllamacpp.xllamacpp")
    if found is None or found.origin is None:
        raise OracleError("the pinned xllamacpp wheel is not installed")
    library = ctypes.CDLL(found.origin)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, f"llama_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def _load(library: ctypes.CDLL, path: str, vocab_only: bool = False) -> int:
    params = library.llama_model_default_params()
    params.word[_VOCAB_ONLY] |= vocab_only
    model = library.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise OracleError(f"{path} does not load")
    return int(model)


def _context(library: ctypes.CDLL, model: int, n_token: int) -> int:
    params = library.llama_context_default_params()
    for word in (_N_CTX, _N_BATCH, _N_UBATCH):
        params.word[word] = n_token
    # One: on a busy machine ggml's threads spend their time waiting for each other.
    params.word[_N_THREADS] = params.word[_N_THREADS_BATCH] = 1
    params.word[_FLASH_ATTN] = params.word[_TYPE_K] = params.word[_TYPE_V] = 0
    return int(library.llama_init_from_model(model, params))


def _batch(library: ctypes.CDLL, ids: Sequence[int]) -> _Batch:
    batch: _Batch = library.llama_batch_init(len(ids), 0, 1)
    batch.n_token = len(ids)
    for i, token_id in enumerate(ids):
        batch.token[i], batch.pos[i] = token_id, i
        batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, 1
    return batch


def _add_lora(library: ctypes.CDLL, model: int, context: int, path: str) -> None:
    adapter = library.llama_adapter_lora_init(model, path.encode())
    if not adapter:
        raise OracleError(f"{path} does not load")
    one = ctypes.c_float(1.0)
    if library.llama_set_adapters_lora(
        context, ctypes.byref(ctypes.c_void_p(adapter)), 1, ctypes.byref(one)
    ):
        raise OracleError(f"{path} is refused")


def _child_logits(
    path: str, sequences: list[list[int]], out: str, adapter: str | None = None
) -> None:
    library = _library()
    model = _load(library, path)
    n_vocab = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model))
    context = _context(library, model, max(len(ids) for ids in sequences))
    if adapter is not None:
        _add_lora(library, model, context, adapter)
    tables = []
    for ids in sequences:
        library.llama_memory_clear(library.llama_get_memory(context), True)
        if library.llama_decode(context, _batch(library, ids)):
            raise OracleError("llama_decode failed")
        table = np.ctypeslib.as_array(library.llama_get_logits(context), (len(ids), n_vocab))
        tables.append(table.copy())
    np.save(out, np.concatenate(tables))


def _child_tokenize(path: str, texts: list[str], special: bool, out: str) -> None:
    library = _library()
    vocabulary = library.llama_model_get_vocab(_load(library, path, vocab_only=True))
    rows = []
    for text in (t.encode() for t in texts):
        buffer = (ctypes.c_int32 * (len(text) + 16))()
        n = library.llama_tokenize(vocabulary, text, len(text), buffer, len(buffer), True, special)
        rows.append(list(buffer[:n]))
    Path(out).write_text(json.dumps(rows))


def main() -> None:
    """Serve one request read from stdin; the exit code tells whether it worked."""
    actions: dict[str, Callable[..., None]] = {"logits": _child_logits, "tokenize": _child_tokenize}
    request = json.load(sys.stdin)
    actions[request.pop("action")](**request)


if __name__ == "__main__":
    main()
