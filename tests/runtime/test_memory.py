"""Memory is estimated from what will be allocated, and asked of the system."""

from pathlib import Path

import pytest

from csaq_runtime import memory
from csaq_runtime.cache import cache_bytes
from csaq_runtime.gguf import open_gguf
from csaq_runtime.hparams import read_hparams
from tests.runtime.tiny_models import random_model, write_model


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = random_model("llama", num_hidden_layers=1)
    return write_model(tmp_path_factory.mktemp("memory") / "model.gguf", model, "llama")


def test_the_estimate_grows_by_the_cache(path: Path) -> None:
    with open_gguf(path) as file:
        hparams = read_hparams(file)
        small, large = (memory.estimated_memory(file, n, "f32") for n in (16, 4096))
        grown = cache_bytes(hparams, 4096, "f32") - cache_bytes(hparams, 16, "f32")
        rope = 4 * (4096 - 16) * 32
        assert large - small == grown + rope
        assert small > sum(info.n_bytes for info in file.tensors.values())
