"""SERQ and its rivals with activations of 16, 8 and 4 bits, in torch: one Markdown table per text.

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
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.ablation import input_squares
from csaq_export.budget.probe import make_probe
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

Tensors = Iterator[tuple[str, Tensor]]
ACTIVATIONS = {
    "A16": None,
    "A8": Activations(8),
    "A4": Activations(4),
    "A4 in groups of 32": Activations(4, 32),
    "MXFP4": Activations(4, mxfp4=True),
}
N_CTX, BATCH_SIZE = 256, 4


def main() -> None:
    """Calibrate once, measure all, print."""
    args = arguments()
    calibrating = Calibrating(str(args.calib), args.nsamples, N_CTX, 0, "cpu")
    model, tokenizer = load_torch_model(args.model), load_tokenizer(args.model)
    shape = (args.chunks, N_CTX, 1)
    texts = {path: read_calibration(str(path), tokenizer, *shape).tokens for path in args.text}
    with tempfile.TemporaryDirectory() as folder:
        conversion = Conversion(str(args.model), Path(folder, "none.gguf"), "")
        with open_session(conversion, calibrating, args.work_dir, silent) as session:
            folded = fold_model(session)
            for path, tokens in texts.items():
                print(f"\n{path.name}\n\n| matrices | method | {' | '.join(ACTIVATIONS)} |")
                print("|---" * (2 + len(ACTIVATIONS)) + "|")
                for matrices, method, tensors in models(session, folded, args.types, args.ranks):
                    cells = measured(model, tensors, tokens)
                    print(f"| {matrices} | {method} | {' | '.join(cells)} |", flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--types", nargs="+", default=["Q4_K", "MXFP4", "Q2_K"])
    parser.add_argument("--ranks", nargs="+", type=int, default=[8, 128])
    parser.add_argument("--nsamples", type=int, default=64)
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--work-dir", type=Path)
    return parser.parse_args()


def models(
    session: Session, folded: Folded, types: Sequence[str], ranks: Sequence[int]
) -> Iterator[tuple[str, str, Tensors]]:
    """Name of the type, of the method, and the tensors that differ from the original."""
    yield "original", "", iter(())
    for name in types:
        kind = GGMLType[name]
        yield name, "GPTQ", rounded(session, kind, feedback=True, rank=0)
        yield name, "flat", serq_tensors(session, folded, kind, 0)
        for rank in ranks:
            yield name, f"L²QER, rank {rank}", rounded(session, kind, feedback=False, rank=rank)
            yield name, f"GPTQ+SVD, rank {rank}", rounded(session, kind, feedback=True, rank=rank)
            yield name, f"SERQ, rank {rank}", serq_tensors(session, folded, kind, rank)


def rounded(session: Session, kind: GGMLType, feedback: bool, rank: int) -> Tensors:
    """Matrices of layers rounded and corrected by `rank` singular vectors."""
    guidance, squares = session.guidance, input_squares(session.guidance)
    for name in session.linears():
        weight = guidance.model.read(name)
        if feedback:
            packed = encode_guided(weight, kind, guidance.sensitivities[name], n_sweep=0)
        else:
            packed = encode(weight, kind, squares(name))
        made = decode(packed, kind)
        yield name, made + best_approximation(weight - made, squares(name), rank)


def best_approximation(error: Tensor, square: Tensor, rank: int) -> Tensor:
    """Of `rank`, under inputs of these mean squares (L²QER, arXiv 2402.02446; the mean square
    instead of the mean magnitude as in QERA, arXiv 2410.06040)."""
    scale = square.to(error).sqrt()
    scale = scale.clamp(min=1e-4 * float(scale.max()))
    u, s, v = torch.linalg.svd(error * scale, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank] / scale


@torch.no_grad()
def measured(model: TorchModel, tensors: Tensors, tokens: Tensor) -> Iterator[str]:
    """Divergence and perplexity with every kind of activations."""
    probe = make_probe(model.model, tokens, BATCH_SIZE)
    with replaced(model, tensors):
        for activations in ACTIVATIONS.values():
            with rounded_inputs(model.model, activations):
                loss = model.model(tokens, labels=tokens).loss
                yield f"{probe.divergence():.4f}, {float(loss.exp()):.2f}"


if __name__ == "__main__":
    main()
