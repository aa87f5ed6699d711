import json
from dataclasses import FrozenInstanceError, replace

import pytest
from transformers.quantizers.auto import AutoQuantizationConfig

from csaq_export import CSAQConfig
from csaq_export.hf.tier import TierShape
from csaq_runtime.errors import ModelError, UsageError
from csaq_runtime.formats import GGMLType

LAYERS = {"a.b": (TierShape(8, GGMLType.Q8_0, 3), TierShape(4, GGMLType.Q4_K, 5))}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("target_bits", 1.5),
        ("target_bits", 17),
        ("target_bits", "4"),
        ("target_bits", float("nan")),
        ("bit_options", (1, 4)),
        ("bit_options", ()),
        ("bit_options", "4,8"),
        ("clique_threshold", 0.0),
        ("clique_threshold", 1.01),
        ("protection_floor", 1.0),
        ("protection_floor", -0.1),
        ("salience_alpha", float("inf")),
        ("speculative_lookahead", 0),
        ("group_size", 16),
        ("layers", {"x": [[8, "Q8_0", 0]]}),
        ("layers", {"x": [[3, "Q8_0", 1]]}),
        ("layers", {"x": [[8, "Q9", 1]]}),
        ("layers", {"x": [[4, "Q4_0", 1], [8, "Q8_0", 1]]}),
        ("layers", {"x": [[8, "Q8_0", 1], [8, "Q8_0", 1]]}),
        ("layers", {"x": []}),
        ("layers", []),
    ],
)
def test_senseless_settings_are_refused_by_name(setting, value):
    with pytest.raises(UsageError, match=setting):
        CSAQConfig(**{setting: value})
    with pytest.raises(ModelError, match=f"quantization_config.*{setting}"):
        CSAQConfig.from_dict({"quant_method": "csaq", setting: value})


def test_a_config_cannot_be_changed():
    config = CSAQConfig()
    with pytest.raises(FrozenInstanceError):
        config.target_bits = 5.0
    with pytest.raises(FrozenInstanceError):
        config.other = 1
    with pytest.raises(FrozenInstanceError):
        del config.target_bits
    assert replace(config, target_bits=5.0).target_bits == 5.0


def test_options_are_sorted_and_counted_once():
    assert CSAQConfig(bit_options=[8, 4, 8]).bit_options == (4, 8)


def test_transformers_reads_back_what_it_writes():
    config = CSAQConfig(target_bits=5.25, bit_options=[4, 8], group_size=128, layers=LAYERS)
    values = json.loads(config.to_json_string())
    assert values["quant_method"] == "csaq"
    assert AutoQuantizationConfig.from_dict(values) == config


def test_unknown_settings_of_a_file_are_refused():
    with pytest.raises(ModelError, match="colour"):
        CSAQConfig.from_dict({"quant_method": "csaq", "colour": 1})


def test_what_is_no_setting_is_handed_back():
    config, rest = CSAQConfig.from_dict({}, return_unused_kwargs=True, target_bits=5, other=1)
    assert config.target_bits == 5
    assert rest == {"other": 1}
