"""Hostile sources of a conversion: one typed line that names the place, fast, in little memory."""

import json
import shutil
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from csaq_export.hf_folder import open_folder
from csaq_export.pipeline import Conversion, convert
from csaq_runtime.errors import CsaqError, ModelError
from tests.export.models import save_folder

WEIGHTS, CONFIG, WORDS = "model.safetensors", "config.json", "tokenizer.json"
INDEX = "model.safetensors.index.json"
NORM = "model.norm.weight"
Change = Callable[[Path], Any]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "model"
    save_folder(folder, "llama")
    return folder


def raw(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def cut(name: str, n_byte: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:n_byte])


def settings(name: str, **changes: Any) -> Change:
    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | changes))

    return change


def words(change: Callable[[dict[str, Any]], Any]) -> Change:
    def apply(folder: Path) -> None:
        content = json.loads((folder / WORDS).read_text())
        change(content)
        (folder / WORDS).write_text(json.dumps(content))

    return apply


def header(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Change the safetensors header, keep the data."""

    def apply(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        (length,) = struct.unpack_from("<Q", content)
        entries = json.loads(content[8 : 8 + length])
        change(entries)
        text = json.dumps(entries).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    return apply


def value(number: float) -> Change:
    """Overwrite a weight of the last norm."""

    def apply(folder: Path) -> None:
        content = bytearray((folder / WEIGHTS).read_bytes())
        (length,) = struct.unpack_from("<Q", content)
        start = json.loads(content[8 : 8 + length])[NORM]["data_offsets"][0]
        struct.pack_into("<f", content, 8 + length + start + 8, number)
        (folder / WEIGHTS).write_bytes(content)

    return apply


def shift(entry: dict[str, Any], by: int) -> None:
    entry["data_offsets"] = [offset + by for offset in entry["data_offsets"]]


def index(places: Any) -> Change:
    return lambda folder: (folder / INDEX).write_text(json.dumps({"weight_map": places}))


def twice(folder: Path) -> None:
    entry = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    text = b"{" + entry + b"," + entry + b"}"
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))


def vocabulary(words: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = words["model"]["vocab"]
    return found


CASES: dict[str, tuple[Change, str]] = {
    "empty weights": (raw(WEIGHTS, b""), WEIGHTS),
    "seven bytes": (raw(WEIGHTS, bytes(7)), WEIGHTS),
    "header of 2^64 - 1 bytes": (raw(WEIGHTS, b"\xff" * 8 + b"{}"), "header length"),
    "header of 2^63 bytes": (raw(WEIGHTS, struct.pack("<Q", 2**63) + b"{}"), "header length"),
    "header longer than file": (raw(WEIGHTS, struct.pack("<Q", 99) + b"{}"), "header length"),
    "header is a list": (raw(WEIGHTS, struct.pack("<Q", 2) + b"[]"), "not a JSON object"),
    "header is no JSON": (raw(WEIGHTS, struct.pack("<Q", 2) + b"{]"), "not JSON"),
    "header not UTF-8": (raw(WEIGHTS, struct.pack("<Q", 2) + b"\xff\xfe"), "not JSON"),
    "header nested deeply": (raw(WEIGHTS, struct.pack("<Q", 9**5) + b"[" * 9**5), "not JSON"),
    "pickle under the name": (raw(WEIGHTS, b"\x80\x04\x95" + bytes(99)), "header length"),
    "GGUF under the name": (raw(WEIGHTS, b"GGUF\3\0\0\0" + bytes(99)), "header length"),
    "name given twice": (twice, "twice"),
    "file cut": (cut(WEIGHTS, 50_000), "data_offsets"),
    "entry is null": (header(lambda h: h.update({NORM: None})), NORM),
    "unknown dtype": (header(lambda h: h[NORM].update(dtype="F4")), NORM),
    "dtype of another size": (header(lambda h: h[NORM].update(dtype="F16")), NORM),
    "dtype of integers": (header(lambda h: h[NORM].update(dtype="I32")), NORM),
    "shape too large": (header(lambda h: h[NORM].update(shape=[2**40])), NORM),
    "shape wraps to its size": (header(lambda h: h[NORM].update(shape=[2**62 + 64])), NORM),
    "shape of minus one": (header(lambda h: h[NORM].update(shape=[-64])), NORM),
    "shape of floats": (header(lambda h: h[NORM].update(shape=[64.0])), NORM),
    "shape with a zero": (header(lambda h: h[NORM].update(shape=[0, 64])), NORM),
    "shape of a matrix": (header(lambda h: h[NORM].update(shape=[8, 8])), NORM),
    "10,000 dimensions": (header(lambda h: h[NORM].update(shape=[1] * 10**4)), "10000 dim"),
    "offsets reversed": (header(lambda h: h[NORM]["data_offsets"].reverse()), NORM),
    "offsets beyond": (header(lambda h: shift(h[NORM], 2**40)), NORM),
    "offsets negative": (header(lambda h: shift(h[NORM], -(2**40))), NORM),
    "offsets overlap": (header(lambda h: shift(h[NORM], -4)), "overlaps"),
    "three offsets": (header(lambda h: h[NORM]["data_offsets"].append(0)), NORM),
    "tensor left out": (header(lambda h: h.pop(NORM)), "bytes after|gap"),
    "tensor renamed": (header(lambda h: h.update(evil=h.pop(NORM))), "evil"),
    "weight is NaN": (value(float("nan")), "output_norm.weight"),
    "weight is infinite": (value(float("-inf")), "output_norm.weight"),
    "index is a list": (raw(INDEX, b"[]"), INDEX),
    "index without a map": (raw(INDEX, b"{}"), "weight_map"),
    "index of numbers": (index({NORM: 3}), "weight_map"),
    "index leaves the folder": (index({NORM: "../model.safetensors"}), "outside the folder"),
    "index names the root": (index({NORM: "/etc/passwd"}), "outside the folder"),
    "index names a folder": (index({NORM: ".."}), r"\.\."),
    "index with NUL": (index({NORM: "a\0b"}), "a"),
    "missing shard": (index({NORM: "model-00002-of-00002.safetensors"}), "shard is missing"),
    "tensor not in its shard": (index({"evil": WEIGHTS}), "evil"),
    "config is missing": (lambda folder: (folder / CONFIG).unlink(), CONFIG),
    "config is a list": (raw(CONFIG, b"[1]"), CONFIG),
    "config nested deeply": (raw(CONFIG, b'{"a":' * 10**5), CONFIG),
    "config not UTF-8": (raw(CONFIG, b'{"a":"\xff"}'), CONFIG),
    "no layers": (settings(CONFIG, num_hidden_layers=0), "num_hidden_layers"),
    "minus one layer": (settings(CONFIG, num_hidden_layers=-1), "num_hidden_layers"),
    "two billion layers": (settings(CONFIG, num_hidden_layers=2**31 - 1), "num_hidden_layers"),
    "2^70 layers": (settings(CONFIG, num_hidden_layers=2**70), "num_hidden_layers"),
    "layers as text": (settings(CONFIG, num_hidden_layers="3"), "num_hidden_layers"),
    "layers are true": (settings(CONFIG, num_hidden_layers=True), "num_hidden_layers"),
    "no heads": (settings(CONFIG, num_attention_heads=0), "num_attention_heads"),
    "more groups than heads": (settings(CONFIG, num_key_value_heads=8), "heads cannot share"),
    "huge head": (settings(CONFIG, head_dim=2**30), "self_attn.q_proj"),
    "no vocabulary": (settings(CONFIG, vocab_size=0), "vocab_size"),
    "huge vocabulary": (settings(CONFIG, vocab_size=2**31 - 1), "embed_tokens"),
    "epsilon NaN": (settings(CONFIG, rms_norm_eps=float("nan")), "rms_norm_eps"),
    "epsilon infinite": (settings(CONFIG, rms_norm_eps=float("inf")), "rms_norm_eps"),
    "architecture is a number": (settings(CONFIG, architectures=[3]), CONFIG),
    "rope base 0": (settings(CONFIG, rope_parameters={"rope_theta": 0}), "rope_theta"),
    "rope is a list": (settings(CONFIG, rope_parameters=[1]), "rope_parameters"),
    "vocabulary cut": (cut(WORDS, 999), WORDS),
    "vocabulary is a list": (raw(WORDS, b"[]"), WORDS),
    "no model": (words(lambda w: w.pop("model")), WORDS),
    "token id beyond": (words(lambda w: vocabulary(w).update(evil=2**40)), "evil"),
    "token id negative": (words(lambda w: vocabulary(w).update(evil=-1)), "evil"),
    "token id used twice": (words(lambda w: vocabulary(w).update(evil=5)), "twice"),
    "token id is text": (words(lambda w: vocabulary(w).update(evil="5")), "evil"),
    "no tokens": (words(lambda w: vocabulary(w).clear()), WORDS),
    "merges are numbers": (words(lambda w: w["model"].update(merges=[1])), "merge"),
    "merge of three": (words(lambda w: w["model"].update(merges=["a b c"])), "merge"),
    "added token beyond": (words(lambda w: w["added_tokens"][0].update(id=2**31)), "added token"),
    "added token without text": (words(lambda w: w["added_tokens"][0].pop("content")), "added"),
}


@pytest.mark.parametrize(("change", "named"), CASES.values(), ids=CASES)
def test_hostile_source_is_one_error_that_names_the_place(
    sound: Path, tmp_path: Path, change: Change, named: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sound, folder)
    change(folder)
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(CsaqError, match=named) as caught:
        convert(Conversion(str(folder), tmp_path / "out.gguf", "F32"))
    seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(caught.value, ModelError)
    assert seconds < 1
    assert peak < 64 * 2**20
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_the_sound_source_is_converted(sound: Path, tmp_path: Path) -> None:
    assert len(open_folder(sound, "x").weights) == 30
    convert(Conversion(str(sound), tmp_path / "out.gguf", "F32"))
    assert np.fromfile(tmp_path / "out.gguf", np.uint8, 4).tobytes() == b"GGUF"
