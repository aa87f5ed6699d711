"""Do biases and scales that a stock file may carry bring more than their bytes elsewhere?

    python -m benchmarks.free_slots MODEL --calib calib.txt --text valid.txt --text wiki.test.raw \
        --work-dir quality-files/work

llama.cpp's llama architecture takes an optional F32 bias per output of every linear layer and a
factor per matrix. For each size: the conversion as it is; the same codes with the slots
added, which makes the file larger; and as large a file as before, whose types are chosen for
what the slots leave. Biases are -ΔW·mean(x); `centred` also rounds without regard for the
mean error, which the bias takes back. Scales are the least-squares factor under the curvature.
Measured in torch, all positions of windows of each text, KL divergence in nats.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.conversion_parser import conversion_parser
from csaq_export.budget.allocate import target_bytes
from csaq_export.budget.probe import Probe, make_probe
from csaq_export.budget.swaps import Budget
from csaq_export.budget.target import Target
from csaq_export.calibrated import CODEBOOKS_BELOW, SWEEPS, silent
from csaq_export.calibration import read_calibration
from csaq_export.costs import curves
from csaq_export.guidance import Calibrating, Guidance, guide
from csaq_export.model import Model
from csaq_export.plan import Plan
from csaq_export.quantize.decode import decode
from csaq_export.quantize.guided import encode_guided
from csaq_export.rounded import round_tensors
from csaq_export.sensitivity import Sensitivities, Sensitivity, linear_places
from csaq_export.source import open_model
from csaq_export.torch_model import TorchModel, load_tokenizer, load_torch_model
from csaq_export.workdir import WorkDir
from csaq_export.write_gguf import padded

Weights = dict[str, Tensor]
BIAS, CENTRED, SCALE = "bias", "bias, centred", "scale"


@dataclass(frozen=True)
class Bench:
    """The model in torch, what is known about it, its original weights, and a probe per text."""

    guidance: Guidance
    model: TorchModel
    original: Weights
    means: Weights
    probes: Mapping[str, Probe]

    def measured(self, weights: Weights, slot: str) -> list[float]:
        """Divergence on every text with these weights and what `slot` adds to them."""
        for name, values in weights.items():
            self.model.write(name, values)
        linears = {name: self.linear(name) for name in self.means}
        if slot in (BIAS, CENTRED):
            for name, linear in linears.items():
                order = self.model.to_gguf(name, torch.arange(linear.out_features))
                change = torch.empty_like(weights[name])
                change[order] = weights[name] - self.original[name]
                linear.bias = nn.Parameter(-change @ self.means[name], requires_grad=False)
        found = [probe.divergence() for probe in self.probes.values()]
        for name, linear in linears.items():
            linear.register_parameter("bias", None)
            self.model.write(name, self.original[name])
        return found

    def linear(self, name: str) -> nn.Linear:
        """The module of a layer's matrix."""
        path = self.model.slots[name].source.removesuffix(".weight")
        module = self.model.model.get_submodule(path)
        assert isinstance(module, nn.Linear)
        return module


def slot_bytes(model: Model, names: Mapping[str, Tensor], slot: str) -> int:
    """Bytes of a file that the slots of these matrices take, with their entries in its list."""
    rows = {weight.name: weight.n_row for weight in model.weights}
    suffix = ".scale" if slot == SCALE else ".bias"
    return sum(
        padded(4 * (1 if slot == SCALE else rows[name]))
        + (8 + len(name.replace(".weight", suffix)) + 4 + 8 + 4 + 8)
        for name in names
    )


def rounded(bench: Bench, plan: Plan, slot: str) -> Weights:
    """The weights as the file's reader sees them."""
    guidance, n_sweep = bench.guidance, SWEEPS["normal"]
    if slot == CENTRED:
        return {
            tensor.name: decode(
                encode_guided(bench.original[tensor.name], tensor.type,
                              centred(bench, tensor.name), n_sweep), tensor.type
            )
            for tensor in plan.tensors
            if tensor.name in guidance.sensitivities
        }  # fmt: skip
    packed = round_tensors(plan, guidance, n_sweep, silent).packed(plan, guidance.device)
    weights = {name: part.weight() for name, part in packed.items()}
    if slot == SCALE:
        weights |= {name: scaled(bench, name, weights[name]) for name in bench.means}
    return weights


