"""LLVM vectors as values: types, loads, stores, splats, shuffles, loops.

Functions that append to an llvmlite `IRBuilder` and return the new value. The
logical width is always 64 bytes (16 float32, 16 int32, 64 int8); LLVM splits
it into two AVX2 or four NEON/SSE registers where the CPU is narrower. An
`address` is an i64; nothing here checks it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
HALF, F32 = ir.HalfType(), ir.FloatType()
BYTES_64 = ir.VectorType(I8, 64)
BYTES_32 = ir.VectorType(I8, 32)
BYTES_16 = ir.VectorType(I8, 16)
I16_X32 = ir.VectorType(I16, 32)
I16_X16 = ir.VectorType(I16, 16)
I32_X16 = ir.VectorType(I32, 16)
I32_X8 = ir.VectorType(I32, 8)
F32_X16 = ir.VectorType(F32, 16)


def integer(value: int) -> Any:
    """The i64 constant `value`."""
    return ir.Constant(I64, value)


def constant(vector_type: Any, value: float) -> Any:
    """A vector constant with `value` in every lane."""
    return ir.Constant(vector_type, [value] * vector_type.count)


def zeros(any_type: Any) -> Any:
    """The all-zero value of a scalar or vector type."""
    if isinstance(any_type, ir.VectorType):
        return constant(any_type, 0)
    return ir.Constant(any_type, 0)


def offset(b: Any, address: Any, n_byte: int) -> Any:
    """`address + n_byte`."""
    return b.add(address, integer(n_byte)) if n_byte else address


def scaled(b: Any, address: Any, index: Any, stride: int) -> Any:
    """`address + index * stride`, in bytes."""
    return b.add(address, b.mul(index, integer(stride)))


def pointer(b: Any, address: Any, any_type: Any, n_byte: int = 0) -> Any:
    """`address + n_byte` as a pointer to `any_type`."""
    return b.inttoptr(offset(b, address, n_byte), any_type.as_pointer())


def load(b: Any, address: Any, any_type: Any, n_byte: int = 0) -> Any:
    """Unaligned load of a scalar or vector at `address + n_byte`."""
    return b.load(pointer(b, address, any_type, n_byte), align=1)


def store(b: Any, value: Any, address: Any, n_byte: int = 0) -> None:
    """Unaligned store of a scalar or vector at `address + n_byte`."""
    b.store(value, pointer(b, address, value.type, n_byte), align=1)


def shuffle(b: Any, first: Any, second: Any, lanes: list[int]) -> Any:
    """Lanes of `first` and `second` (numbered on), in the order given."""
    return b.shuffle_vector(first, second, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def undefined(any_type: Any) -> Any:
    """An undefined value, for operands that do not matter."""
    return ir.Constant(any_type, ir.Undefined)


def splat(b: Any, value: Any, n_lane: int = 16) -> Any:
    """The scalar `value` in every lane."""
    vector_type = ir.VectorType(value.type, n_lane)
    single = b.insert_element(undefined(vector_type), value, ir.Constant(I32, 0))
    return shuffle(b, single, undefined(vector_type), [0] * n_lane)


def splat_load(b: Any, address: Any, scalar_type: Any, n_byte: int = 0, n_lane: int = 16) -> Any:
    """One scalar from memory in all lanes."""
    return splat(b, load(b, address, scalar_type, n_byte), n_lane)


def part(b: Any, vector: Any, start: int, n_lane: int) -> Any:
    """Lanes `start … start + n_lane`."""
    return shuffle(b, vector, undefined(vector.type), list(range(start, start + n_lane)))


def parts(b: Any, vector: Any, n_part: int) -> list[Any]:
    """The vector cut into `n_part` equal pieces, lowest lanes first."""
    n_lane = vector.type.count // n_part
    return [part(b, vector, index * n_lane, n_lane) for index in range(n_part)]


def join(b: Any, pieces: list[Any]) -> Any:
    """The inverse of `parts`, for a power of two of equal pieces."""
    while len(pieces) > 1:
        lanes = list(range(2 * pieces[0].type.count))
        pieces = [
            shuffle(b, low, high, lanes)
            for low, high in zip(pieces[::2], pieces[1::2], strict=True)
        ]
    return pieces[0]


def as_bytes(b: Any, vector: Any) -> Any:
    """A 64-byte vector seen as 64 bytes."""
    return b.bitcast(vector, BYTES_64)


def as_i32(b: Any, vector: Any) -> Any:
    """A 64-byte vector seen as 16 int32."""
    return b.bitcast(vector, I32_X16)


def and_mask(b: Any, vector: Any, mask: int) -> Any:
    """16 int32 lanes, each `& mask`."""
    return b.and_(vector, constant(I32_X16, mask))


def shift_right(b: Any, vector: Any, n_bit: int) -> Any:
    """16 int32 lanes shifted right, zeros entering; a negative `n_bit` shifts left."""
    if n_bit < 0:
        return b.shl(vector, constant(I32_X16, -n_bit))
    return b.lshr(vector, constant(I32_X16, n_bit)) if n_bit else vector


def call_llvm(b: Any, name: str, return_type: Any, arguments: list[Any]) -> Any:
    """Call an LLVM intrinsic or external symbol, declaring it once per module."""
    function = b.module.globals.get(name)
    if function is None:
        signature = ir.FunctionType(return_type, [value.type for value in arguments])
        function = ir.Function(b.module, signature, name)
    return b.call(function, arguments)


def fused_multiply_add(b: Any, x: Any, y: Any, z: Any) -> Any:
    """`x * y + z`, rounded once on every CPU (a libm call where it has no FMA)."""
    return call_llvm(b, f"llvm.fma.v{x.type.count}f32", x.type, [x, y, z])


def to_float(b: Any, vector: Any) -> Any:
    """16 int32 → 16 float32."""
    return b.sitofp(vector, F32_X16)


def variable(b: Any, initial: Any) -> Any:
    """A mutable local holding `initial`: a stack slot that LLVM turns into a register."""
    with b.goto_entry_block():
        slot = b.alloca(initial.type)
    b.store(initial, slot)
    return slot


@contextmanager
def counted_loop(b: Any, start: Any, stop: Any, step: int = 1) -> Iterator[Any]:
    """Emit the body once as a loop over `range(start, stop, step)`; yields the index (i64)."""
    before = b.block
    condition, body, after = (b.append_basic_block(name) for name in ("while", "do", "done"))
    b.branch(condition)
    b.position_at_end(condition)
    index = b.phi(I64)
    index.add_incoming(start, before)
    b.cbranch(b.icmp_signed("<", index, stop), body, after)
    b.position_at_end(body)
    yield index
    index.add_incoming(b.add(index, integer(step)), b.block)
    b.branch(condition)
    b.position_at_end(after)
