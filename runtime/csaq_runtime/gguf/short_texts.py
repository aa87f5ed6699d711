"""Many strings of an array at once: where each begins is seen in the zeros of their lengths.

A string is a length (u64, little-endian) and as many bytes of UTF-8. `Cursor.texts` reads one by
one what is not read here: long strings, empty ones, those with a NUL, and everything damaged.
"""

from mmap import mmap

import numpy as np
from numpy.typing import NDArray

WINDOW_BYTES = 1 << 16
"""Bytes of the file that are looked at together: they fit into a core's cache."""

_LENGTH_BYTES, _SHORT = 8, 255


def short_texts(data: mmap, start: int, count: int) -> tuple[list[str], int]:
    """The strings from byte `start` of `data` on, and the bytes that they take.

    At most `count`, none that leaves the file, and only up to the first that is empty, longer
    than 255 bytes or holds a NUL. None at all if one of them is not UTF-8.
    """
    most = min(WINDOW_BYTES, len(data) - start, count * (_LENGTH_BYTES + _SHORT))
    window = np.frombuffer(data, np.uint8, most, start)
    starts, ends = _places(window)
    starts, ends = starts[:count], ends[:count]
    if not len(starts):
        return [], 0
    n_bytes = int(ends[-1])
    taken = window[:n_bytes]
    separated = taken.copy()
    # Of each length one byte is left, which no string holds: a NUL.
    separated[starts] = 0
    try:
        _, *texts = str(separated[taken != 0].data, "utf-8").split("\0")
    except UnicodeDecodeError:
        return [], 0
    return texts, n_bytes


def _places(window: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the strings, which follow one another from byte 0 on, begin and end.

    A length of 1 to 255 is one byte and seven zeros. Each run of zeros is taken for those seven,
    up to the first that is not: too short or long, not behind the string before, or inside it.
    """
    is_zero = window == 0
    edges = np.flatnonzero(is_zero[1:] != is_zero[:-1]) + 1
    if not len(edges) or is_zero[0]:
        return edges[:0], edges[:0]
    first_zeros, behind_zeros = edges[:-1:2], edges[1::2]
    starts = first_zeros - 1
    ends = behind_zeros + window[starts]
    is_length = behind_zeros - first_zeros == _LENGTH_BYTES - 1
    follows = starts == np.concatenate(([0], ends[:-1]))
    has_no_zero = ends <= np.concatenate((first_zeros[1:], [len(window)]))
    is_right = is_length & follows & has_no_zero
    n = len(is_right) if is_right.all() else int(is_right.argmin())
    return starts[:n], ends[:n]
