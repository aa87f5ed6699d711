"""Real and built GGUF files open quickly and give values through checked getters."""

import struct
import time
from pathlib import Path

import numpy as np
import pytest

from csaq_runtime.errors import GGUFError
from csaq_runtime.formats import GGMLType
from csaq_runtime.gguf import GGUFFile, open_gguf
from csaq_runtime.gguf.short_texts import WINDOW_BYTES
from tests.malformed.hostile import SOUND, Sketch, array, info, pair, string, u32, u64

VOCABULARIES = Path(__file__).resolve().parents[2].parent / "shared/data/tokenizers/ggml-vocab"
U8, U16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = 0, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12
GETTERS = ["integer", "number", "text", "flag", "texts", "integers", "numbers"]


def opened(tmp_path: Path, sketch: Sketch) -> GGUFFile:
    path = tmp_path / "file.gguf"
    path.write_bytes(sketch.build())
    return open_gguf(path)


def keyed(tmp_path: Path, value_type: int, payload: bytes) -> GGUFFile:
    return opened(tmp_path, Sketch(pairs=(pair("k", value_type, payload),)))


@pytest.mark.parametrize(
    ("name", "n_token"), [("qwen2", 151936), ("llama-bpe", 128256), ("llama-spm", 32000)]
)
def test_vocabulary_files_open_in_half_a_second_of_cpu(name: str, n_token: int) -> None:
    start = time.process_time()
    file = open_gguf(VOCABULARIES / f"ggml-vocab-{name}.gguf")
    assert time.process_time() - start < 0.5
    assert len(file.texts("tokenizer.ggml.tokens")) == n_token
    assert len(file.integers("tokenizer.ggml.token_type")) == n_token


@pytest.mark.parametrize("version", [2, 3])
def test_versions_2_and_3_open(version: int, tmp_path: Path) -> None:
    assert opened(tmp_path, Sketch(version=u32(version))).version == version


def test_metadata_has_python_scalars_and_arrays(tmp_path: Path) -> None:
    file = opened(tmp_path, SOUND)
    assert file.metadata["llama.block_count"] == 2
    assert file.metadata["llama.rope.freq_base"] == 10000.0
    assert file.metadata["tokenizer.ggml.add_bos_token"] is True
    assert file.metadata["tokenizer.ggml.tokens"] == ["a", "ß", ""]
    assert file.metadata["some.flags"].tolist() == [True, False, True]
    assert file.metadata["tokenizer.ggml.scores"].dtype == np.float32


