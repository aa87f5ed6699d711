"""Imatrix files: both formats read, ours written, hostile ones refused, importance used."""

import struct

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csaq_export.imatrix import Entry, Imatrix, read_imatrix, write_imatrix
from csaq_export.pipeline import Conversion, convert, plan
from csaq_runtime.errors import CsaqError, GGUFError, ModelError, UsageError
from csaq_runtime.gguf import open_gguf
from tests.export.models import save_folder

NAME = "blk.0.ffn_up.weight"


def entry(*sums, count=2.0):
    return Entry(np.array(sums, np.float32), count)


def legacy(entries, tail=b""):
    """Bytes of a legacy file: name, calls and values per entry."""
    body = struct.pack("<i", len(entries))
    for name, n_call, values in entries:
        body += struct.pack("<i", len(name)) + name.encode() + struct.pack("<i", n_call)
        body += struct.pack("<i", len(values)) + np.array(values, "<f4").tobytes()
    return body + tail


def peer_gguf(path, tensors, kind="imatrix", **keys):
    """A file as gguf-py writes it, which llama-quantize accepts."""
    writer = gguf.GGUFWriter(path, "", use_temp_file=False)
    writer.kv_data[0].clear()
    writer.add_string("general.type", kind)
    known = {"chunk_count": 3, "chunk_size": 128} | keys
    writer.add_array("imatrix.datasets", ["wiki.txt"])
    for key, value in known.items():
        writer.add_uint32(f"imatrix.{key}", value)
    for name, values in tensors.items():
        writer.add_tensor(name, np.array(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf_file_of_the_peer_s_layout_is_read(tmp_path):
    tensors = {f"{NAME}.in_sum2": [[2, 4, 6]], f"{NAME}.counts": [[2]]}
    found = read_imatrix(peer_gguf(tmp_path / "a.gguf", tensors))
    assert (found.datasets, found.chunk_count, found.chunk_size) == (("wiki.txt",), 3, 128)
    assert found.entries[NAME].means().tolist() == [1, 2, 3]


@pytest.mark.parametrize("tail", [b"", struct.pack("<i", 7), struct.pack("<ii", 7, 2) + b"ab"])
def test_legacy_file_is_read_with_or_without_its_tail(tmp_path, tail):
    path = tmp_path / "a.dat"
    path.write_bytes(legacy([(NAME, 4, [4, 8]), ("output.weight", 0, [5, 6])], tail))
    found = read_imatrix(path)
    assert found.entries[NAME].means().tolist() == [1, 2]
    assert found.entries["output.weight"].means().tolist() == [5, 6]
    assert found.chunk_count == (7 if tail else 0)
    assert found.datasets == (("ab",) if len(tail) > 4 else ())


def test_what_is_written_is_read_again_and_is_read_by_gguf_py(tmp_path):
    path = tmp_path / "out.gguf"
    imatrix = Imatrix({NAME: entry(1, 2, 3), "output.weight": entry(0, 5)}, ("a.txt",), 3, 512)
    write_imatrix(path, imatrix)
    found = read_imatrix(path)
    assert (found.datasets, found.chunk_count, found.chunk_size) == (("a.txt",), 3, 512)
    assert found.entries[NAME].means().tolist() == [0.5, 1, 1.5]
    peer = {t.name: t for t in gguf.GGUFReader(path).tensors}
    assert peer[f"{NAME}.in_sum2"].data.tolist() == [[1, 2, 3]]
    assert peer[f"{NAME}.counts"].shape.tolist() == [1, 1]


def test_never_counted_inputs_weigh_evenly():
    assert entry(0, 0, count=0.0).means().tolist() == [1, 1]


@pytest.mark.parametrize(
    "bad",
    [
        Imatrix({}, ("a",)),
        Imatrix({NAME: entry(1)}),
        Imatrix({NAME: entry(1, float("nan"))}, ("a",)),
        Imatrix({NAME: entry(1, -1)}, ("a",)),
        Imatrix({NAME: entry(1, count=-1.0)}, ("a",)),
        Imatrix({"n" * 56: entry(1)}, ("a",)),
    ],
)
def test_nothing_is_written_that_is_no_imatrix(tmp_path, bad):
    with pytest.raises(ModelError):
        write_imatrix(tmp_path / "out.gguf", bad)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "tensors",
    [
        {f"{NAME}.in_sum2": [[1, 2]]},
        {f"{NAME}.counts": [[1]]},
        {NAME: [[1, 2]]},
        {".in_sum2": [[1, 2]], ".counts": [[1]]},
        {f"{NAME}.in_sum2": [[1, 2], [1, 2]], f"{NAME}.counts": [[1], [1]]},
        {f"{NAME}.in_sum2": [[1, np.inf]], f"{NAME}.counts": [[1]]},
        {f"{NAME}.in_sum2": [[1, -2]], f"{NAME}.counts": [[1]]},
        {f"{NAME}.in_sum2": [[1, 2]], f"{NAME}.counts": [[np.nan]]},
        {},
    ],
)
def test_unfit_gguf_files_are_refused(tmp_path, tensors):
    with pytest.raises(ModelError):
        read_imatrix(peer_gguf(tmp_path / "a.gguf", tensors))


def test_a_model_is_no_imatrix(tmp_path):
    with pytest.raises(GGUFError, match=r"general\.type"):
        read_imatrix(peer_gguf(tmp_path / "a.gguf", {NAME: [[1.0]]}, kind="model"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 4,
        struct.pack("<i", -1),
        struct.pack("<ii", 1, 2**31 - 1),
        struct.pack("<ii", 1, 0) + struct.pack("<iif", 1, 1, 1.0),
        legacy([("\xff", 1, [1])]).replace("\xff".encode(), b"\xff\xff"),
        legacy([(NAME, 1, [])]),
        legacy([(NAME, -1, [1])]),
        legacy([(NAME, 1, [1]), (NAME, 1, [1])]),
        legacy([(NAME, 1, [float("nan")])]),
        legacy([(NAME, 1, [-1])]),
        legacy([(NAME, 1, [1])], b"\1"),
        legacy([(NAME, 1, [1])], struct.pack("<ii", 1, 2**30)),
        struct.pack("<i", 1) + struct.pack("<i", 1) + b"a" + struct.pack("<ii", 1, 2**31 - 1),
    ],
)
def test_hostile_legacy_files_are_refused(tmp_path, content):
    path = tmp_path / "a.dat"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"a\.dat"):
        read_imatrix(path)


