"""Do the free slots of a stock file pay? Biases and scales against the same bytes spent on weights.

    python -m benchmarks.free_slots demo/model --calib calib.txt --text valid.txt \
        --text wiki.test.raw --like Q2_K Q3_K_S Q4_K_M --work work

llama.cpp's llama architecture takes an F32 bias and an F32 scale for every linear layer. A bias
can take back the mean error of a rounded matrix, Δb = -ΔW·E[x]; a scale the part of the error
that lies along the matrix, by least squares under its curvature. Every line has the preset's size
at most: what the slots take, the weights lack. KL divergence from the original in torch, in nats.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from csaq_export.budget.allocate import allocate, target_bytes
from csaq_export.budget.probe import Probe, make_probe
from csaq_export.budget.target import Target
from csaq_export.calibration import read_calibration
from csaq_export.guidance import Calibrating, Guidance, curves, guide
from csaq_export.model import Model
from csaq_export.quantize import decode
from csaq_export.rounded import round_tensors
from csaq_export.sensitivity import linear_statistics
from csaq_export.source import open_model
from csaq_export.statistics import Statistics
from csaq_export.torch_model import load_tokenizer
from csaq_export.workdir import WorkDir
from csaq_export.write_gguf import padded

# Of a tensor in the file's index, beside its name: lengths, dimensions, type and offset.
INDEX_BYTES = 8 + 4 + 8 + 4 + 8
N_SWEEP = 2


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


def input_means(guidance: Guidance) -> dict[str, Tensor]:
    """E[x] of every linear layer of the decoder, float32 [n_col], by GGUF name."""
    n_layer = int(guidance.model.model.config.num_hidden_layers)
    found = linear_statistics(
        guidance.model, Statistics(guidance.work, guidance.fingerprint, n_layer)
    )
    return {name: s.input_sum.float() / float(s.n_token) for name, s in found.items()}


def slot_bytes(guidance: Guidance, names: Mapping[str, Tensor], slot: str) -> int:
    """What one bias or scale for each of `names` adds to the file."""
    rows = (guidance.model.parameter(name).shape[0] if slot == "bias" else 1 for name in names)
    index = sum(INDEX_BYTES + len(f"{name.removesuffix('weight')}{slot}") for name in names)
    return index + sum(padded(4 * n) for n in rows)


def divergences(
    guidance: Guidance, model: Model, limit: int, slot: str, probes: list[Probe]
) -> list[float]:
    """KL per text of a file of `limit` bytes whose `slot`s ("none", "bias", "scale") are filled."""
    means = input_means(guidance)
    spent = 0 if slot == "none" else slot_bytes(guidance, means, slot)
    plan = allocate(model, curves(guidance, silent), limit - spent, {})
    packed = round_tensors(plan, guidance, N_SWEEP, silent).packed(plan)
    originals = {name: guidance.model.read(name) for name in packed}
    biases: dict[nn.Linear, nn.Parameter | None] = {}
    for name, part in packed.items():
        rounded = decode(part.data, part.type)
        if slot == "scale" and name in means:
            rounded = rounded * best_scale(guidance, name, originals[name], rounded)
        before = guidance.model.parameter(name).detach().clone()
        guidance.model.write(name, rounded)
        if slot == "bias" and name in means:
            change = guidance.model.parameter(name).detach() - before
            path = guidance.model.slots[name].source.rpartition(".")[0]
            module = guidance.model.model.get_submodule(path)
            assert isinstance(module, nn.Linear)
            biases[module] = module.bias
            shift = -(change @ means[name])
            module.bias = nn.Parameter(shift if module.bias is None else module.bias + shift)
    found = [probe.divergence() for probe in probes]
    for name, values in originals.items():
        guidance.model.write(name, values)
    for module, bias in biases.items():
        module.bias = bias
    return found


def best_scale(guidance: Guidance, name: str, weight: Tensor, rounded: Tensor) -> float:
    """s that makes (s·Q - W)·H·(s·Q - W)ᵀ least."""
    sensitivity = guidance.sensitivities[name]
    (term,) = sensitivity.terms
    bent = (rounded @ term.curvature) * term.row_weight[:, None]
    return float((bent * weight).sum() / (bent * rounded).sum())


def main() -> None:
    """Print a line per size, slot and text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--like", nargs="+", default=["Q2_K", "Q3_K_S", "Q4_K_M"])
    parser.add_argument("--nsamples", type=int, default=128)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    calibrating = Calibrating(args.calib, args.nsamples, args.seqlen, 0, "cpu")
    guidance = guide(args.model, calibrating, WorkDir(args.work), silent)
    tokenizer = load_tokenizer(args.model)
    probes = []
    for text in args.text:
        windows = read_calibration(str(text), tokenizer, args.windows, args.seqlen, 1).tokens
        probes.append(make_probe(guidance.model.model, windows, 2))
    print("| size of | slots | " + " | ".join(t.name for t in args.text) + " |")
    with open_model(str(args.model)) as model, torch.no_grad():
        for preset in args.like:
            limit = target_bytes(model, Target(like=preset))
            for slot in ("none", "bias", "scale"):
                found = divergences(guidance, model, limit, slot, probes)
                cells = " | ".join(f"{value:.5f}" for value in found)
                print(f"| {preset} | {slot} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
