"""Train two small models of other shapes than the demo's: `benchmarks/work/{qwen,untied}`.

So that `benchmarks/quality.py` tunes nothing to one model: a Qwen2-style one with biases
on queries, keys and values, and an untied Llama with one head per key/value head. Text,
tokenizer and schedule are those of demo/train.py. Both begin with what fits of the demo model's
weights, cut or repeated, and are trained from there: it saves nine tenths of the steps.

    python benchmarks/train_variants.py --steps 600
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "demo"))

from train import (  # type: ignore[import-not-found]  # noqa: E402
    STORIES,
    Recipe,
    encode_stories,
    read_stories,
    update,
    validation_loss,
)

N_DEMO_LAYER = 6
# About 1.8 million tokens.
N_STORY = 9000
SHARED: dict[str, Any] = {
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "use_cache": False,
}


def build_qwen(n_vocab: int) -> Qwen2ForCausalLM:
    """Four layers with q/k/v biases, a tied embedding and a narrow feed-forward."""
    config = Qwen2Config(
        vocab_size=n_vocab, hidden_size=256, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, **SHARED,
    )  # fmt: skip
    return Qwen2ForCausalLM(config)


def build_untied(n_vocab: int) -> LlamaForCausalLM:
    """Three layers, as many key/value heads as heads, an output matrix of its own."""
    config = LlamaConfig(
        vocab_size=n_vocab, hidden_size=256, intermediate_size=768, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=False, **SHARED,
    )  # fmt: skip
    return LlamaForCausalLM(config)


BUILDERS = {"qwen": build_qwen, "untied": build_untied}


@torch.no_grad()
def warm_start(model: PreTrainedModel, demo: dict[str, torch.Tensor], n_demo_layer: int) -> None:
    """Give every parameter the demo's of the same role, fitted to its shape; biases stay."""
    n_layer = model.config.num_hidden_layers
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        if parts[1] == "layers":
            parts[2] = str(int(parts[2]) * n_demo_layer // n_layer)
        source = demo.get(".".join(parts).replace("lm_head", "model.embed_tokens"))
        if source is not None:
            parameter.copy_(fitted(source.float(), parameter.shape))


def fitted(source: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """`source` with each dimension cut, or its halves repeated (heads shared by two queries)."""
    for axis, n in enumerate(shape):
        if n == 2 * source.shape[axis]:
            halves = source.chunk(2, axis)
            source = torch.cat([halves[0], halves[0], halves[1], halves[1]], axis)
        source = source.narrow(axis, 0, n)
    return source


def optimizers_of(model: PreTrainedModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW for all: Muon's bfloat16 products are emulated on processors without them."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    return [
        torch.optim.AdamW(matrices, betas=(0.9, 0.95), weight_decay=recipe.weight_decay),
        torch.optim.AdamW(vectors, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def train(model: PreTrainedModel, recipe: Recipe, ids: torch.Tensor) -> None:
    """Run `recipe` on `ids`, in place."""
    optimizers = optimizers_of(model, recipe)
    began = time.monotonic()
    for step in range(recipe.steps):
        loss = update(model, optimizers, recipe, ids, step)
        if step % 20 == 0:
            print(f"step {step}: {loss:.3f}, {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    """Train and export the variants that are asked for and not yet there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", nargs="*", default=list(BUILDERS), help=", ".join(BUILDERS))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "work")
    parser.add_argument("--tokenizer", type=Path, default=ROOT / "demo" / "model")
    args = parser.parse_args()
    recipe = Recipe(
        args.steps, args.steps // 2, 8, 256, warmup_steps=20, matrix_lr=1e-3, vector_lr=1e-3
    )
    demo = load_file(args.tokenizer / "model.safetensors")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.tokenizer)
    train_ids = encode_stories(tokenizer, read_stories(STORIES / "train.txt")[:N_STORY])
    valid_ids = encode_stories(tokenizer, read_stories(STORIES / "valid.txt"))[:60_000]
    for name in args.variants:
        torch.manual_seed(recipe.seed)
        model = BUILDERS[name](len(tokenizer))
        warm_start(model, demo, N_DEMO_LAYER)
        train(model, recipe, train_ids)
        valid = validation_loss(model, valid_ids, recipe.n_ctx, recipe.n_batch)
        model.config.use_cache = True
        model.bfloat16().save_pretrained(args.out / name)
        tokenizer.save_pretrained(args.out / name)
        figures = {"parameters": model.num_parameters(), "steps": args.steps, "valid": valid}
        (args.out / name / "training.json").write_text(json.dumps(figures, indent=1) + "\n")
        print(name, figures, flush=True)


if __name__ == "__main__":
    main()