@given(st.binary(max_size=200), st.integers(0, 60))
def test_any_bytes_give_an_imatrix_or_one_kind_of_error(tmp_path_factory, noise, at):
    whole = legacy([(NAME, 4, [4, 8]), ("b", 1, [2])], struct.pack("<ii", 7, 2) + b"ab")
    path = tmp_path_factory.getbasetemp() / "noise.dat"
    path.write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    assert is_read_or_refused_in_one_line(path)


def is_read_or_refused_in_one_line(path):
    try:
        return bool(read_imatrix(path).entries)
    except CsaqError as error:
        return len(str(error).splitlines()) == 1


def test_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_imatrix(tmp_path / "none.dat")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("imatrix") / "model"
    save_folder(path, "qwen2")
    return path


def model_imatrix(path, n_col=64, layers=range(3)):
    kinds = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    entries = {
        f"blk.{layer}.{kind}.weight": entry(*np.linspace(1, 9, 96 if "down" in kind else n_col))
        for layer in layers
        for kind in kinds
    }
    write_imatrix(path, Imatrix(entries, ("some/text.txt",), 5, 512))
    return path


def test_conversion_follows_the_imatrix_and_says_so(tmp_path, folder):
    imatrix = model_imatrix(tmp_path / "im.gguf")
    convert(Conversion(str(folder), tmp_path / "plain.gguf", "IQ4_NL"))
    planned = plan(Conversion(str(folder), tmp_path / "a", "IQ4_NL", imatrix=imatrix))
    made = convert(Conversion(str(folder), tmp_path / "im-out.gguf", "IQ4_NL", imatrix=imatrix))
    assert planned.n_bytes == made.n_bytes == (tmp_path / "im-out.gguf").stat().st_size
    with open_gguf(tmp_path / "plain.gguf") as plain, open_gguf(tmp_path / "im-out.gguf") as file:
        assert file.text("quantize.imatrix.file") == "im.gguf"
        assert file.text("quantize.imatrix.dataset") == "text.txt"
        assert file.integer("quantize.imatrix.entries_count") == 21
        assert file.integer("quantize.imatrix.chunks_count") == 5
        name = "blk.1.attn_output.weight"
        assert file.tensors[name].type == plain.tensors[name].type
        assert not np.array_equal(file.data(name), plain.data(name))


def test_presets_that_need_importance_take_an_imatrix(tmp_path, folder):
    imatrix = model_imatrix(tmp_path / "im.gguf")
    with pytest.raises(UsageError, match="needs to know"):
        plan(Conversion(str(folder), tmp_path / "a", "IQ2_XS"))
    assert plan(Conversion(str(folder), tmp_path / "a", "IQ2_XS", imatrix=imatrix)).type == "IQ2_XS"


def test_matrices_the_imatrix_leaves_out_are_named(tmp_path, folder):
    imatrix = model_imatrix(tmp_path / "im.gguf", layers=range(2))
    found = plan(Conversion(str(folder), tmp_path / "a", "Q4_0", imatrix=imatrix))
    assert any("no entry for 7 matrices: blk.2." in note for note in found.notes)


@pytest.mark.parametrize("change", [{"n_col": 32}, {"layers": range(7, 8)}])
def test_imatrix_of_another_model_is_refused(tmp_path, folder, change):
    imatrix = model_imatrix(tmp_path / "im.gguf", **change)
    with pytest.raises(ModelError, match=r"im\.gguf"):
        plan(Conversion(str(folder), tmp_path / "a", "Q4_0", imatrix=imatrix))
