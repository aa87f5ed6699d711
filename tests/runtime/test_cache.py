"""The key/value cache: which ids it holds, rollback, sizes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csaq_runtime.cache import KVCache, cache_bytes
from csaq_runtime.errors import UsageError
from csaq_runtime.hparams import HParams, RopeScaling

HPARAMS = HParams(
    architecture="llama",
    n_layer=2,
    n_embd=64,
    n_head=4,
    n_head_kv=2,
    n_ff=96,
    head_dim=20,
    n_vocab=100,
    n_ctx_train=64,
    rms_epsilon=1e-5,
    rope_base=1e4,
    rope_scaling=RopeScaling("none", 1.0, 64, 1.0),
)
IDS = st.lists(st.integers(0, 3), max_size=40)


@given(IDS, st.integers(0, 50), IDS)
def test_truncate_then_extend_continues_the_prefix(a: list[int], n: int, b: list[int]) -> None:
    cache = KVCache(HPARAMS, 100, "f16")
    cache.extend(a)
    cache.truncate(n)
    cache.extend(b)
    assert list(cache.ids) == a[:n] + b
    assert cache.n_past == len(a[:n]) + len(b)


@given(IDS, IDS)
def test_common_prefix_is_the_longest(held: list[int], wanted: list[int]) -> None:
    cache = KVCache(HPARAMS, 100, "f16")
    cache.extend(held)
    n = cache.common_prefix(wanted)
    assert held[:n] == wanted[:n]
    assert n in (len(held), len(wanted)) or held[n] != wanted[n]


@pytest.mark.parametrize("cache_type", ["f16", "f32", "q8_0"])
@pytest.mark.parametrize("n_ctx", [1, 16, 33])
def test_announced_size_is_the_size(cache_type: str, n_ctx: int) -> None:
    cache = KVCache(HPARAMS, n_ctx, cache_type)
    assert cache_bytes(HPARAMS, n_ctx, cache_type) == cache.keys.nbytes + cache.values.nbytes
    assert cache.head_bytes * HPARAMS.n_layer * HPARAMS.n_head_kv == cache.keys.nbytes
    assert not np.any(cache.keys)


def test_overfilling_and_unknown_types_are_refused() -> None:
    cache = KVCache(HPARAMS, 4, "f32")
    with pytest.raises(UsageError, match="context of 4"):
        cache.extend([0] * 5)
    assert cache.n_past == 0
    with pytest.raises(UsageError, match="q4_0"):
        KVCache(HPARAMS, 4, "q4_0")
