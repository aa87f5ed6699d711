"""The demo made 18 times as large: `python -m benchmarks.grow OUT [--head SIDECAR] [--times 8]`.

A model that says what a trained one says and takes milliseconds a token, for timing drafts. Every
width (state, heads, feed-forward) is repeated four times (`--times 8`: eight, 71 times as large)
and two layers are put in between that add nothing. The predictions stay the demo's (after
Net2Net, arXiv:1511.05641): copies of an input share its weight, unequally, and what they differ by
sums to zero. It is not trained further. Perplexities on held-out stories are printed. `--head` is
a head of the demo, which grows in the same way.
"""

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.random_folder import DEMO, TOKENIZER
from csaq_export.calibration import read_calibration
from csaq_export.torch_model import load_tokenizer
from csaq_runtime.formats import LAYOUTS, GGMLType
from csaq_runtime.speculate.head_keys import ARCHITECTURE, IDS, NORM, PREFIX

LAYERS = (0, 1, -2, 2, 3, -4, 4, 5)
"""The demo's layers in order; negative: a copy that adds nothing."""

SPREAD = 0.5
"""How far the shares of an input's copies differ, relative to a share."""

HELD = Path(__file__).resolve().parents[2] / "shared" / "data" / "tinystories" / "valid.txt"
WINDOW, N_HELD = 256, 48

SCALES = {GGMLType.Q4_K: 2, GGMLType.Q4_0: 1}
"""Numbers in float16 that begin a block of a head's matrices."""

WIDTHS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
HEAD_WIDTHS = {
    f"{PREFIX}.{name}"
    for name in (
        "embedding_length",
        "attention.head_count",
        "attention.head_count_kv",
        "feed_forward_length",
    )
}


def main() -> None:
    """Write the folder and its head."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--head", type=Path, help="sidecar of a head of the demo")
    parser.add_argument("--times", type=int, choices=(4, 8), default=4, help="of every width")
    arguments = parser.parse_args()
    out, times = arguments.out, arguments.times
    write_folder(out, times)
    if arguments.head:
        write_head(arguments.head, out.with_name(f"{out.name}-draft.gguf"), times)
    held = read_calibration(str(HELD), load_tokenizer(DEMO), N_HELD, WINDOW, 0).tokens
    print(f"demo: perplexity {perplexity(load(DEMO), held):.4f}", flush=True)
    model = load(out)
    n_weight = sum(parameter.numel() for parameter in model.parameters())
    print(f"grown: {n_weight:,} weights, perplexity {perplexity(model, held):.4f}", flush=True)


def write_folder(folder: Path, times: int) -> None:
    """The grown model as Hugging Face stores it; its widths are the demo's `times` over."""
    folder.mkdir(parents=True)
    for name in (*TOKENIZER, "generation_config.json"):
        shutil.copy(DEMO / name, folder / name)
    config = json.loads((DEMO / "config.json").read_text())
    config |= {name: config[name] * times for name in WIDTHS}
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": len(LAYERS)}))
    torch.manual_seed(0)
    weights = load_file(DEMO / "model.safetensors")
    grown = {name: value.bfloat16() for name, value in grown_tensors(weights, times)}
    save_file(grown, folder / "model.safetensors", {"format": "pt"})


def grown_tensors(weights: dict[str, Tensor], times: int) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every tensor of the grown model."""
    yield "model.embed_tokens.weight", weights["model.embed_tokens.weight"].tile(1, times)
    yield "model.norm.weight", weights["model.norm.weight"].tile(times) / times
    for number, layer in enumerate(LAYERS):
        start = f"model.layers.{abs(layer)}."
        for name in (name for name in weights if name.startswith(start)):
            adds = name.endswith(("o_proj.weight", "down_proj.weight"))
            factor = 0 if layer < 0 and adds else 1
            value = weights[name].float()
            widened = value.tile(times) if value.dim() == 1 else grown_matrix(value, times)
            yield name.replace(start, f"model.layers.{number}."), factor * widened


def grown_matrix(weight: Tensor, times: int) -> Tensor:
    """Outputs repeated; each input's weight divided among its copies."""
    share = weight.tile(times, 1) / times
    differences = [SPREAD * share.abs() * torch.randn(share.shape) for _ in range(times // 2)]
    return torch.cat([share + sign * by for by in differences for sign in (1, -1)], 1)


def load(folder: Path) -> PreTrainedModel:
    """In float32."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model


@torch.no_grad()
def perplexity(model: PreTrainedModel, held: Tensor) -> float:
    """Of windows [n, WINDOW] that were not trained on."""
    losses = [float(model(part, labels=part).loss) for part in torch.split(held, 4)]
    return math.exp(sum(losses) / len(losses))


def write_head(source: Path, path: Path, times: int) -> None:
    """The demo's head, wider; its blocks are repeated as they are, with smaller scales."""
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(path, ARCHITECTURE)
    for name, field in reader.fields.items():
        if name.startswith(PREFIX):
            value = grown_value(name, field.contents(), times)
            writer.add_key_value(name, value, field.types[0], sub_type=field.types[-1])
    for tensor in reader.tensors:
        data = grown_blocks(tensor, times)
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def grown_value(name: str, value: Any, times: int) -> Any:
    """Of a key in a head's file."""
    if name == f"{PREFIX}.block_count":
        return len(LAYERS)
    return value * times if name in HEAD_WIDTHS else value


def grown_blocks(tensor: gguf.ReaderTensor, times: int) -> NDArray[np.generic]:
    """A head's tensor: a list of tokens as it is, a vector repeated, a matrix as `grown_matrix`."""
    if tensor.name == IDS:
        return tensor.data
    if tensor.data.ndim == 1:
        by = {"state_scale.weight": times, NORM: 1 / times, "output_norm.weight": 1 / times}
        return np.tile(tensor.data, times) * np.float32(by.get(tensor.name, 1))
    kind = GGMLType(tensor.tensor_type)
    n_scale = SCALES[kind]
    blocks = np.tile(tensor.data, (times, times)).reshape(-1, LAYOUTS[kind].type_size)
    scales = blocks[:, : 2 * n_scale].copy().view(np.float16) / np.float16(times)
    blocks[:, : 2 * n_scale] = scales.view(np.uint8)
    return blocks.reshape(times * len(tensor.data), -1)


if __name__ == "__main__":
    main()
