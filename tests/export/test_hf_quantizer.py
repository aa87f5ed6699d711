import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from csaq_export import CSAQConfig, CSAQLinear
from csaq_runtime.errors import ModelError, UsageError
from tests.export.models import build_model
from tests.export.packed_models import packed_model

IDS = torch.tensor([[5, 17, 60, 3]])
SETTINGS = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}


@pytest.fixture
def folder(tmp_path):
    model, _ = packed_model("llama")
    model.save_pretrained(tmp_path)
    return tmp_path


def change_config(folder, change):
    path = folder / "config.json"
    values = json.loads(path.read_text())
    change(values["quantization_config"])
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("kind", ["llama", "llama-biased", "qwen2-tied", "qwen3"])
def test_a_saved_model_generates_as_before(kind, tmp_path):
    model, found = packed_model(kind)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    assert torch.equal(loaded.generate(IDS, **SETTINGS), model.generate(IDS, **SETTINGS))
    assert loaded.config.quantization_config == model.config.quantization_config
    for name, weight in found.items():
        linear = loaded.get_submodule(name)
        assert isinstance(linear, CSAQLinear)
        assert torch.equal(linear.rows, weight.rows)


def test_the_folder_holds_packed_rows_only(folder):
    tensors = load_file(folder / "model.safetensors")
    up = {name: t for name, t in tensors.items() if ".0.mlp.up_proj." in name}
    assert {name.rpartition(".")[2] for name in up} == {"b16", "b8", "b4", "rows"}
    assert all(t.dtype in (torch.uint8, torch.int32) for t in up.values())


def test_a_loaded_model_can_be_saved_again(folder, tmp_path):
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    loaded.save_pretrained(tmp_path / "again")
    weights = [(place / "model.safetensors").read_bytes() for place in (folder, tmp_path / "again")]
    assert weights[0] == weights[1]


def test_bfloat16_models_stay_so(tmp_path):
    model, _ = packed_model("llama")
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


def test_dequantize_gives_an_ordinary_model(folder):
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    before = loaded(IDS).logits
    plain = loaded.dequantize()
    assert not any(isinstance(module, CSAQLinear) for module in plain.modules())
    torch.testing.assert_close(plain(IDS).logits, before)


def test_an_original_model_is_not_quantized_in_passing(tmp_path):
    build_model("llama").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pre-quantized"):
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=CSAQConfig())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["layers"].update({"model.layers.0.mlp.no": [[8, "Q8_0", 1]]}), "mlp.no"),
        (lambda c: c["layers"].update({"model.norm": [[8, "Q8_0", 1]]}), "model.norm"),
        (lambda c: c["layers"]["model.layers.0.mlp.up_proj"].pop(), "rows for"),
        (lambda c: c.update(layers={}), "no layers"),
        (lambda c: c.update(target_bits="x"), "target_bits"),
    ],
)
def test_a_config_that_does_not_fit_the_model_is_refused(folder, change, words):
    change_config(folder, change)
    with pytest.raises((ModelError, UsageError), match=words):
        AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("spoilt", ["zero", "missing"])
def test_a_damaged_row_index_is_refused(folder, spoilt):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.0.mlp.up_proj.rows"
    if spoilt == "zero":
        tensors[name] = torch.zeros_like(tensors[name])
    else:
        del tensors[name]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelError, match=name if spoilt == "zero" else f"{name}: missing"):
        AutoModelForCausalLM.from_pretrained(folder)


AUTO = "import transformers.quantizers.auto as auto"


@pytest.mark.parametrize("imports", [f"import csaq_export\n{AUTO}", f"{AUTO}\nimport csaq_export"])
def test_importing_the_package_is_enough_in_any_order(imports):
    code = f"{imports}\nprint(auto.AUTO_QUANTIZER_MAPPING['csaq'].__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "CSAQHfQuantizer"


def test_importing_the_package_is_light():
    code = "import sys, csaq_export; print({'torch', 'transformers', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
