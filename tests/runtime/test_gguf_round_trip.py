"""Property: what gguf-py's GGUFWriter writes, open_gguf reads back equal."""

import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from csaq_runtime.gguf import open_gguf

Kind = gguf.GGUFValueType
INTEGERS = {
    Kind.UINT8: (0, 2**8 - 1),
    Kind.INT8: (-(2**7), 2**7 - 1),
    Kind.UINT16: (0, 2**16 - 1),
    Kind.INT16: (-(2**15), 2**15 - 1),
    Kind.UINT32: (0, 2**32 - 1),
    Kind.INT32: (-(2**31), 2**31 - 1),
    Kind.UINT64: (0, 2**64 - 1),
    Kind.INT64: (-(2**63), 2**63 - 1),
}
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    **{kind: st.integers(low, high) for kind, (low, high) in INTEGERS.items()},
    Kind.FLOAT32: st.floats(width=32, allow_nan=False),
    Kind.FLOAT64: st.floats(allow_nan=False),
    Kind.BOOL: st.booleans(),
    Kind.STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
}
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}(\.[a-z0-9_]{1,10}){0,4}", fullmatch=True)
TENSOR_TYPES = [
    gguf.GGMLQuantizationType.F32,
    gguf.GGMLQuantizationType.F16,
    gguf.GGMLQuantizationType.BF16,
    gguf.GGMLQuantizationType.Q8_0,
    gguf.GGMLQuantizationType.Q4_K,
    gguf.GGMLQuantizationType.IQ2_XXS,
]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    """A value type, the item type of an array or None, and a value."""
    kind = draw(st.sampled_from(sorted(SCALARS)))
    if draw(st.booleans()):
        return kind, None, draw(SCALARS[kind])
    return Kind.ARRAY, kind, draw(st.lists(SCALARS[kind], min_size=1, max_size=20))


@st.composite
def tensors(draw: st.DrawFn) -> tuple[Any, tuple[int, ...], np.ndarray]:
    """A type, a row-major shape and its packed bytes."""
    kind = draw(st.sampled_from(TENSOR_TYPES))
    block_size, type_size = gguf.GGML_QUANT_SIZES[kind]
    n_block = draw(st.integers(1, 4))
    lead = tuple(draw(st.lists(st.integers(1, 4), max_size=3)))
    seed = draw(st.integers(0, 2**32 - 1))
    packed = np.random.default_rng(seed).integers(0, 256, (*lead, n_block * type_size), np.uint8)
    return kind, (*lead, n_block * block_size), packed


@settings(max_examples=150, deadline=None)
@given(
    metadata=st.dictionaries(NAMES.map("x.".__add__), pairs(), max_size=8),
    weights=st.dictionaries(NAMES, tensors(), max_size=6),
    alignment=st.sampled_from([8, 32, 64, 4096]),
)
def test_written_by_gguf_py_reads_back_equal(
    metadata: dict[str, Any], weights: dict[str, Any], alignment: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.gguf"
        _write(path, metadata, weights, alignment)
        with open_gguf(path) as file:
            assert file.alignment == alignment
            assert {"general.architecture", "general.alignment", *metadata} == set(file.metadata)
            for key, (_, item, value) in metadata.items():
                _assert_same(file.metadata[key], item, value)
            assert list(file.tensors) == list(weights)
            for name, (kind, shape, packed) in weights.items():
                assert (file.tensors[name].type, file.tensors[name].shape) == (kind, shape)
                assert np.array_equal(file.data(name).ravel(), packed.ravel())


def _write(path: Path, metadata: dict[str, Any], weights: dict[str, Any], alignment: int) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    for key, (kind, item, value) in metadata.items():
        writer.add_key_value(key, value, kind, item)
    for name, (kind, _, packed) in weights.items():
        writer.add_tensor(name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _assert_same(read: Any, item: Any, value: Any) -> None:
    if item is None or item is Kind.STRING:
        assert read == value
        assert type(read) is type(value)
    else:
        assert read.tolist() == value
