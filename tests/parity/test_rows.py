"""Packed in torch → a rows file → a stock file, which llama.cpp loads: the same logits in all."""

import numpy as np
import pytest
import torch

from csaq_export.methods.stock import convert_stock
from csaq_export.packed_folder import convert_packed
from csaq_export.pipeline import Conversion
from csaq_runtime.engine import Engine
from tests.export.packed_models import save_packed
from tests.parity.oracle import logits as oracle_logits
from tests.parity.test_logits import compare

IDS = np.random.default_rng(5).integers(0, 250, (24, 8)).tolist()


@pytest.mark.parametrize("kind", ["llama", "qwen2-tied"])
def test_a_stock_file_of_rows_computes_in_llama_cpp_what_the_rows_do(kind, tmp_path):
    model = save_packed(tmp_path / "packed", kind)
    rows, stock = tmp_path / "rows.gguf", tmp_path / "stock.gguf"
    convert_packed(Conversion(str(tmp_path / "packed"), rows, ""))
    convert_stock(Conversion(str(rows), stock, "F16"), lambda progress: None)
    found = oracle_logits(stock, *IDS)
    with torch.no_grad():
        meant = model(torch.tensor(IDS)).logits.flatten(0, 1).numpy()
    with Engine.open(rows, cache_type="f32", n_threads=1) as engine:
        ours = np.concatenate([engine.logits(ids) for ids in IDS])
    rounding, agreement = compare(meant, found), compare(found, ours)
    print(kind, rounding, agreement)
    # F16 rounds weights, and llama.cpp activations with them; our tiers meet activations of 8 bits.
    assert rounding.largest < 2e-3
    assert agreement.largest < 2e-2
    assert agreement.divergence < 1e-3
