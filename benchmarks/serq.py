"""SERQ and its rivals with activations of 16, 8 and 4 bits, in torch: a Markdown table.

    python -m benchmarks.serq MODEL --calib calib.txt --text valid.txt --text wiki.test.raw

Only the matrices inside the layers are rounded, all to the same type and by the same curvature:
GPTQ      error feedback alone
L²QER     rounded to the nearest under searched scales; the error's best approximation of the
          given rank under inputs of their mean squares (by SVD), at full precision
GPTQ+SVD  the same correction of what error feedback leaves
flat      SERQ's flattened inputs and error feedback, no factor
SERQ      flattened inputs and a factor for the most salient columns

A factor of rank r takes two matrices of r for L²QER and one for SERQ, so equal ranks are not equal
bytes: L²QER's take about twice as many. Activations: one scale per token, or MXFP4 in groups of 32.
Cells are mean KL divergence from the original in nats and perplexity, every position counted.
"""

import argparse
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.ablation import input_squares
from csaq_export.budget.probe import Probe, make_probe
from csaq_export.calibrated import silent
from csaq_export.calibration import read_calibration
from csaq_export.guidance import Calibrating
from csaq_export.methods.serq.activations import (
    Activations,
    replaced,
    rounded_inputs,
    serq_tensors,
)
from csaq_export.methods.serq.rounding import Folded, fold_model
from csaq_export.methods.session import Session, open_session
from csaq_export.pipeline import Conversion
from csaq_export.quantize import decode, encode
from csaq_export.quantize.guided import encode_guided
from csaq_export.torch_model import TorchModel, load_tokenizer, load_torch_model
from csaq_runtime.formats import GGMLType

Tensors = Iterable[tuple[str, Tensor]]
ACTIVATIONS = {
    "A16": None,
    "A8": Activations(8),
    "A4": Activations(4),
    "MXFP4": Activations(4, mxfp4=True),
}
N_CTX, BATCH_SIZE = 256, 4


def main() -> None:
    """Calibrate once, measure all, print."""
    args = arguments()
    calibrating = Calibrating(str(args.calib), args.nsamples, N_CTX, 0, "cpu")
    model, tokenizer = load_torch_model(args.model), load_tokenizer(args.model)
    torch.set_num_threads(1)  # rounding consists of operations too small for more
    shape = (args.chunks, N_CTX, 1)
    texts = {path: read_calibration(str(path), tokenizer, *shape).tokens for path in args.text}
    probes = [make_probe(model.model, tokens, BATCH_SIZE) for tokens in texts.values()]
    heads = [f"{path.stem}, {name}" for path in texts for name in ACTIVATIONS]
    print(f"| matrices | method | {' | '.join(heads)} |\n" + "|---" * (2 + len(heads)) + "|")
    with tempfile.TemporaryDirectory() as folder:
        conversion = Conversion(str(args.model), Path(folder, "none.gguf"), "")
        with open_session(conversion, calibrating, args.work_dir, silent) as session:
            folded = fold_model(session)
            for matrices, method, tensors in models(session, folded, args.types, args.ranks):
                with replaced(model, tensors):
                    cells = [cell for probe in probes for cell in measured(model, probe)]
                print(f"| {matrices} | {method} | {' | '.join(cells)} |", flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--types", nargs="+", default=["Q4_K", "MXFP4"])
    parser.add_argument("--ranks", nargs="+", type=int, default=[8, 128])
    parser.add_argument("--nsamples", type=int, default=32)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--work-dir", type=Path)
    return parser.parse_args()


def models(
    session: Session, folded: Folded, types: Sequence[str], ranks: Sequence[int]
) -> Iterator[tuple[str, str, Tensors]]:
    """Name of the type, of the method, and the tensors that differ from the original."""
    yield "original", "", ()
    for name in types:
        kind = GGMLType[name]
        made = rounded(session, kind, feedback=True)
        yield name, "GPTQ", made.items()
        for rank in ranks:
            yield name, f"GPTQ+SVD, rank {rank}", corrected(session, made, rank)
        made = rounded(session, kind, feedback=False)
        for rank in ranks:
            yield name, f"L²QER, rank {rank}", corrected(session, made, rank)
        yield name, "flat", serq_tensors(session, folded, kind, 0)
        for rank in ranks:
            yield name, f"SERQ, rank {rank}", serq_tensors(session, folded, kind, rank)


def rounded(session: Session, kind: GGMLType, feedback: bool) -> dict[str, Tensor]:
    """Matrices of the layers as they come back from a type."""
    guidance, squares = session.guidance, input_squares(session.guidance)
    made = {}
    for name in session.linears():
        weight = guidance.model.read(name)
        if feedback:
            packed = encode_guided(weight, kind, guidance.sensitivities[name], n_sweep=0)
        else:
            packed = encode(weight, kind, squares(name).float())
        made[name] = decode(packed, kind)
    return made


def corrected(session: Session, made: dict[str, Tensor], rank: int) -> Tensors:
    """The same matrices and a correction of `rank` to each."""
    squares = input_squares(session.guidance)
    for name, values in made.items():
        error = session.guidance.model.read(name) - values
        yield name, values + best_approximation(error, squares(name), rank)


def best_approximation(error: Tensor, square: Tensor, rank: int) -> Tensor:
    """Of `rank`, under inputs of these mean squares (L²QER, arXiv 2402.02446; the mean square
    instead of the mean magnitude as in QERA, arXiv 2410.06040)."""
    scale = square.to(error).sqrt()
    scale = scale.clamp(min=1e-4 * float(scale.max()))
    u, s, v = torch.linalg.svd(error * scale, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank] / scale


@torch.no_grad()
def measured(model: TorchModel, probe: Probe) -> Iterator[str]:
    """Divergence from the original and perplexity with every kind of activations."""
    for activations in ACTIVATIONS.values():
        divergence = loss = 0.0
        with rounded_inputs(model.model, activations):
            for tokens, p in zip(probe.tokens, probe.log_probs, strict=True):
                q = model.model(tokens).logits.log_softmax(-1)
                divergence += float((p.exp() * (p - q)).sum()) / p[..., 0].numel()
                loss -= float(q[:, :-1].gather(-1, tokens[:, 1:, None]).mean())
        n = len(probe.tokens)
        yield f"{divergence / n:.4f}, {math.exp(loss / n):.2f}"


if __name__ == "__main__":
    main()