@pytest.mark.parametrize(
    ("value_type", "payload", "value"),
    [
        (U8, b"\xff", 255),
        (1, b"\xff", -1),
        (U16, b"\xff\xff", 65535),
        (3, b"\0\x80", -32768),
        (U32, u32(2**32 - 1), 2**32 - 1),
        (I32, u32(2**31), -(2**31)),
        (U64, u64(2**64 - 1), 2**64 - 1),
        (I64, u64(2**63), -(2**63)),
        (F32, struct.pack("<f", 0.5), 0.5),
        (F64, struct.pack("<d", 0.1), 0.1),
        (BOOL, b"\0", False),
        (STRING, string("€"), "€"),
    ],
)
def test_scalars_of_every_type(
    value_type: int, payload: bytes, value: object, tmp_path: Path
) -> None:
    read = keyed(tmp_path, value_type, payload).metadata["k"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("length", [0, 255, 256, 70_000])
def test_strings_of_any_length(length: int, tmp_path: Path) -> None:
    texts = ["a", "x" * length, "", "€"]
    payload = array(STRING, len(texts), b"".join(map(string, texts)))
    assert keyed(tmp_path, ARRAY, payload).texts("k") == texts


@pytest.mark.parametrize("odd", ["", "\0", "a\0b", "\0" * 20, "ab" + "\0" * 7, "x" * 256, "\1\0\0"])
def test_odd_strings_among_many_short_ones(odd: str, tmp_path: Path) -> None:
    texts = [str(n) * (n % 40 + 1) + "ĠŁ"[: n % 3] for n in range(3000)]
    texts[7] = texts[2000] = texts[2001] = texts[-1] = odd
    payload = array(STRING, len(texts), b"".join(map(string, texts)))
    assert len(payload) > 3 * WINDOW_BYTES
    assert keyed(tmp_path, ARRAY, payload).texts("k") == texts


def test_what_is_wrong_with_one_of_many_strings_is_told_where_it_is(tmp_path: Path) -> None:
    texts = [string("word")] * 9000
    texts[8000] = u64(4) + b"wor\xff"
    with pytest.raises(GGUFError, match=r"k\[8000\]: not valid UTF-8"):
        keyed(tmp_path, ARRAY, array(STRING, 9000, b"".join(texts)))
    texts[8000] = u64(2**62) + b"word"
    with pytest.raises(GGUFError, match=r"k\[8000\]: string leaves the file"):
        keyed(tmp_path, ARRAY, array(STRING, 9000, b"".join(texts)))


def test_a_character_that_two_strings_share_is_refused(tmp_path: Path) -> None:
    first, second = "ß".encode()[:1], "ß".encode()[1:]
    payload = b"".join(u64(len(half)) + half for half in (first, second))
    with pytest.raises(GGUFError, match=r"k\[0\]: not valid UTF-8"):
        keyed(tmp_path, ARRAY, array(STRING, 2, payload))


def test_empty_arrays_are_allowed(tmp_path: Path) -> None:
    assert keyed(tmp_path, ARRAY, array(STRING, 0, b"")).texts("k") == []
    assert keyed(tmp_path, ARRAY, array(BOOL, 0, b"")).metadata["k"].size == 0
    assert keyed(tmp_path, ARRAY, array(I32, 0, b"")).integers("k").size == 0


def test_integer_checks_type_and_range(tmp_path: Path) -> None:
    file = keyed(tmp_path, U32, u32(12))
    assert file.integer("k") == 12
    assert file.integer("k", minimum=12, maximum=12) == 12
    with pytest.raises(GGUFError, match="k: 12 is outside 13 … 20"):
        file.integer("k", minimum=13, maximum=20)
    with pytest.raises(GGUFError, match="k: 12 is outside 0 … 11"):
        file.integer("k", maximum=11)
    with pytest.raises(GGUFError, match="outside"):
        keyed(tmp_path, I32, u32(2**32 - 1)).integer("k")
    with pytest.raises(GGUFError, match="must be an integer"):
        keyed(tmp_path, BOOL, b"\1").integer("k")
    with pytest.raises(GGUFError, match="must be an integer"):
        keyed(tmp_path, F32, bytes(4)).integer("k")


def test_number_takes_integers_but_nothing_infinite(tmp_path: Path) -> None:
    assert keyed(tmp_path, F64, struct.pack("<d", 1e6)).number("k") == 1e6
    assert keyed(tmp_path, U32, u32(7)).number("k") == 7.0
    for value in (float("inf"), float("nan")):
        with pytest.raises(GGUFError, match="not finite"):
            keyed(tmp_path, F32, struct.pack("<f", value)).number("k")
    with pytest.raises(GGUFError, match="must be a number"):
        keyed(tmp_path, STRING, string("1")).number("k")


@pytest.mark.parametrize(
    "getter", ["integer", "number", "text", "flag", "texts", "integers", "numbers"]
)
def test_getters_name_a_missing_key_and_give_defaults(getter: str, tmp_path: Path) -> None:
    file = opened(tmp_path, Sketch())
    with pytest.raises(GGUFError, match=r"no\.such: required key is missing"):
        getattr(file, getter)("no.such")
    default = object()
    assert getattr(file, getter)("no.such", default) is default


@pytest.mark.parametrize("getter", ["text", "flag", "texts", "integers", "numbers"])
def test_getters_name_a_key_of_another_type_and_its_place(getter: str, tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match=r"k: must be .* \(at byte 24\)") as caught:
        getattr(keyed(tmp_path, U32, u32(1)), getter)("k")
    assert caught.value.offset == 24


def test_integers_are_int64_and_bounded(tmp_path: Path) -> None:
    values = keyed(tmp_path, ARRAY, array(U8, 3, b"\1\2\xff")).integers("k")
    assert values.dtype == np.int64
    assert values.tolist() == [1, 2, 255]
    with pytest.raises(GGUFError, match="does not fit in 63 bits"):
        keyed(tmp_path, ARRAY, array(U64, 1, u64(2**63))).integers("k")
    with pytest.raises(GGUFError, match="array of integers"):
        keyed(tmp_path, ARRAY, array(F32, 1, bytes(4))).integers("k")


def test_numbers_are_finite_float32(tmp_path: Path) -> None:
    values = keyed(tmp_path, ARRAY, array(F64, 2, struct.pack("<2d", 0.5, -2))).numbers("k")
    assert values.dtype == np.float32
    assert values.tolist() == [0.5, -2.0]
    with pytest.raises(GGUFError, match="item 1 is not finite"):
        keyed(tmp_path, ARRAY, array(F64, 2, struct.pack("<2d", 1, 1e300))).numbers("k")


def test_tensor_info_is_row_major_and_absolute(tmp_path: Path) -> None:
    file = opened(tmp_path, SOUND)
    found = file.tensors["output.weight"]
    assert (found.type, found.shape, found.n_bytes) == (GGMLType.Q4_K, (2, 256), 288)
    assert (found.n_row, found.n_col) == (2, 256)
    assert found.offset + found.n_bytes == len(SOUND.build())
    assert list(file.tensors) == ["token_embd.weight", "output_norm.weight", "output.weight"]


def test_data_is_a_read_only_view_and_outlives_the_file(tmp_path: Path) -> None:
    with opened(tmp_path, SOUND) as file:
        rows, vector = file.data("token_embd.weight"), file.data("output_norm.weight")
    assert rows.shape == (3, 34)
    assert vector.shape == (1, 20)
    assert rows.ravel().tolist() == list(range(102))
    assert not rows.flags.writeable


def test_unaligned_data_reads_with_alignment_1(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    sketch = Sketch(
        pairs=(pair("general.alignment", U32, u32(1)),),
        infos=(info("one", (1,), 24, 0), info("odd", (3, 2), 0, 1)),
        data=b"\7" + values.tobytes(),
        alignment=1,
    )
    file = opened(tmp_path, sketch)
    assert file.alignment == 1
    assert np.array_equal(file.float32("odd"), values)


def test_float32_refuses_types_that_hold_no_weights_by_name(tmp_path: Path) -> None:
    sketch = Sketch(infos=(info("ids", (4,), 26, 0),), data=bytes(16))
    with pytest.raises(GGUFError, match="tensor ids: I32 cannot be dequantized"):
        opened(tmp_path, sketch).float32("ids")


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match=r"tensor blk\.0\.attn_q\.weight: is missing"):
        opened(tmp_path, SOUND).data("blk.0.attn_q.weight")


def test_released_pages_read_the_same_again(tmp_path: Path) -> None:
    with opened(tmp_path, SOUND) as file:
        before = {name: file.data(name).copy() for name in file.tensors}
        views = {name: file.data(name) for name in file.tensors}
        file.release()
        assert all((views[name] == before[name]).all() for name in before)
        assert before


def test_rows_are_copies_of_the_rows_asked_for(tmp_path: Path) -> None:
    with opened(tmp_path, SOUND) as file:
        rows = file.rows("token_embd.weight", [2, 0, 2])
        assert (rows == file.data("token_embd.weight")[[2, 0, 2]]).all()
        assert file.rows("token_embd.weight", []).shape == (0, 34)


def test_a_file_cut_short_is_an_error_and_no_sigbus(tmp_path: Path) -> None:
    with opened(tmp_path, SOUND) as file:
        file.path.write_bytes(SOUND.build()[:700])
        for read in (file.data, file.float32, lambda name: file.rows(name, [0, 1])):
            with pytest.raises(GGUFError, match=r"output\.weight: the file has become shorter"):
                read("output.weight")


def test_rows_of_a_closed_file_are_an_error(tmp_path: Path) -> None:
    file = opened(tmp_path, SOUND)
    file.close()
    with (tmp_path / "other").open("wb"), pytest.raises(GGUFError, match="the file is closed"):
        file.rows("token_embd.weight", [0])
