"""The torch model and the converter's reader give the same rows under the same names."""

import pytest
import torch

from csaq_export.source import open_model
from csaq_export.torch_model import load_torch_model
from csaq_runtime.errors import ModelError
from tests.export.models import save_folder


@pytest.mark.parametrize("kind", ["llama", "llama-biased", "qwen2-tied", "qwen3"])
def test_rows_are_those_of_the_file(tmp_path, kind):
    save_folder(tmp_path, kind)
    torch_model = load_torch_model(tmp_path)
    with open_model(str(tmp_path)) as model:
        for weight in model.weights:
            values = weight.float32(slice(0, weight.n_row)).reshape(weight.shape)
            assert torch.equal(torch_model.read(weight.name), values), weight.name


def test_written_rows_are_read_back_and_change_the_model(tmp_path):
    save_folder(tmp_path, "llama")
    torch_model = load_torch_model(tmp_path)
    ids = torch.arange(10)[None]
    before = torch_model.model(ids).logits
    name = "blk.1.attn_q.weight"
    original = torch_model.read(name)
    torch_model.write(name, 2 * original)
    assert torch.equal(torch_model.read(name), 2 * original)
    assert not torch.equal(torch_model.model(ids).logits, before)
    torch_model.write(name, original)
    assert torch.equal(torch_model.model(ids).logits, before)


def test_folder_that_does_not_load_is_a_model_error(tmp_path):
    save_folder(tmp_path, "llama")
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="cannot load"):
        load_torch_model(tmp_path)
