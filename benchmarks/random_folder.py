"""Hugging Face folders of any Llama shape with random bfloat16 weights, written layer by layer."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from csaq_export.arch.decoder import Slot, read_hparams, slots
from csaq_export.arch.llama import FAMILY
from csaq_export.config import Config

DEMO = Path(__file__).resolve().parents[1] / "demo" / "model"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
SPREAD = 0.02


def llama_config(
    n_layer: int, n_embd: int, n_ff: int, n_head: int, n_head_kv: int, n_vocab: int
) -> dict[str, object]:
    """config.json of that shape, output matrix apart; the vocabulary is at least the demo's."""
    config: dict[str, object] = json.loads((DEMO / "config.json").read_text())
    return config | {
        "num_hidden_layers": n_layer,
        "hidden_size": n_embd,
        "intermediate_size": n_ff,
        "num_attention_heads": n_head,
        "num_key_value_heads": n_head_kv,
        "head_dim": n_embd // n_head,
        "vocab_size": n_vocab,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    }


def write_random_folder(folder: Path, config: dict[str, object]) -> None:
    """A model of that configuration with the demo's tokenizer: a shard per layer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name in TOKENIZER:
        shutil.copy(DEMO / name, folder / name)
    shards: dict[str, list[Slot]] = {}
    for slot in slots(FAMILY, read_hparams(Config(config, "config"), FAMILY)):
        if slot.required:
            layer = slot.name.split(".")[1] if slot.name.startswith("blk.") else slot.name
            shards.setdefault(f"model-{layer}.safetensors", []).append(slot)
    for number, (file, places) in enumerate(shards.items()):
        generator = torch.Generator().manual_seed(number)
        save_file({slot.source: _random(slot, generator) for slot in places}, folder / file)
    places_of = {slot.source: file for file, places in shards.items() for slot in places}
    index = {"metadata": {}, "weight_map": places_of}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _random(slot: Slot, generator: torch.Generator) -> Tensor:
    if len(slot.shape) == 1:
        return torch.ones(slot.shape, dtype=torch.bfloat16)
    return (SPREAD * torch.randn(slot.shape, generator=generator)).bfloat16()
