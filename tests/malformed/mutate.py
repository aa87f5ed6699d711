"""Random damage to a file's bytes: bits, numbers at the edges of their types, cuts, repeats."""

import random
from collections.abc import Callable

from tests.malformed.hostile import u32, u64

EDGES = [0, 1, 2, 31, 33, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
Mutation = Callable[[bytearray, int, random.Random], None]


def mutant(sound: bytes, n_head: int, chance: random.Random) -> bytearray:
    """`sound` with one to four mutations, four fifths of them within its first `n_head` bytes."""
    content = bytearray(sound)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        reach = len(content) if chance.random() < 0.2 else min(n_head, len(content))
        chance.choice(MUTATIONS)(content, chance.randrange(reach), chance)
    return content


def _flip(content: bytearray, at: int, chance: random.Random) -> None:
    content[at] ^= 1 << chance.randrange(8)


def _overwrite(content: bytearray, at: int, chance: random.Random) -> None:
    value = chance.choice(EDGES)
    patch = u64(value) if chance.random() < 0.6 else u32(value & 0xFFFFFFFF)
    content[at : at + len(patch)] = patch


def _truncate(content: bytearray, at: int, chance: random.Random) -> None:
    del content[max(1, at) :]


def _remove(content: bytearray, at: int, chance: random.Random) -> None:
    del content[at : min(at + chance.randrange(1, 40), len(content) - 1)]


def _repeat(content: bytearray, at: int, chance: random.Random) -> None:
    content[at:at] = content[at : at + chance.randrange(1, 40)]


MUTATIONS: list[Mutation] = [_flip, _flip, _overwrite, _overwrite, _truncate, _remove, _repeat]
