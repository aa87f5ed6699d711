"""Architecture families: which Hugging Face class names convert, and to what."""

from csaq_export.arch import llama, qwen2, qwen3
from csaq_export.arch.decoder import Family
from csaq_export.config import Config
from csaq_runtime.errors import ModelError

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": llama.FAMILY,
    "MistralForCausalLM": llama.FAMILY,
    "Qwen2ForCausalLM": qwen2.FAMILY,
    "Qwen3ForCausalLM": qwen3.FAMILY,
}


def family_of(config: Config) -> Family:
    """The family named by `architectures` of config.json; ModelError for any other."""
    names = config.values.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else names
    if isinstance(name, str) and name in FAMILIES:
        return FAMILIES[name]
    raise ModelError(
        f"{config.where}: architecture {name!r} is not supported",
        f"supported: {', '.join(FAMILIES)}",
    )
