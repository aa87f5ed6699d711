"""Hostile GGUF files, built by code: one sound file and named ways to break it.

`test_gguf_hostile.py` opens each and expects a GGUFError about `field`;
`test_gguf_fuzz.py` mutates the sound one.
"""

import struct
from dataclasses import dataclass, replace

U8, I8, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 1, 4, 5, 6, 7, 8, 9, 10
TYPE_F32, TYPE_Q8_0, TYPE_Q4_K = 0, 8, 12


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return u64(len(raw)) + raw


def pair(key: str | bytes, value_type: int, payload: bytes) -> bytes:
    return string(key) + u32(value_type) + payload


def array(item_type: int, count: int, payload: bytes) -> bytes:
    return u32(item_type) + u64(count) + payload


def info(name: str | bytes, dims: tuple[int, ...], ggml_type: int, offset: int) -> bytes:
    shape = u32(len(dims)) + b"".join(map(u64, dims))
    return string(name) + shape + u32(ggml_type) + u64(offset)


@dataclass(frozen=True)
class Sketch:
    """The parts of a GGUF file; counts default to the true ones."""

    magic: bytes = b"GGUF"
    version: bytes = struct.pack("<I", 3)
    n_tensor: int | None = None
    n_pair: int | None = None
    pairs: tuple[bytes, ...] = ()
    infos: tuple[bytes, ...] = ()
    data: bytes = b""
    alignment: int = 32

    def sections(self) -> list[bytes]:
        """Header fields, pairs and infos, in file order, without padding and data."""
        n_tensor = len(self.infos) if self.n_tensor is None else self.n_tensor
        n_pair = len(self.pairs) if self.n_pair is None else self.n_pair
        return [self.magic, self.version, u64(n_tensor), u64(n_pair), *self.pairs, *self.infos]

    def build(self) -> bytes:
        head = b"".join(self.sections())
        return head + bytes(-len(head) % self.alignment) + self.data


SOUND = Sketch(
    pairs=(
        pair("general.architecture", STRING, string("llama")),
        pair("llama.block_count", U32, u32(2)),
        pair("llama.rope.freq_base", F32, struct.pack("<f", 10000.0)),
        pair("tokenizer.ggml.add_bos_token", BOOL, b"\1"),
        pair("tokenizer.ggml.tokens", ARRAY, array(STRING, 3, string("a") + string("ß") + u64(0))),
        pair("tokenizer.ggml.scores", ARRAY, array(F32, 3, struct.pack("<3f", 0.0, -1.0, -2.0))),
        pair("tokenizer.ggml.token_type", ARRAY, array(I32, 3, struct.pack("<3i", 1, 3, 6))),
        pair("some.flags", ARRAY, array(BOOL, 3, b"\1\0\1")),
    ),
    infos=(
        info("token_embd.weight", (32, 3), TYPE_Q8_0, 0),
        info("output_norm.weight", (5,), TYPE_F32, 128),
        info("output.weight", (256, 2), TYPE_Q4_K, 160),
    ),
    data=bytes(range(102)) + bytes(26) + struct.pack("<5f", *range(5)) + bytes(12) + bytes(288),
)

N_SOUND = len(SOUND.build())


@dataclass(frozen=True)
class Case:
    """File content and a part of the field that the error must name."""

    content: bytes
    field: str


def _pairs(*pairs: bytes, n: int | None = None) -> bytes:
    return Sketch(pairs=pairs, n_pair=n).build()


def _value(value_type: int, payload: bytes) -> bytes:
    return _pairs(pair("some.key", value_type, payload))


def _items(item_type: int, count: int, payload: bytes) -> bytes:
    return _value(ARRAY, array(item_type, count, payload))


def _tensors(*infos: bytes, data: bytes = bytes(512), **parts: int) -> bytes:
    return replace(Sketch(infos=infos, data=data), **parts).build()


def _aligned(value_type: int, payload: bytes) -> bytes:
    return _pairs(pair("general.alignment", value_type, payload))


