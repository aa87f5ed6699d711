"""The codebooks have the sizes and levels of the format and cannot be written to."""

import gguf
import numpy as np
import pytest

from csaq_runtime.formats.grids import grid

TABLES = {
    "iq1s": gguf.quants.IQ1_S,
    "iq2xxs": gguf.quants.IQ2_XXS,
    "iq2xs": gguf.quants.IQ2_XS,
    "iq2s": gguf.quants.IQ2_S,
    "iq3xxs": gguf.quants.IQ3_XXS,
    "iq3s": gguf.quants.IQ3_S,
}


@pytest.mark.parametrize("name", TABLES)
def test_codebook_equals_gguf_py(name: str) -> None:
    TABLES[name].init_grid()
    assert np.array_equal(grid(name), TABLES[name].grid.reshape(TABLES[name].grid_shape))


def test_codebook_is_shared_and_read_only() -> None:
    assert grid("iq1s") is grid("iq1s")
    with pytest.raises(ValueError, match="read-only"):
        grid("iq1s")[0, 0] = 5
