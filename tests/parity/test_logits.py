"""Our runtime and llama.cpp read the same file and must compute the same logits.

Quantized files: both round activations to int8. A float32 sum in another order sometimes lands
on the other side of a rounding boundary, and attention hands such a flip to every later
position, where it moves logits by about 1 % of their spread. Top-1 agreement is therefore
measured over many short sequences: there most positions agree to 1e-6, and a difference in
arithmetic shows at once. The divergence must also stay small over one long sequence.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from csaq_export.pipeline import Conversion, convert
from csaq_runtime.engine import Engine
from csaq_runtime.evaluate import log_softmax
from tests.export.models import build_model, byte_level_tokenizer
from tests.parity.oracle import logits as oracle_logits

ROOT = Path(__file__).resolve().parents[2]
N_POSITION = 512
SHORT = 8
FLOAT_TYPES = ("F32", "F16")
QUANTIZED_TYPES = (
    *("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "Q5_0", "Q5_1", "Q4_0", "Q4_1"),
    *("IQ4_NL", "IQ4_XS", "Q4_K_M"),
)
ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "demo")
# Rows of 256 and 512, so that super-blocks apply to every matrix.
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "head_dim": 64,
    "max_position_embeddings": N_POSITION,
}


@dataclass(frozen=True)
class Agreement:
    """How far two logit tables [n, n_vocab] are apart.

    largest: of |difference|, as a share of the reference's spread (largest − smallest logit);
    top_1: share of positions with the same most likely token; divergence: mean
    KL(reference ‖ ours) in nats.
    """

    largest: float
    top_1: float
    divergence: float


def compare(reference: NDArray[np.float32], ours: NDArray[np.float32]) -> Agreement:
    """Agreement of `ours` with `reference`."""
    p, q = (log_softmax(table) for table in (reference, ours))
    return Agreement(
        largest=float(np.abs(reference - ours).max() / np.ptp(reference)),
        top_1=float((reference.argmax(1) == ours.argmax(1)).mean()),
        divergence=float((np.exp(p) * (p - q)).sum(1).mean()),
    )


@cache
def hugging_face_folder(architecture: str, parent: Path) -> Path:
    """The demo model, or a random one with byte-level tokenizer under `parent`."""
    if architecture == "demo":
        return ROOT / "demo" / "model"
    folder = parent / architecture
    build_model(architecture, **SHAPE).save_pretrained(folder)
    pre = "qwen2" if architecture.startswith("qwen") else "llama-bpe"
    byte_level_tokenizer(pre).save_pretrained(folder)
    return folder


def token_ids(engine: Engine, architecture: str) -> NDArray[np.int64]:
    """`N_POSITION` ids: a story for the demo model, random ones for random weights."""
    if architecture == "demo":
        text = (ROOT / "demo" / "stories.txt").read_text(encoding="utf-8")
        return np.array(engine.vocabulary.encode(text)[:N_POSITION])
    return np.random.default_rng(7).integers(0, engine.hparams.n_vocab, N_POSITION)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def measure(
    architecture: str, type_name: str, folder: Path, out: Path, n_position: int
) -> Agreement:
    """Convert, run sequences of `n_position` tokens in both, compare."""
    source = hugging_face_folder(architecture, folder)
    path = out / f"{architecture}-{type_name}.gguf"
    convert(Conversion(str(source), path, type_name))
    with Engine.open(path, n_ctx=N_POSITION, cache_type="f32") as engine:
        sequences = token_ids(engine, architecture).reshape(-1, n_position).tolist()
        ours = np.concatenate([engine.logits(ids) for ids in sequences])
    return compare(oracle_logits(path, *sequences), ours)


@pytest.mark.parametrize("type_name", FLOAT_TYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_of_float_files_equal_those_of_llama_cpp(
    architecture: str, type_name: str, folder: Path, tmp_path: Path
) -> None:
    # F16: both round activations to float16; where float32 sums in another order land on the
    # other side of a rounding boundary, one flip moves a logit of these models by about 2e-4.
    agreement = measure(architecture, type_name, folder, tmp_path, N_POSITION)
    print(architecture, type_name, agreement)
    assert agreement.largest <= 1e-3


@pytest.mark.parametrize("type_name", QUANTIZED_TYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_of_quantized_files_agree_with_those_of_llama_cpp(
    architecture: str, type_name: str, folder: Path, tmp_path: Path
) -> None:
    agreement = measure(architecture, type_name, folder, tmp_path, SHORT)
    print(architecture, type_name, agreement)
    assert agreement.top_1 >= 0.99
    assert agreement.divergence <= 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_bf16_file_computes_what_llama_cpp_does_with_the_same_weights_in_f32(
    architecture: str, folder: Path, tmp_path: Path
) -> None:
    # On BF16 files llama.cpp rounds activations to 8 bits of mantissa; we keep them in float32,
    # so the file itself only agrees statistically, and its weights as F32 agree closely.
    source = hugging_face_folder(architecture, folder)
    half, single = tmp_path / "bf16.gguf", tmp_path / "f32.gguf"
    convert(Conversion(str(source), half, "BF16"))
    convert(Conversion(str(half), single, "F32"))
    with Engine.open(half, n_ctx=N_POSITION, cache_type="f32") as engine:
        ids = token_ids(engine, architecture).tolist()
        ours = engine.logits(ids)
    assert compare(oracle_logits(single, ids), ours).largest <= 1e-3
    assert compare(oracle_logits(half, ids), ours).divergence <= 1e-3


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "demo"])
def test_a_long_context_of_a_quantized_file_diverges_no_further_from_llama_cpp(
    architecture: str, folder: Path, tmp_path: Path
) -> None:
    agreement = measure(architecture, "Q4_K_M", folder, tmp_path, N_POSITION)
    print(architecture, "Q4_K_M, long", agreement)
    assert agreement.divergence <= 1e-3
