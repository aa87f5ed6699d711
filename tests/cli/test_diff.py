"""`csaq diff` says what changed between two GGUFs, for people and for scripts."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from csaq_cli.comparison import compare_files
from csaq_export.pipeline import Conversion, convert
from csaq_runtime.formats import dequantize
from csaq_runtime.gguf import open_gguf

DEMO = Path(__file__).resolve().parents[2] / "demo" / "model"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The demo model as F32, and as Q8_0 made from that."""
    folder = tmp_path_factory.mktemp("diff")
    for kind, source in (("F32", DEMO), ("Q8_0", folder / "F32.gguf")):
        convert(Conversion(str(source), folder / f"{kind}.gguf", kind))
    return folder / "F32.gguf", folder / "Q8_0.gguf"


def write(path, tensors, **keys):
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in keys.items():
        writer.add_string(key, value)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_file_is_identical_to_itself(csaq, files):
    done = csaq("diff", files[0], files[0], "--json")
    found = json.loads(done.stdout)
    assert found["identical"]
    assert found["n_same"] > 50
    assert not found["changed"]


def test_error_of_every_tensor_is_that_of_its_dequantized_weights(csaq, files):
    found = json.loads(csaq("diff", *files, "--json").stdout)
    assert not found["identical"]
    assert {c["b_type"] for c in found["changed"]} == {"Q8_0"}
    with open_gguf(files[0]) as a, open_gguf(files[1]) as b:
        for change in found["changed"]:
            name = change["name"]
            one = a.float32(name).astype(np.float64)
            other = dequantize(b.data(name), b.tensors[name].type).astype(np.float64)
            expected = np.sqrt(np.square(one - other).sum() / np.square(one).sum())
            assert change["error"] == pytest.approx(expected, rel=1e-9)
            assert 0.001 < change["error"] < 0.02


def test_table_names_keys_types_and_totals(csaq, files):
    text = csaq("diff", *files).stdout
    for part in ("general.file_type", "blk.0.ffn_down.weight", "F32", "Q8_0", "MiB", "%"):
        assert part in text


def test_missing_added_reshaped_and_changed_parts_are_told_apart(tmp_path):
    shared = np.arange(8, dtype=np.float32)
    one = {"same": shared, "gone": shared, "reshaped": shared, "moved": shared}
    other = {"same": shared, "new": shared, "reshaped": shared.reshape(2, 4), "moved": -shared}
    a = write(tmp_path / "a.gguf", one, note="old", lost="x")
    b = write(tmp_path / "b.gguf", other, note="new")
    with open_gguf(a) as first, open_gguf(b) as second:
        found = compare_files(first, second)
    assert (found.only_a, found.only_b, found.n_same) == (["gone"], ["new"], 1)
    assert {c.name: c.error for c in found.changed} == {"reshaped": None, "moved": 2.0}
    assert {c.key: (c.a, c.b) for c in found.keys} == {"note": ("old", "new"), "lost": ("x", None)}


def test_malformed_file_is_one_line_and_exit_3(csaq, files, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(files[1].read_bytes()[:5000])
    for pair in ((cut, files[0]), (files[0], cut)):
        done = csaq("diff", *pair)
        assert done.returncode == 3
        assert done.stderr.startswith(f"csaq: {cut}: ")
