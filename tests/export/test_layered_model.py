"""A model whose layers come and go computes what the whole one does and holds what it may."""

import pytest
import torch

from csaq_export.budget.probe import make_probe
from csaq_export.budget.walk import divergences
from csaq_export.layered_model import open_layered
from csaq_export.torch_model import load_torch_model
from csaq_runtime.errors import ModelError
from tests.export.models import save_folder

CPU = torch.device("cpu")
KINDS = ["llama", "llama-biased", "llama3-tied", "mistral", "qwen2-tied", "qwen3"]
TOKENS = torch.randint(0, 300, (3, 20), generator=torch.Generator().manual_seed(1))


def held_bytes(model):
    return sum(p.nbytes for p in model.model.parameters() if not p.is_meta)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_whole_model(tmp_path, kind):
    save_folder(tmp_path, kind, torch.bfloat16)
    model = open_layered(tmp_path)
    decoder = model.decoder(TOKENS.shape[1], CPU)
    with torch.no_grad():
        with decoder.placed(decoder.embedding, CPU):
            hidden = decoder.embedding(TOKENS)
        for index, layer in enumerate(decoder.layers):
            with decoder.placed(layer, CPU):
                hidden = decoder.run_layer(index, hidden)
                assert held_bytes(model) == sum(p.nbytes for p in layer.parameters())
        with decoder.placed(decoder.norm, CPU), decoder.placed(decoder.head, CPU):
            logits = decoder.logits(hidden)
        assert held_bytes(model) == 0
        assert torch.equal(logits, load_torch_model(tmp_path).model(TOKENS).logits)


def test_no_more_is_kept_than_allowed(tmp_path):
    save_folder(tmp_path, "llama")
    model = open_layered(tmp_path)
    layer = model.model.get_decoder().layers[0]
    size = sum(parameter.nbytes for parameter in layer.parameters())
    for allowed in (0, size // 2, size):
        model = open_layered(tmp_path, allowed)
        decoder = model.decoder(8, CPU)
        for each in decoder.layers:
            with decoder.placed(each, CPU):
                pass
        assert sum(t.nbytes for t in model.kept.values()) <= allowed
    assert len(model.kept) > 0


def test_what_was_kept_is_let_go_of_when_others_need_the_room(tmp_path):
    save_folder(tmp_path, "llama")
    model = open_layered(tmp_path, 1 << 30)
    decoder = model.decoder(8, CPU)

    def place_all(model):
        for each in decoder.layers:
            with model.placed(each, CPU):
                pass
        return sum(tensor.nbytes for tensor in model.kept.values())

    whole = place_all(model)
    smaller = model.keeping(whole // 2)
    assert 0 < sum(tensor.nbytes for tensor in model.kept.values()) <= whole // 2
    assert place_all(smaller) <= whole // 2
    model.keeping(0)
    assert model.kept == {}
    assert place_all(model) == whole


@pytest.mark.parametrize("kind", ["llama", "qwen3-tied"])
def test_divergence_of_changed_copies_is_that_of_the_whole_model(tmp_path, kind):
    save_folder(tmp_path, kind)
    layered, whole = open_layered(tmp_path), load_torch_model(tmp_path)
    names = ["blk.0.attn_q.weight", "blk.2.ffn_down.weight", "token_embd.weight"]
    names += [] if layered.tied else ["output.weight"]
    values = {name: layered.read(name) * 1.1 for name in names}
    alone = [{name: lambda name=name: values[name]} for name in names]
    changes = [*alone, {name: lambda name=name: values[name] for name in names}]
    found = divergences(layered, TOKENS, changes, CPU)
    probe = make_probe(whole.model, TOKENS, 1)
    for change, divergence in zip(changes, found, strict=True):
        for name in change:
            whole.write(name, values[name])
        assert divergence == pytest.approx(probe.divergence(), rel=1e-4)
        for name in change:
            whole.write(name, layered.read(name))


def test_a_missing_tensor_is_a_model_error(tmp_path):
    from safetensors.torch import load_file, save_file

    save_folder(tmp_path, "llama")
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="up_proj"):
        open_layered(tmp_path)
