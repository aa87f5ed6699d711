"""Calibration and quantization of a large shape on the device at hand: time, memory, rates.

    python -m benchmarks.gpu_stage --shape 8B --device cuda --work /scratch/gpu-stage
    python -m benchmarks.gpu_stage --shape tiny --device cpu --work /tmp/gpu-stage

Random weights of the shape are written layer by layer, then calibrated and converted to
--bpw end to end. Prints one JSON object: seconds and peak memory per stage, calibration
over a plain forward and backward pass, shares of the matrix rate and the memory bandwidth
that the device is measured to have, weights rounded per second, equal codes between CPU and
device, and AutoRound's two modes where it is installed (null where it is not). A CPU takes the
same way as a GPU; `timed` counts its cores, so that rates are one core's.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.random_folder import llama_config, write_random_folder
from benchmarks.stage_clock import StageClock
from csaq_export.budget.target import Target
from csaq_export.calibrated import SWEEPS, Request, convert_calibrated
from csaq_export.device import compute_dtype, find_device
from csaq_export.estimate import estimate_conversion
from csaq_export.estimate.clock import timed, timed_alone
from csaq_export.footprint import Shapes, shapes_of
from csaq_export.guidance import TOKENS_AT_ONCE, Calibrating, n_held
from csaq_export.layered_model import LayeredModel, open_layered
from csaq_export.pipeline import Conversion
from csaq_export.quantize.coded import Coded, unpack
from csaq_export.quantize.guided import encode_guided
from csaq_export.quantize.packed import Packed
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


@dataclass(frozen=True)
class Work:
    """What a stage cannot do without, so that shares are those of an ideal device."""

    multiply_adds: float
    n_byte: float


def calibration_work(shapes: Shapes, n_window: int, seq_len: int, device: torch.device) -> Work:
    """Forward, forward again, gradients of inputs and of weights, curvatures; attention left out.

    A batch of TOKENS_AT_ONCE reads the weights three times; the rest of its bytes are states.
    """
    n_token, width = n_window * seq_len, compute_dtype(device).itemsize
    squares = shapes.n_layer * sum(n_col * n_col for _, n_col in shapes.layer)
    squares += shapes.embedding[1] ** 2
    head = prod(shapes.embedding)
    weights = shapes.n_layer * shapes.layer_weights
    adds = n_token * (4.0 * weights + 3.0 * head + squares)
    read = 3.0 * width * (weights + head) * (n_token / TOKENS_AT_ONCE)
    # Every matrix's inputs and outputs, forward twice and backward.
    columns = shapes.n_layer * sum(n_row + n_col for n_row, n_col in shapes.layer)
    return Work(adds, read + 3.0 * width * n_token * (columns + sum(shapes.embedding)))


def rounding_work(shapes: Shapes, n_sweep: int) -> Work:
    """Losses passed on to half of the columns, descent, and the factors (n_col³).

    A weight is read and its code is written in float32; descent reads and writes it again.
    """
    adds = sum(
        (0.5 + 2.5 * n_sweep) * n_row * n_col**2 + n_col**3 for n_row, n_col in shapes.matrices
    )
    return Work(float(adds), 8.0 * (1 + n_sweep) * shapes.n_weight)


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


def equal_codes(device: torch.device) -> dict[str, dict[str, float]]:
    """By type, how many codes the CPU and `device` give `alike` for one random matrix.

    Its curvature is summed where it is used; on the device the tokens are added in reverse
    order, so that a CPU beside itself shows what the order alone does. `loss_ratio`: what the
    device's codes lose, over what the CPU's do.
    """
    generator = torch.Generator().manual_seed(0)
    weight, inputs = (torch.randn(n, 1024, generator=generator) for n in (256, 4096))
    found = {}
    for kind in COMPARED:
        here, least = _coded(kind, inputs, weight)
        there, loss = _coded(kind, inputs.flip(0).to(device), weight.to(device))
        found[kind.name] = {**alike(here, there), "loss_ratio": loss / least}
    return found


def _coded(kind: GGMLType, inputs: Tensor, weight: Tensor) -> tuple[Coded, float]:
    """A matrix rounded, and its loss."""
    rows = torch.ones(len(weight), device=weight.device)
    sensitivity = Sensitivity((Term(inputs.T @ inputs / len(inputs), rows),))
    packed = encode_guided(weight, kind, sensitivity, 2)
    loss = sensitivity.loss(Packed(kind, packed).weight() - weight)
    return unpack(packed.cpu(), kind), loss


def alike(here: Coded, there: Coded) -> dict[str, float]:
    """Shares of equal codes, and of rows that are equal throughout."""
    equal = here.codes == there.codes
    return {"codes": float(equal.double().mean()), "rows": float(equal.all(1).double().mean())}


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


def autoround_figures(
    folder: Path, text: Path, work: Path, arguments: argparse.Namespace
) -> dict[str, Any] | None:
    """Seconds and bytes of AutoRound's Q4_K_M, round-to-nearest and tuned; None without it."""
    if importlib.util.find_spec("auto_round") is None:
        return None
    command = [sys.executable, "-P", str(Path(__file__).with_name("autoround.py")), str(folder),
               "--calib", str(text), "--out", str(work / "autoround"), "--types", "q4_k_m",
               "--nsamples", str(arguments.nsamples), "--seqlen", str(arguments.seqlen),
               "--device", find_device(arguments.device).type]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    made = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {"tuned" if each["iters"] else "rtn": each for each in made}


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
        "equal_codes": equal_codes(device),
        "autoround": autoround_figures(folder, text, work, arguments),
    }


def _ratios(
    clock: StageClock, model: LayeredModel, arguments: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Calibration against the plain pass; both stages' shares of what the device can do."""
    shapes, rate = shapes_of(model.slots.values()), rates(device)
    n_window = arguments.nsamples - n_held(arguments.nsamples)
    calibration = sum(clock.stages[name].seconds for name in ("forward", "backward"))
    rounding = clock.stages["rounding"].seconds
    plain = plain_seconds(model, n_window, arguments.seqlen, device)
    cores = torch.get_num_threads() if device.type == "cpu" else 1
    calibrating = calibration_work(shapes, n_window, arguments.seqlen, device)
    rounded = rounding_work(shapes, SWEEPS[arguments.effort])

    def share(work: Work, seconds: float) -> dict[str, float]:
        return {
            "of_matrix_rate": work.multiply_adds / seconds / (rate["multiply_adds"] * cores),
            "of_bandwidth": work.n_byte / seconds / (rate["bytes"] * cores),
        }

    return {
        "measured_rates_per_core": rate,
        "calibration_over_plain": calibration / (plain / cores),
        "calibration_share": share(calibrating, calibration),
        "rounding_share": share(rounded, rounding),
        "rounding_weights_per_second": shapes.n_weight / rounding,
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
