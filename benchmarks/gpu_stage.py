"""Calibration and quantization of a large shape on the device at hand: time, memory, rates.

    python -m benchmarks.gpu_stage --shape 8B --device cuda --work /scratch/gpu-stage
    python -m benchmarks.gpu_stage --shape tiny --device cpu --work /tmp/gpu-stage

Random weights of the shape are written layer by layer, then calibrated and converted to
--bpw end to end. Prints one JSON object: seconds and peak memory per stage, calibration
over a plain forward and backward pass, shares of the device's matrix rate and memory
bandwidth, weights rounded per second, equal codes between CPU and device, and AutoRound's
times where it is installed. What the machine cannot tell is null.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.random_folder import llama_config, write_random_folder
from benchmarks.stage_clock import StageClock
from csaq_export.budget.target import Target
from csaq_export.calibrated import SWEEPS, Request, convert_calibrated
from csaq_export.device import find_device
from csaq_export.estimate import estimate_conversion
from csaq_export.estimate.clock import timed, timed_alone
from csaq_export.footprint import shapes_of
from csaq_export.guidance import Calibrating
from csaq_export.layered_model import LayeredModel, open_layered
from csaq_export.pipeline import Conversion
from csaq_export.quantize import CODE_FORMATS
from csaq_export.quantize.coded import unpack
from csaq_export.quantize.guided import encode_guided
from csaq_export.sensitivity import Sensitivity, Term
from csaq_runtime.formats import GGMLType

# n_layer, n_embd, n_ff, n_head, n_head_kv, n_vocab
SHAPES = {
    "tiny": (2, 256, 768, 4, 2, 4096),
    "0.4B": (24, 1024, 3328, 16, 8, 16384),
    "8B": (32, 4096, 14336, 32, 8, 128256),
}
COMPARED = (GGMLType.Q2_K, GGMLType.Q3_K, GGMLType.IQ4_XS, GGMLType.Q4_K, GGMLType.Q6_K)
# These have no descent: every effort takes the same.
CODEBOOKS = (GGMLType.IQ2_XS, GGMLType.IQ3_S)


def rates(device: torch.device) -> dict[str, float]:
    """Multiply-adds per second of the model's matrix type, and bytes per second copied."""
    size = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    one = torch.randn(size, size, device=device, dtype=dtype)
    moved = torch.empty(
        1 << (30 if device.type == "cuda" else 26), device=device, dtype=torch.uint8
    )
    found = {"matrix": best(lambda: one @ one, device), "copy": best(lambda: moved.clone(), device)}
    return {"multiply_adds": size**3 / found["matrix"], "bytes": 2 * moved.nbytes / found["copy"]}


def best(work: Callable[[], object], device: torch.device) -> float:
    """Least seconds of five; all cores together on a CPU."""
    work()
    return min(timed(work, device) for _ in range(5))


