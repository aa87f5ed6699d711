"""safetensors headers: sound ones are read as the library reads them, hostile ones refused."""

import json
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from csaq_export.safetensors_file import read_tensors
from csaq_runtime.errors import ModelError


def write(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(start: int, end: int, shape: object = (2,), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_rows_are_those_the_library_wrote(tmp_path):
    tensors = {
        "a": torch.randn(5, 8),
        "b": torch.randn(7, 4).bfloat16(),
        "c": torch.arange(3).half(),
    }
    save_file(tensors, tmp_path / "m.safetensors", {"format": "pt"})
    stored = read_tensors(tmp_path / "m.safetensors")
    assert stored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        expected = tensor.view(torch.uint8).reshape(tensor.shape[0], -1).numpy()
        assert stored[name].shape == tuple(tensor.shape)
        assert np.array_equal(stored[name].read(1, 3), expected[1:3])


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ([1], b"", "not a JSON object"),
        (b"{", b"", "not JSON"),
        (b'{"a":1,"a":1}', b"", "twice"),
        ({"a": 3}, b"", "a: entry is not an object"),
        ({"a": entry(0, 8, dtype="F33")}, bytes(8), "a: unknown dtype 'F33'"),
        ({"a": entry(0, 8, dtype=3)}, bytes(8), "a: unknown dtype 3"),
        ({"a": entry(0, 8, shape=[-2])}, bytes(8), "a: shape"),
        ({"a": entry(0, 8, shape=[True, 2])}, bytes(8), "a: shape"),
        ({"a": entry(0, 8, shape="2")}, bytes(8), "a: shape"),
        ({"a": entry(0, 8, shape=[1 << 62, 4])}, bytes(8), "a: shape"),
        ({"a": entry(0, 8, shape=[3])}, bytes(8), "a: 8 bytes do not fit"),
        ({"a": entry(0, 16, shape=[4])}, bytes(8), "a: data_offsets"),
        ({"a": entry(8, 0)}, bytes(8), "a: data_offsets"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12), "b: overlaps"),
        ({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20), "b: leaves a gap"),
        ({"a": entry(0, 8)}, bytes(12), "4 bytes after the last tensor"),
    ],
)
def test_hostile_header_is_refused_by_name(tmp_path, header, data, message):
    with pytest.raises(ModelError, match=message):
        read_tensors(write(tmp_path / "m.safetensors", header, data))


@pytest.mark.parametrize("length", [1 << 63, 200_000_000, 5])
def test_header_length_is_not_believed(tmp_path, length):
    with pytest.raises(ModelError):
        read_tensors(write(tmp_path / "m.safetensors", {"a": entry(0, 8)}, bytes(8), length))


def test_deeply_nested_header_is_refused(tmp_path):
    with pytest.raises(ModelError):
        read_tensors(write(tmp_path / "m.safetensors", b"[" * 100_000))


def test_file_that_shrinks_while_read_is_noticed(tmp_path):
    path = write(tmp_path / "m.safetensors", {"a": entry(0, 8)}, bytes(8))
    stored = read_tensors(path)["a"]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ModelError, match="a: the file ended early"):
        stored.read(0, 2)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 120), value=st.integers(0, 255), cut=st.integers(0, 140))
def test_damaged_file_is_read_or_refused_but_never_crashes(tmp_path, position, value, cut):
    path = write(tmp_path / "m.safetensors", {"a": entry(0, 8), "b": entry(8, 16)}, bytes(16))
    content = bytearray(path.read_bytes())
    content[min(position, len(content) - 1)] = value
    path.write_bytes(content[: max(cut, 20)] if cut < 130 else content)
    with suppress(ModelError):
        stored = read_tensors(path)
        assert all(t.offset + t.n_bytes <= path.stat().st_size for t in stored.values())
