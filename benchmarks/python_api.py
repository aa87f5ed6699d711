"""CSAQ's Python API on a real model: one Markdown table of what its README promises.

    python -m benchmarks.python_api demo/model --calib train.txt --text valid.txt

Quantizes in memory, saves, loads by transformers, compares replies token for token, lets the engine
draft, and makes a GGUF of the folder. Texts are split at lines `<|endoftext|>`.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.models.auto.tokenization_auto import AutoTokenizer

from csaq_export import (
    CSAQConfig,
    CSAQInferenceEngine,
    build_calibration_data,
    compute_perplexity,
    export_csaq_model,
    quantize,
)
from csaq_export.packed_folder import convert_packed
from csaq_export.pipeline import Conversion

END = "<|endoftext|>"
N_JUDGED = 40
N_PROMPT, PROMPT_TOKENS, REPLY_TOKENS = 4, 24, 24


def main() -> None:
    """Print the table."""
    args = arguments()
    print("| | measured |\n|---|---|")
    for what, found in figures(args):
        print(f"| {what} | {found} |", flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--bits", type=float, default=4.0)
    parser.add_argument("--clique-threshold", type=float, default=0.85)
    parser.add_argument("--nsamples", type=int, default=64)
    return parser.parse_args()


def figures(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """What is measured, line by line."""
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    judged = args.text.read_text(encoding="utf-8").split(END)[:N_JUDGED]
    texts = judged[:N_PROMPT]
    before = compute_perplexity(model, tokenizer, judged)
    calib = build_calibration_data(
        tokenizer,
        custom_texts=args.calib.read_text(encoding="utf-8")[:2_000_000].split(END),
        n=args.nsamples,
        seq_len=128,
    )
    config = CSAQConfig(target_bits=args.bits, clique_threshold=args.clique_threshold)
    model, info = quantize(model, calib, config)
    yield from told(info)
    after = compute_perplexity(model, tokenizer, judged)
    yield "perplexity before, after", f"{before:.3f}, {after:.3f}"
    prompts = [tokenizer(text, return_tensors="pt").input_ids[:, :PROMPT_TOKENS] for text in texts]
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "packed"
        export_csaq_model(model, str(packed), info=info, tokenizer=tokenizer)
        loaded = AutoModelForCausalLM.from_pretrained(packed, dtype=torch.float32)
        plan = convert_packed(Conversion(str(packed), Path(folder) / "rows.gguf", ""))
    same = sum(torch.equal(reply(model, ids), reply(loaded, ids)) for ids in prompts)
    yield "replies of the loaded model equal", f"{same} of {len(prompts)}"
    yield "GGUF of the folder", f"{plan.n_bytes:,} bytes, {plan.bpw:.3f} bits per weight"
    yield from drafted(CSAQInferenceEngine(model, info["causal_map"], tokenizer), prompts)


def told(info: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Figures of `quantize`."""
    yield "actual_bits, asked for", f"{info['actual_bits']:.5f}, {info['target_bits']:g}"
    yield "model_bits", f"{info['model_bits']:.3f}"
    sizes = ", ".join(f"{n:,} of {size}" for size, n in info["clique_sizes"].items())
    yield f"{info['cliques_count']:,} cliques by rows", sizes
    n_weight = sum(info["tier_stats"].values())
    tiers = ", ".join(f"{name} {n / n_weight:.1%}" for name, n in info["tier_stats"].items())
    yield "weights by width", tiers
    yield "windows until ranks were stable", f"{info['n_window']}"
    yield "seconds", f"{info['elapsed_s']:.0f}"


def reply(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Greedy continuation by transformers."""
    found: torch.Tensor = model.generate(
        ids, max_new_tokens=REPLY_TOKENS, do_sample=False, pad_token_id=0
    )
    return found


def drafted(engine: CSAQInferenceEngine, prompts: list[torch.Tensor]) -> Iterator[tuple[str, str]]:
    """Greedy replies with drafts against plain ones."""
    settings = {"temperature": 0.0, "max_new_tokens": REPLY_TOKENS}
    plain, seconds = timed(engine, prompts, settings)
    for draft in ("ngram", "rows"):
        found, taken = timed(engine, prompts, settings | {"speculative": True, "draft": draft})
        same = sum(torch.equal(a[0], b[0]) for a, b in zip(plain, found, strict=True))
        accepted = sum(b[1].tokens_accepted for b in found) / max(
            1, sum(b[1].tokens_drafted for b in found)
        )
        yield (
            f"drafts by {draft}: replies equal, accepted, speed against plain",
            f"{same} of {len(prompts)}, {accepted:.0%}, {seconds / taken:.2f}",
        )


def timed(
    engine: CSAQInferenceEngine, prompts: list[torch.Tensor], settings: dict[str, Any]
) -> tuple[list[tuple[torch.Tensor, Any]], float]:
    """Replies with their reports, and how long all took."""
    start = time.perf_counter()
    found = [engine.generate(ids, **settings) for ids in prompts]
    return found, time.perf_counter() - start


if __name__ == "__main__":
    main()