def centred(bench: Bench, name: str) -> Sensitivity:
    """The curvature without the part along the mean input, as far as it stays one."""
    found = bench.guidance.sensitivities[name]
    if name not in bench.means:
        return found
    (term,), mean = found.terms, bench.means[name].double()
    curvature = term.curvature.double()
    damped = curvature + 1e-4 * curvature.diagonal().mean() * torch.eye(len(mean))
    most = 1 / float(mean @ torch.linalg.solve(damped, mean))
    share = min(most, float(curvature.trace() / second_moment(bench, name)))
    left = curvature - share * torch.outer(mean, mean)
    return Sensitivity((replace(term, curvature=left.float()),))


def second_moment(bench: Bench, name: str) -> float:
    """Mean of |x|²: the curvature's trace over it is the mean weight of a token."""
    found = bench.guidance.sensitivities
    assert isinstance(found, Sensitivities)
    linear = found.statistics.of_one(*found.places[name][0])
    return float(linear.input_square.sum() / linear.n_token)


def scaled(bench: Bench, name: str, weight: Tensor) -> Tensor:
    """The matrix times the factor that is best under its curvature."""
    (term,) = bench.guidance.sensitivities[name].terms
    bent = (weight @ term.curvature) * term.row_weight[:, None]
    return weight * float((bent * bench.original[name]).sum() / (bent * weight).sum())


def main() -> None:
    """Measure every size with and without the slots."""
    args = arguments()
    calibrating = Calibrating(str(args.calib), args.nsamples, args.seqlen, 0, "cpu")
    guidance = guide(args.model, calibrating, WorkDir(args.work_dir), silent)
    bench = make_bench(args, guidance)
    texts = " | ".join(text.name for text in args.text)
    print(f"| size of | slot | bytes of slots | codes | {texts} |")
    print("|---|---|---|---" + "|---" * len(args.text) + "|")
    with open_model(str(args.model)) as model:
        for preset in args.presets:
            limit = target_bytes(model, Target(like=preset))
            for slot in ("", BIAS, CENTRED, SCALE):
                cost = slot_bytes(model, bench.means, slot) if slot else 0
                for codes, bound in (("same", limit), ("fewer", limit - cost)):
                    if not slot and codes == "fewer":
                        continue
                    plan = plan_within(model, guidance, bound)
                    found = bench.measured(rounded(bench, plan, slot), slot)
                    cells = " | ".join(f"{kl:.5f}" for kl in found)
                    print(f"| {preset} | {slot or 'none'} | {cost:,} | {codes} | {cells} |",
                          flush=True)  # fmt: skip


def plan_within(model: Model, guidance: Guidance, limit: int) -> Plan:
    """The solver's plan for a size."""
    n_weight = sum(weight.n_row * weight.n_col for weight in model.weights)
    small = 8 * limit < CODEBOOKS_BELOW * n_weight
    found = curves(guidance, silent)
    allowed = {n: curve if small else curve.without_codebooks() for n, curve in found.items()}
    return Budget(model, allowed, limit, {}).plan()


def make_bench(args: argparse.Namespace, guidance: Guidance) -> Bench:
    """Load the model in torch and remember what it predicts."""
    model, found = load_torch_model(args.model), guidance.sensitivities
    assert isinstance(found, Sensitivities)
    places = linear_places(guidance.model, found.statistics)
    means = {}
    for name, place in places.items():
        linear = found.statistics.of_one(*place)
        means[name] = linear.input_sum / float(linear.n_token)
    tokenizer = load_tokenizer(args.model)
    windows = {
        text.name: read_calibration(str(text), tokenizer, args.chunks, args.seqlen, 1).tokens
        for text in args.text
    }
    probes = {name: make_probe(model.model, tokens, 4) for name, tokens in windows.items()}
    original = {name: model.read(name) for name in found}
    return Bench(guidance, model, original, means, probes)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = conversion_parser(__doc__, ["Q2_K", "Q3_K_S", "Q4_K_M"], 20)
    parser.add_argument("--work-dir", type=Path, default=Path("quality-files/work"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