def plain_seconds(model: LayeredModel, n_window: int, seq_len: int, device: torch.device) -> float:
    """Seconds of one forward and backward pass with weight gradients over all tokens."""
    n_batch_window = max(1, 2048 // seq_len)
    decoder = model.decoder(seq_len, device)
    n_embd = decoder.embedding.weight.shape[1]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    states = torch.randn(n_batch_window, seq_len, n_embd, device=device, dtype=dtype)
    states.requires_grad_(True)

    def through(module: torch.nn.Module, run: Callable[[], torch.Tensor]) -> float:
        with decoder.placed(module, device):
            module.requires_grad_(True)
            seconds = best(lambda: run().float().sum().backward(), device)  # type: ignore[no-untyped-call]
            module.requires_grad_(False)
        return seconds

    layer = through(decoder.layers[0], lambda: decoder.run_layer(0, states))
    with decoder.placed(decoder.norm, device):
        head = through(decoder.head, lambda: decoder.logits(states).float().log_softmax(-1))
    return (len(decoder.layers) * layer + head) * n_window / n_batch_window


def equal_codes(device: torch.device) -> dict[str, float]:
    """Share of codes that CPU and device give alike, by type, on one random matrix."""
    weight, inputs = torch.randn(256, 1024), torch.randn(4096, 1024)
    term = Term(inputs.T @ inputs / 4096, torch.ones(256))
    found = {}
    for kind in COMPARED:
        assert kind in CODE_FORMATS
        here, there = (
            unpack(encode_guided(weight.to(d), kind, Sensitivity((term,)).to(d), 2).cpu(), kind)
            for d in (torch.device("cpu"), device)
        )
        found[kind.name] = float((here.codes == there.codes).double().mean())
    return found


def rounding_rates(device: torch.device) -> dict[str, dict[str, float]]:
    """Weights rounded per second by type and effort: one matrix, its factors included."""
    size = 4096 if device.type == "cuda" else 1024
    weight, inputs = torch.randn(size, size), torch.randn(2 * size, size)
    sensitivity = Sensitivity((Term(inputs.T @ inputs / len(inputs), torch.ones(size)),))
    there, guided = weight.to(device), sensitivity.to(device)
    found: dict[str, dict[str, float]] = {}
    for kind in (*COMPARED, *CODEBOOKS):
        encode_guided(there[:8], kind, guided.of_rows(torch.arange(8, device=device)), 1)
        found[kind.name] = {}
        for effort, n_sweep in SWEEPS.items():
            work = partial(encode_guided, there, kind, guided, n_sweep)
            found[kind.name][effort] = weight.numel() / timed_alone(work, device)
            if kind in CODEBOOKS:
                break
    return found


def autoround_seconds(folder: Path, work: Path, n_window: int, seq_len: int) -> dict[str, float]:
    """Seconds of AutoRound's GGUF export, round-to-nearest and tuned; empty if not installed."""
    if importlib.util.find_spec("auto_round") is None:
        return {}
    found = {}
    for name, iters in (("rtn", 0), ("tuned", 200)):
        command = [sys.executable, "-m", "auto_round", "--model", str(folder),
                   "--iters", str(iters), "--format", "gguf:q4_k_m",
                   "--nsamples", str(n_window), "--seqlen", str(seq_len),
                   "--output_dir", str(work / f"autoround-{name}")]  # fmt: skip
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, check=False)
        found[name] = time.perf_counter() - began if done.returncode == 0 else float("nan")
    return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the model, convert it, and compare."""
    device, work = find_device(arguments.device), Path(arguments.work)
    folder, text = work / f"random-{arguments.shape}", work / "calib.txt"
    if not (folder / "model.safetensors.index.json").exists():
        write_random_folder(folder, llama_config(*SHAPES[arguments.shape]))
    text.write_text("Once upon a time there was a little dog. " * (arguments.nsamples * 400))
    model = open_layered(folder)
    shapes = shapes_of(model.slots.values())
    calibrating = Calibrating(str(text), arguments.nsamples, arguments.seqlen, 0, arguments.device)
    request = Request(calibrating, Target(bpw=arguments.bpw), arguments.effort)
    conversion = Conversion(str(folder), work / "out.gguf", "Q4_K_M", force=True)
    forecast = estimate_conversion(conversion, request)
    clock = StageClock(device)
    plan = convert_calibrated(conversion, request, clock)
    clock.finish()
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "weights": shapes.n_weight,
        "bpw": plan.bpw,
        "stages": {
            name: {"seconds": taken.seconds, "peak_bytes": taken.peak}
            for name, taken in clock.stages.items()
        },
        "estimate": {stage.name: [stage.seconds, stage.memory] for stage in forecast.stages},
        **_ratios(clock, model, arguments, device),
        "rounded_per_second": rounding_rates(device),
        "equal_codes": equal_codes(device) if device.type == "cuda" else None,
        "autoround": autoround_seconds(folder, work, arguments.nsamples, arguments.seqlen) or None,
    }


def _ratios(
    clock: StageClock, model: LayeredModel, arguments: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Calibration against the plain pass and the device's rates; rounding in weights per second."""
    shapes, rate = shapes_of(model.slots.values()), rates(device)
    n_token = arguments.nsamples * arguments.seqlen * 7 / 8
    calibration = sum(clock.stages[name].seconds for name in ("forward", "backward"))
    plain = plain_seconds(model, arguments.nsamples * 7 // 8, arguments.seqlen, device)
    squares = sum(n_col * n_col for _, n_col in shapes.layer) * shapes.n_layer
    adds = n_token * (4 * shapes.layer_weights * shapes.n_layer + squares)
    cores = torch.get_num_threads() if device.type == "cpu" else 1
    rounding = clock.stages["rounding"].seconds
    return {
        "calibration_over_plain": calibration / (plain / cores),
        "calibration_share_of_matrix_rate": adds / calibration / (rate["multiply_adds"] * cores),
        "rounding_weights_per_second": shapes.n_weight / rounding,
        # Each weight is read as float32 once and its curvature passes once per column block.
        "rounding_share_of_bandwidth": 8 * shapes.n_weight / rounding / (rate["bytes"] * cores),
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", choices=SHAPES, default="8B")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work", required=True)
    parser.add_argument("--nsamples", type=int, default=128)
    parser.add_argument("--seqlen", type=int, default=2048)
    parser.add_argument("--bpw", type=float, default=4.25)
    parser.add_argument("--effort", default="normal")
    arguments = parser.parse_args()
    Path(arguments.work).mkdir(parents=True, exist_ok=True)
    print(json.dumps(measure(arguments), indent=1))


if __name__ == "__main__":
    main()
