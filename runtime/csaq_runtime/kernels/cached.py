"""Number formats of the key/value cache: what they take, and how kernels tell them apart.

F32 and F16 hold elements side by side. Q8_0 is ggml's: int8 codes, and a float16 scale for every
32 elements of a head (see `attention.py` for where they stand).
"""

from dataclasses import dataclass

GROUP = 32
"""Elements of a head that share a scale."""

SCALE_BYTES = 2


@dataclass(frozen=True)
class CacheFormat:
    """`kind` stands for it in records; `n_byte`: of one element, without its scale."""

    kind: int
    n_byte: int
    is_scaled: bool

    def row_bytes(self, head_pad: int) -> int:
        """Bytes of one position's keys or values of one head of `head_pad` elements."""
        scales = SCALE_BYTES * (head_pad // GROUP) if self.is_scaled else 0
        return self.n_byte * head_pad + scales


F32_CACHE = CacheFormat(0, 4, is_scaled=False)
F16_CACHE = CacheFormat(1, 2, is_scaled=False)
Q8_0_CACHE = CacheFormat(2, 1, is_scaled=True)

CACHE_FORMATS = {"f16": F16_CACHE, "f32": F32_CACHE, "q8_0": Q8_0_CACHE}
"""By the names that `--cache-type` takes."""
