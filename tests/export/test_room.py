"""What does not fit is refused before any work; what fits shares memory stage by stage."""

import pytest
import torch

from csaq_export.footprint import calibration_bytes, shapes_of, tuning_bytes, whole_bytes
from csaq_export.guidance import Calibrating
from csaq_export.model import Model
from csaq_export.room import Uses, check_room
from csaq_export.weight import Weight
from csaq_runtime.errors import ResourceError
from csaq_runtime.formats import GGMLType

CPU = torch.device("cpu")


def weight(name, *shape):
    def read(start, end):
        raise AssertionError("read")

    return Weight(name, shape, GGMLType.BF16, read)


def deep_model(n_layer=200, n_embd=512, n_vocab=1024):
    """Many layers that are small: as a whole it takes far more than one layer at a time."""
    layers = [
        weight(f"blk.{index}.{name}.weight", n_embd, n_embd)
        for index in range(n_layer)
        for name in ("attn_q", "ffn_up")
    ]
    ends = [weight(f"{name}.weight", n_vocab, n_embd) for name in ("token_embd", "output")]
    return Model("deep", "llama", {}, (*ends, *layers))


@pytest.fixture(scope="module")
def model():
    return deep_model()


def wanted(limit, source="text"):
    return Calibrating(source, 8, 64, 0, "cpu", max_memory=limit)


def test_shapes_are_read_off_the_names(model):
    shapes = shapes_of(model.weights)
    assert shapes.layer == ((512, 512), (512, 512))
    assert (shapes.n_layer, shapes.embedding, shapes.tied) == (200, (1024, 512), False)
    assert shapes_of(w for w in model.weights if w.name != "output.weight").tied


def test_one_layer_at_a_time_needs_little(model):
    least = calibration_bytes(shapes_of(model.weights), 512, CPU)
    check_room(model, wanted(least + (64 << 20)), Uses())
    with pytest.raises(ResourceError, match="calibration needs"):
        check_room(model, wanted(least - 1), Uses())


def test_what_takes_the_whole_model_is_refused_where_it_does_not_fit(model):
    whole = whole_bytes(shapes_of(model.weights), 0)
    check_room(model, wanted(whole, None), Uses())
    with pytest.raises(ResourceError, match=r"whole model in memory, [\d,]+ MiB"):
        check_room(model, wanted(whole - 1, None), Uses())
    elements = Uses(rounds=False, elements=True)
    passed = whole_bytes(shapes_of(model.weights), 512)
    check_room(model, wanted(passed), elements)
    with pytest.raises(ResourceError, match="whole model in memory"):
        check_room(model, wanted(passed - 1), elements)


def test_tuning_is_refused_where_its_models_do_not_fit(model):
    needed = tuning_bytes(shapes_of(model.weights), 2048, CPU)
    check_room(model, wanted(needed), Uses(tunes=True))
    with pytest.raises(ResourceError, match=r"--effort best needs [\d,]+ MiB: 4 models"):
        check_room(model, wanted(needed - 1), Uses(tunes=True))
