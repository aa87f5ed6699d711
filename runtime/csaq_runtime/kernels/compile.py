"""LLVM module → machine code → callable addresses, with an object cache on disk.

No Numba in here: llvmlite alone optimises, emits an object file and loads it,
so a warm start needs neither a compiler run nor Numba's import. Objects are
kept under `$CSAQ_CACHE_DIR` (default `~/.cache/csaq`), one file per module,
named after a hash of everything that shapes the code: all sources of `simd`
and `kernels`, llvmlite's version and the target. A damaged or foreign file is
rebuilt; an unwritable folder only costs the compilation.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from csaq_runtime.simd.target import Target

_SOURCE_DIGITS = 16
_DIGEST_SIZE = hashlib.sha256().digest_size
_engines: list[Any] = []  # loaded code lives as long as the process: nothing may free it
_lock = Lock()


def load_module(name: str, target: Target, build: Callable[[], Any]) -> Callable[[str], int]:
    """Machine code of a module, from the cache or freshly compiled.

    name: of the cached object; build: makes the llvmlite module if it is not
    cached. Returns a function from entry-point name to address.
    """
    with _lock:
        path = object_path(name, target)
        code = _read(path)
        if code is None:
            code = machine_code(build(), target)
            _write(path, code)
        engine = _load(code, target)
    return lambda entry: int(engine.get_function_address(entry))


def machine_code(module: Any, target: Target) -> bytes:
    """Optimize a module for the target and return its object file."""
    compiled, machine = optimized(module, target)
    return bytes(machine.emit_object(compiled))


def optimized(module: Any, target: Target) -> tuple[Any, Any]:
    """The module after LLVM's passes, and the target machine that emits it."""
    machine = _target_machine(target)
    compiled = llvm.parse_assembly(str(module))
    compiled.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    # The kernels are vectors already; unrolling them only costs compile time and cache.
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(compiled, builder)
    return compiled, machine


def _target_machine(target: Target) -> Any:
    _initialize()
    backend = llvm.Target.from_triple(target.triple)
    features = target.feature_string
    return backend.create_target_machine(
        cpu=target.cpu, features=features, opt=3, reloc="pic", codemodel="jitdefault", jit=True
    )


@cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def _load(code: bytes, target: Target) -> Any:
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine(target))
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return engine


@cache
def source_hash() -> str:
    """Hash of every source file that shapes machine code."""
    digest = hashlib.sha256()
    package = Path(__file__).parent.parent
    for path in sorted([*package.glob("simd/*.py"), *package.glob("kernels/*.py")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


# Now, not at first use: a package upgraded under a running program must not make this one's
# records meet the new one's machine code.
source_hash()


def object_path(name: str, target: Target) -> Path:
    """Where the cache keeps a module's object: name, hash of the sources, hash of the target."""
    parts = (llvmlite.__version__, target.triple, target.cpu, target.feature_string)
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return cache_folder() / f"{name}-{source_hash()[:_SOURCE_DIGITS]}-{key}.o"


def delete_outdated() -> int:
    """Delete the objects that other versions of the sources left; returns how many.

    Harmless while such a version runs: its code is in memory, and it would only compile again.
    """
    current, n = source_hash()[:_SOURCE_DIGITS], 0
    for path in cache_folder().glob("*.o"):
        if path.stem.split("-")[-2:-1] != [current]:
            with suppress(OSError):
                path.unlink()
                n += 1
    return n


def cache_folder() -> Path:
    """Where objects are kept."""
    chosen = os.environ.get("CSAQ_CACHE_DIR")
    if chosen:
        return Path(chosen) / "kernels"
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "csaq" / "kernels"


def _read(path: Path) -> bytes | None:
    """The cached object, or None if it is missing, damaged or could be someone else's."""
    try:
        status = path.stat()
        if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
            return None
        data = path.read_bytes()
    except OSError:
        return None
    digest, code = data[:_DIGEST_SIZE], data[_DIGEST_SIZE:]
    return code if hashlib.sha256(code).digest() == digest else None


def _write(path: Path, code: bytes) -> None:
    """Store an object under its final name at once, or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial.write_bytes(hashlib.sha256(code).digest() + code)
        partial.chmod(0o600)
        os.replace(partial, path)
    except OSError:
        # A read-only or full disk only means compiling again next time.
        with suppress(OSError):
            partial.unlink()
