"""What a backward pass holds, beside what torch's own hooks count of it."""

from dataclasses import replace

import pytest
import torch

from csaq_export.footprint import Shapes, shapes_of, whole_bytes
from csaq_export.layered_model import open_layered
from csaq_export.torch_model import load_torch_model
from tests.export.models import save_folder

N_TOKEN = 128


def kept_for_backward(model):
    """Bytes that autograd keeps of a decoder's layers for one window, without the weights."""
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept = {}

    def keep(values):
        storage = values.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, or its address is used again
        return values

    states = torch.randn(1, N_TOKEN, model.config.hidden_size)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda values: values):
        output = model.get_decoder()(inputs_embeds=states, use_cache=False).last_hidden_state
    assert output.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


def foretold(shapes: Shapes):
    """What one layer more adds beside its weights, times the layers."""
    more = replace(shapes, n_layer=shapes.n_layer + 1)
    each = whole_bytes(more, N_TOKEN) - whole_bytes(shapes, N_TOKEN) - 4 * shapes.layer_weights
    return shapes.n_layer * each


@pytest.mark.parametrize("name", ["llama", "qwen3-tied"])
def test_a_backward_pass_keeps_what_is_foretold_of_every_layer(name, tmp_path):
    save_folder(tmp_path, name)
    model = load_torch_model(tmp_path).model
    model.requires_grad_(True)
    counted = kept_for_backward(model)
    shapes = shapes_of(open_layered(tmp_path).slots.values())
    assert counted <= foretold(shapes) <= 1.5 * counted
