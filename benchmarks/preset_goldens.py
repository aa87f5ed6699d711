"""Write tests/export/preset_types.json: what llama-quantize makes of each tensor, per preset.

    python -m benchmarks.preset_goldens --llama-quantize LLAMA.CPP/build/bin/llama-quantize

Asks the peer's `--dry-run` about hollow GGUF files of many shapes (the file's data is a
hole, no weight is ever read), without and with an importance matrix.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import gguf
import numpy as np

from csaq_export.presets import PRESETS
from csaq_export.type_choice import Shape
from tests.export.bodies import BODIES, body_metadata, body_shapes, runs

OUT = Path(__file__).resolve().parents[1] / "tests" / "export" / "preset_types.json"
LINE = re.compile(r"\] +(\S+) +- \[[^]]*\], type = +(\S+), size = .*?(?:\((\w+)\))?$")


def write_hollow(path: Path, name: str) -> list[Shape]:
    """A GGUF of `name`'s shapes in F16 (vectors F32) whose data is a hole; returns the shapes."""
    architecture, shapes = BODIES[name].architecture, body_shapes(BODIES[name])
    writer = gguf.GGUFWriter(path, architecture)
    writer.kv_data[0].update(body_metadata(BODIES[name]))
    n_bytes = 0
    for shape in shapes:
        kind = gguf.GGMLQuantizationType.F16 if len(shape.shape) > 1 else 0
        size = int(np.prod(shape.shape)) * (2 if len(shape.shape) > 1 else 4)
        kind = gguf.GGMLQuantizationType(kind)
        writer.add_tensor_info(shape.name, shape.shape, np.dtype(np.float32), size, kind)
        n_bytes += -(-size // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("ab") as file:
        file.truncate(-(-path.stat().st_size // 32) * 32 + n_bytes)
    return shapes


def write_imatrix(path: Path, shapes: Iterable[Shape]) -> None:
    """An imatrix of ones for every matrix inside the layers."""
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["none"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    for shape in shapes:
        if len(shape.shape) > 1:
            values = np.ones((1, shape.shape[-1]), np.float32)
            writer.add_tensor(f"{shape.name}.in_sum2", values)
            writer.add_tensor(f"{shape.name}.counts", np.ones((1, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ask(program: Path, source: Path, preset: str, imatrix: Path | None) -> dict[str, str]:
    """Type of every tensor as the peer would write it."""
    extra = ["--imatrix", str(imatrix)] if imatrix else []
    command = [str(program), "--dry-run", *extra, str(source), preset]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{source.name} {preset}: {(done.stdout + done.stderr)[-1500:]}")
    found = [LINE.search(line) for line in (done.stdout + done.stderr).splitlines()]
    return {m[1]: (m[3] or m[2]).upper() for m in found if m}


def main() -> None:
    """Ask about every body, preset and importance, and write the answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama-quantize", type=Path, required=True)
    program = parser.parse_args().llama_quantize
    answers: dict[str, dict[str, dict[str, str]]] = {}
    with tempfile.TemporaryDirectory() as work:
        for name in BODIES:
            source, imatrix = Path(work, "hollow.gguf"), Path(work, "imatrix.gguf")
            write_imatrix(imatrix, write_hollow(source, name))
            for preset in PRESETS:
                for suffix, extra in (("", None), (" +imatrix", imatrix)):
                    types = ask(program, source, preset, extra)
                    answers.setdefault(name, {})[preset + suffix] = runs(types)
    OUT.write_text(json.dumps(answers, indent=0, ensure_ascii=False, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