def _header_cases() -> dict[str, Case]:
    return {
        "empty": Case(b"", "file"),
        "one byte": Case(b"G", "magic"),
        "other magic": Case(replace(SOUND, magic=b"GGML").build(), "magic"),
        "zip instead": Case(b"PK\3\4" + bytes(100), "magic"),
        "version 0": Case(replace(SOUND, version=u32(0)).build(), "version"),
        "version 1": Case(replace(SOUND, version=u32(1)).build(), "version"),
        "version 4": Case(replace(SOUND, version=u32(4)).build(), "version"),
        "big-endian": Case(replace(SOUND, version=struct.pack(">I", 3)).build(), "version"),
        "huge tensor count": Case(replace(SOUND, n_tensor=2**64 - 1).build(), "tensor count"),
        "tensor count beyond file": Case(replace(SOUND, n_tensor=99).build(), "tensor count"),
        "one tensor too many": Case(replace(SOUND, n_tensor=4).build(), "tensor 3"),
        "huge key count": Case(replace(SOUND, n_pair=2**63).build(), "metadata count"),
        "key count beyond file": Case(replace(SOUND, n_pair=999).build(), "metadata count"),
        "one key too many": Case(replace(SOUND, n_pair=9).build(), "tensor 0 name"),
        "one key too few": Case(replace(SOUND, n_pair=7).build(), "tensor some.flags"),
    }


def _metadata_cases() -> dict[str, Case]:
    text = pair("some.key", STRING, string("x"))
    cut = array(STRING, 2, string("a" * 9) + b"\0\0\0")
    return {
        "key given twice": Case(_pairs(text, text), "some.key"),
        "empty key": Case(_pairs(pair("", U8, b"\1"), bytes(20)), "metadata key 0"),
        "key with NUL": Case(_pairs(pair("a\0b", U8, b"\1")), "metadata key 0"),
        "key not UTF-8": Case(_pairs(pair(b"\xff\xfe", U8, b"\1")), "metadata key 0"),
        "key of 64 KiB": Case(_pairs(pair("k" * 65536, U8, b"\1")), "metadata key 0"),
        "key longer than file": Case(_pairs(u64(60000) + b"key" + bytes(20), n=1), "metadata key"),
        "control characters in key": Case(_pairs(pair("a\n\x1b[2J", 99, bytes(8))), r"a\n\x1b"),
        "unknown value type": Case(_value(13, bytes(8)), "some.key"),
        "string of 2^64 bytes": Case(_value(STRING, u64(2**64 - 1)), "some.key"),
        "string longer than file": Case(_value(STRING, u64(500) + b"x"), "some.key"),
        "string not UTF-8": Case(_value(STRING, string(b"ab\xc3")), "some.key"),
        "surrogate in string": Case(_value(STRING, string(b"\xed\xa0\x80")), "some.key"),
        "truth value 2": Case(_value(BOOL, b"\2"), "some.key"),
        "truth value 255 in array": Case(_items(BOOL, 3, b"\0\1\xff"), "some.key"),
        "array in array": Case(_items(ARRAY, 1, array(U8, 1, b"\1")), "some.key"),
        "array of unknown type": Case(_items(77, 1, bytes(8)), "some.key"),
        "array of 2^64 - 1 numbers": Case(_items(U64, 2**64 - 1, bytes(64)), "some.key"),
        "array of 2^61 numbers": Case(_items(U64, 2**61, bytes(64)), "some.key"),
        "array of 2^30 strings": Case(_items(STRING, 2**30, bytes(64)), "some.key"),
        "array ends early": Case(_items(U32, 50, bytes(64)), "some.key"),
        "strings end early": Case(_items(STRING, 8, string("a" * 32) + u64(99) + bytes(24)), "[1]"),
        "string length cut": Case(
            Sketch(pairs=(pair("k", ARRAY, cut),), alignment=1).build(), "k[1]"
        ),
        "token not UTF-8": Case(_items(STRING, 2, string("a") + string(b"\x80")), "some.key[1]"),
    }


def _alignment_cases() -> dict[str, Case]:
    return {
        "alignment 0": Case(_aligned(U32, u32(0)), "general.alignment"),
        "alignment 3": Case(_aligned(U32, u32(3)), "general.alignment"),
        "alignment as u64": Case(_aligned(U64, u64(32)), "general.alignment"),
        "alignment as text": Case(_aligned(STRING, string("32")), "general.alignment"),
        "alignment as array": Case(_aligned(ARRAY, array(U32, 1, u32(32))), "general.alignment"),
        "alignment 2^31": Case(
            Sketch(
                pairs=(pair("general.alignment", U32, u32(2**31)),),
                infos=(info("a", (4,), TYPE_F32, 0),),
                data=bytes(64),
            ).build(),
            "tensor a",
        ),
    }


