"""Train the demo model on TinyStories: `../shared/data/tinystories` → `demo/model`.

A 5.8 M-parameter Llama whose rows are all multiples of 256. Muon updates the
matrices inside the layers, AdamW the embedding and the norms; the learning rate
warms up, stays flat and decays linearly over the last part of the run, so a run
can be stopped, resumed (`--work-dir`) or cut short (`--steps`) and still end well.

    python demo/train.py --steps 3000
"""

import argparse
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from vocabulary import END_OF_STORY, train_vocabulary

HERE = Path(__file__).resolve().parent
STORIES = HERE.parent.parent / "shared" / "data" / "tinystories"


@dataclass(frozen=True)
class Recipe:
    """What decides the trained weights: batch shape, schedule and seed."""

    steps: int
    decay_steps: int
    n_batch: int = 12
    n_ctx: int = 512
    warmup_steps: int = 60
    matrix_lr: float = 4e-3
    vector_lr: float = 3e-3
    weight_decay: float = 0.1
    seed: int = 20261123


def build_model(n_vocab: int, n_ctx: int) -> LlamaForCausalLM:
    """A Llama with grouped-query attention (4 heads, 2 key/value heads) and tied embeddings."""
    config = LlamaConfig(
        vocab_size=n_vocab,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=n_ctx,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.02,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def read_stories(path: Path) -> list[str]:
    """The stories of a TinyStories file, separators removed."""
    parts = path.read_text(encoding="utf-8").split(END_OF_STORY)
    return [part.strip() for part in parts if part.strip()]


def encode_stories(tokenizer: PreTrainedTokenizerFast, stories: list[str]) -> Tensor:
    """One long id row, int64: `<|endoftext|>` before every story and after the last."""
    ids = [0]
    for encoded in tokenizer(stories)["input_ids"]:
        ids += [*encoded, 0]
    return torch.tensor(ids)


def batch_at(ids: Tensor, recipe: Recipe, step: int) -> Tensor:
    """Batch number `step`, int64 [n_batch, n_ctx + 1].

    Each pass over the text has its own seeded offset and order, so a resumed run
    sees the same batches as an uninterrupted one.
    """
    per_pass = (len(ids) - recipe.n_ctx - 1) // (recipe.n_ctx * recipe.n_batch)
    n_pass, index = divmod(step, per_pass)
    generator = torch.Generator().manual_seed(recipe.seed + n_pass)
    offset = int(torch.randint(recipe.n_ctx, (1,), generator=generator))
    order = torch.randperm(per_pass * recipe.n_batch, generator=generator)
    starts = offset + order[index * recipe.n_batch : (index + 1) * recipe.n_batch] * recipe.n_ctx
    return torch.stack([ids[start : start + recipe.n_ctx + 1] for start in starts.tolist()])


def learning_rate(recipe: Recipe, step: int) -> float:
    """Factor on the base rates: linear warm-up, flat, linear decay to zero at `steps`."""
    return min((step + 1) / recipe.warmup_steps, 1.0, (recipe.steps - step) / recipe.decay_steps)


def build_optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers; AdamW for embedding and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(
            matrices, recipe.matrix_lr, recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, recipe.vector_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


@torch.no_grad()
def validation_loss(model: torch.nn.Module, ids: Tensor, n_ctx: int, n_batch: int) -> float:
    """Mean cross-entropy in nats per token over consecutive windows of `ids`."""
    n_window = (len(ids) - 1) // n_ctx // n_batch * n_batch
    windows = ids[: n_window * n_ctx + 1].unfold(0, n_ctx + 1, n_ctx)
    losses = [token_loss(model, chunk).item() for chunk in windows.split(n_batch)]
    return sum(losses) / len(losses)


def token_loss(model: torch.nn.Module, windows: Tensor) -> Tensor:
    """Cross-entropy of each next token of `windows`, int64 [n, n_ctx + 1]."""
    with torch.autocast("cpu", torch.bfloat16, torch.cpu._is_avx512_bf16_supported()):
        logits = model(windows[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())


def update(
    model: torch.nn.Module,
    optimizers: list[torch.optim.Optimizer],
    recipe: Recipe,
    ids: Tensor,
    step: int,
) -> float:
    """One step of training on batch number `step` of `ids`; returns its loss."""
    for optimizer, rate in zip(optimizers, (recipe.matrix_lr, recipe.vector_lr), strict=True):
        optimizer.param_groups[0]["lr"] = rate * learning_rate(recipe, step)
    loss = token_loss(model, batch_at(ids, recipe, step))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


def save_state(
    work: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], step: int
) -> None:
    """Write everything a resumed run needs into one safetensors file, atomically."""
    tensors = {f"model.{k}": v for k, v in model.named_parameters()}
    for i, optimizer in enumerate(optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{j}.{k}": torch.as_tensor(v) for k, v in state.items()}
    save_file(
        {k: v.detach().contiguous() for k, v in tensors.items()},
        work / "state.partial",
        {"step": str(step)},
    )
    os.replace(work / "state.partial", work / "state.safetensors")


def load_state(work: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer]) -> int:
    """Restore what `save_state` wrote; returns the step to go on from (0 without a file)."""
    path = work / "state.safetensors"
    if not path.exists():
        return 0
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    for i, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, *rest = name.split(".")
            if kind == "optimizer" and int(rest[0]) == i:
                state.setdefault(int(rest[1]), {})[rest[2]] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    history = (work / "history.jsonl").read_text().splitlines()
    return 1 + max(json.loads(line)["step"] for line in history)


def train(recipe: Recipe, work: Path, eval_every: int) -> LlamaForCausalLM:
    """Run `recipe`, resuming from `work` if it holds a state; returns the trained model."""
    torch.manual_seed(recipe.seed)
    stories = read_stories(STORIES / "train.txt")
    tokenizer = train_vocabulary(stories)
    tokenizer.save_pretrained(work / "tokenizer")
    train_ids = encode_stories(tokenizer, stories)
    valid_ids = encode_stories(tokenizer, read_stories(STORIES / "valid.txt"))
    model = build_model(len(tokenizer), recipe.n_ctx)
    optimizers = build_optimizers(model, recipe)
    first = load_state(work, model, optimizers)
    fast = torch.compile(model)
    print(f"{len(train_ids):,} training tokens, {model.num_parameters():,} parameters", flush=True)
    running, began = math.nan, time.monotonic()
    for step in range(first, recipe.steps):
        loss = update(fast, optimizers, recipe, train_ids, step)
        running = loss if math.isnan(running) else 0.95 * running + 0.05 * loss
        if (step + 1) % eval_every == 0 or step + 1 == recipe.steps:
            valid = validation_loss(fast, valid_ids, recipe.n_ctx, recipe.n_batch)
            line = {"step": step, "train": round(running, 4), "valid": round(valid, 4)}
            line["tokens"] = (step + 1) * recipe.n_batch * recipe.n_ctx
            line["seconds"] = round(time.monotonic() - began)
            with (work / "history.jsonl").open("a") as history:
                history.write(json.dumps(line) + "\n")
            save_state(work, model, optimizers, step)
            print(line, flush=True)
    return model


def export_model(model: LlamaForCausalLM, recipe: Recipe, work: Path, out: Path) -> None:
    """Write the Hugging Face folder: bf16 weights, tokenizer, and the recipe with its history."""
    model.config.use_cache = True
    model.bfloat16().save_pretrained(out)
    PreTrainedTokenizerFast.from_pretrained(work / "tokenizer").save_pretrained(out)
    history = [json.loads(line) for line in (work / "history.jsonl").read_text().splitlines()]
    (HERE / "training.json").write_text(
        json.dumps({"recipe": asdict(recipe), "history": history}, indent=1) + "\n"
    )


def main() -> None:
    """Parse the command line, train and export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--decay-steps", type=int, default=900)
    parser.add_argument("--eval-every", type=int, default=100)
    parser.add_argument("--work-dir", type=Path, default=HERE / "work")
    parser.add_argument("--out", type=Path, default=HERE / "model")
    args = parser.parse_args()
    recipe = Recipe(args.steps, args.decay_steps)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    model = train(recipe, args.work_dir, args.eval_every)
    export_model(model, recipe, args.work_dir, args.out)


if __name__ == "__main__":
    main()