def _shape_cases() -> dict[str, Case]:
    def shaped(dims: tuple[int, ...], ggml_type: int = TYPE_F32) -> Case:
        return Case(_tensors(info("a.weight", dims, ggml_type, 0)), "tensor a.weight")

    return {
        "no dimension": shaped(()),
        "five dimensions": shaped((1, 1, 1, 1, 1)),
        "2^32 - 1 dimensions": Case(
            _tensors(string("a.weight") + u32(2**32 - 1)), "tensor a.weight"
        ),
        "zero rows": shaped((32, 0)),
        "zero columns": shaped((0, 32)),
        "dimension 2^64 - 1": shaped((2**64 - 1,)),
        "product wraps to 0": shaped((2**32, 2**32)),
        "product wraps to 4": shaped((2**62 + 1, 4)),
        "bytes beyond 2^64": shaped((2**62,)),
        "half a block": shaped((16,), TYPE_Q8_0),
        "half a super-block": shaped((128, 2), TYPE_Q4_K),
        "type 4 (removed)": shaped((32,), 4),
        "type 1000": shaped((32,), 1000),
        "type 2^32 - 1": shaped((32,), 2**32 - 1),
    }


def _place_cases() -> dict[str, Case]:
    first, second = info("a", (32,), TYPE_F32, 0), info("b", (32,), TYPE_F32, 128)
    return {
        "tensor named twice": Case(_tensors(first, info("a", (32,), TYPE_F32, 128)), "tensor a"),
        "empty name": Case(_tensors(info("", (32,), TYPE_F32, 0)), "tensor 0 name"),
        "name of 64 bytes": Case(_tensors(info("n" * 64, (32,), TYPE_F32, 0)), "tensor 0 name"),
        "name with NUL": Case(_tensors(info("a\0b", (32,), TYPE_F32, 0)), "tensor 0 name"),
        "name not UTF-8": Case(_tensors(info(b"\xf0\x28", (32,), TYPE_F32, 0)), "tensor 0 name"),
        "name with line feed": Case(_tensors(info("a\nb", (32,), TYPE_F32, 0)), "tensor 0 name"),
        "same place": Case(_tensors(first, info("b", (32,), TYPE_F32, 0)), "tensor b offset"),
        "overlap": Case(_tensors(first, info("b", (32,), TYPE_F32, 96)), "tensor b offset"),
        "gap": Case(_tensors(first, info("b", (32,), TYPE_F32, 160)), "tensor b offset"),
        "order reversed": Case(_tensors(second, first), "tensor b offset"),
        "not aligned": Case(_tensors(first, info("b", (32,), TYPE_F32, 130)), "tensor b offset"),
        "offset 2^64 - 32": Case(
            _tensors(info("a", (32,), TYPE_F32, 2**64 - 32)), "tensor a offset"
        ),
        "data one byte short": Case(_tensors(first, second, data=bytes(255)), "tensor b"),
        "no data": Case(_tensors(first, data=b""), "tensor a"),
        "no padding, no data": Case(_tensors(first, data=b"", alignment=1), "tensor a"),
        "terabyte tensor": Case(_tensors(info("a", (2**20, 2**18), TYPE_F32, 0)), "tensor a"),
    }


def _truncations() -> dict[str, Case]:
    """The sound file cut at the edge of every section, and one byte into each."""
    cases, at = {}, 0
    for i, section in enumerate(SOUND.sections()[:-1]):
        at += len(section)
        cases[f"cut after section {i}"] = Case(SOUND.build()[:at], "")
        cases[f"cut inside section {i + 1}"] = Case(SOUND.build()[: at + 1], "")
    return cases


HOSTILE: dict[str, Case] = {
    **_header_cases(),
    **_metadata_cases(),
    **_alignment_cases(),
    **_shape_cases(),
    **_place_cases(),
    **_truncations(),
}
