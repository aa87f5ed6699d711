"""What a head brings: `python benchmarks/draft_head.py FILE… [--head SIDECAR] [--text STORIES]`.

Without `--head` a random one of the size that `csaq draft` would choose is used (for files of
`random_model.py`), and only costs are measured. Per file: milliseconds of a plain step; v(k), a
step of k tokens, and c, a drafted token, both in plain steps. With `--head`, on the beginnings of
held-out texts: a by position (share of drafted tokens that stood where all before them did), and
for each draft length the speed-up that S = tokens / (c·n + v(n + 1)) predicts, and what was
measured with that length fixed and with `--spec head`. Nothing else should run meanwhile.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from benchmarks.random_model import random_tensor
from csaq_export.draft.make import head_width
from csaq_export.draft.write import MATRIX_TYPES
from csaq_runtime.batch import Span
from csaq_runtime.engine import Engine
from csaq_runtime.formats import LAYOUTS, GGMLType
from csaq_runtime.hparams import HParams
from csaq_runtime.sample import Sampler, Sampling
from csaq_runtime.speculate import head as drafting
from csaq_runtime.speculate.drafter import Draft
from csaq_runtime.speculate.head import HeadDrafter
from csaq_runtime.speculate.head_file import load_head
from csaq_runtime.speculate.head_keys import ARCHITECTURE, PREFIX, TARGET_SIZES, tokens_sha256
from csaq_runtime.tensors import linear_shapes

LENGTHS = (1, 2, 3, 4, 5, 7)
N_CTX, N_PROMPT, N_TIMED = 512, 100, 25
RANDOM_IDS = {True: 16384, False: 8192}
"""Tokens of a random head, for vocabularies above and below 100,000: c4 needs 16,512 of Qwen2's."""


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--head", type=Path)
    parser.add_argument("--text", type=Path, help="texts, separated by <|endoftext|>")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("-n", type=int, default=150, help="tokens of a reply")
    arguments = parser.parse_args()
    for path in arguments.files:
        with Engine.open(path, n_ctx=N_CTX, n_threads=arguments.threads) as engine:
            costs = measure_costs(engine, arguments.head)
            print_costs(path, costs)
            if arguments.head is not None and arguments.text is not None:
                prompts = beginnings(engine, arguments.text, arguments.texts)
                compare(path, costs, prompts, arguments)


@dataclass(frozen=True)
class Costs:
    """Milliseconds of a plain step and of a draft by its length; v(k) in plain steps."""

    plain: float
    draft: dict[int, float]
    verify: dict[int, float]
    head_bytes: int

    def predicted(self, shares: Sequence[float], n: int) -> tuple[float, float]:
        """Tokens per step and speed-up of drafts of `n`, where `shares` stand by position."""
        tokens = 1 + float(np.cumprod(shares[:n]).sum())
        return tokens, tokens / (self.draft[n] / self.plain + self.verify[n + 1])


def measure_costs(engine: Engine, sidecar: Path | None) -> Costs:
    """Time steps of 1 … n tokens and drafts at a context of `N_PROMPT`."""
    ids = np.random.default_rng(0).integers(0, engine.hparams.n_vocab, N_PROMPT).tolist()
    drafter, n_bytes = open_head(engine, sidecar)
    # As nearly always, the last token is one of those that the head knows.
    ids[-1] = int(drafter._head.ids[0])
    engine.advance(ids[:-1], 0)
    hidden = engine._stepper.hidden(0)

    def step(n: int) -> None:
        engine._stepper.run([Span(engine.caches[0], ids[:n], n)])
        engine.caches[0].truncate(N_PROMPT - 1)

    plain = timed(lambda: step(1))
    verify = {n + 1: timed(lambda n=n: step(n + 1)) / plain for n in LENGTHS}
    draft = {n: timed(lambda n=n: drafter.propose(ids, n, hidden)) for n in LENGTHS}
    return Costs(plain, draft, verify, n_bytes)


def timed(work: Callable[[], object]) -> float:
    """Median milliseconds."""
    taken = []
    for _ in range(N_TIMED):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return 1000 * statistics.median(taken)


def open_head(engine: Engine, sidecar: Path | None) -> tuple[HeadDrafter, int]:
    """A drafter that never ends a draft early, and its file's bytes."""
    drafting.LEAST = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = sidecar or write_random_head(Path(folder) / "head.gguf", engine)
        head = load_head(path, engine.file, engine._stepper._model)
        n_bytes = path.stat().st_size
    drafter = HeadDrafter(head, engine.caches[0], engine._pool, max(LENGTHS))
    drafter.begin(Sampler(Sampling()))
    return drafter, n_bytes


def write_random_head(path: Path, engine: Engine) -> Path:
    """A head of the size that `csaq draft` gives one for this model."""
    h, file = engine.hparams, engine.file
    n_ids = RANDOM_IDS[h.n_vocab > 100_000]
    n_weight = sum(int(np.prod(info.shape)) for info in file.tensors.values())
    n_qkv = (h.n_head + h.n_head_kv) * h.head_dim
    n_ff = min(h.n_ff, head_width(n_weight, h.n_embd, n_qkv))
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    for key, name in TARGET_SIZES.items():
        writer.add_uint32(f"{PREFIX}.{key}", getattr(h, name))
    writer.add_uint32(f"{PREFIX}.version", 1)
    writer.add_uint32(f"{PREFIX}.feed_forward_length", n_ff)
    writer.add_float32(f"{PREFIX}.layer_norm_rms_epsilon", h.rms_epsilon)
    writer.add_string(f"{PREFIX}.architecture", h.architecture)
    tokens = file.texts("tokenizer.ggml.tokens", [])
    writer.add_string(f"{PREFIX}.tokens_sha256", tokens_sha256(tokens))
    writer.add_tensor("draft_ids", np.arange(n_ids, dtype=np.int32))
    for name, shape in head_shapes(h, n_ff).items():
        matrix = [t for t in MATRIX_TYPES if shape[-1] % LAYOUTS[t].block_size == 0]
        kind = matrix[0] if len(shape) == 2 else GGMLType.F32
        data = random_tensor(kind, shape)
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def head_shapes(h: HParams, n_ff: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a head's tensors by name."""
    matrices = {f"blk.0.{k}.weight": v for k, v in linear_shapes(h).items()}
    matrices |= {f"blk.0.ffn_{k}.weight": (n_ff, h.n_embd) for k in ("gate", "up")}
    matrices |= {"blk.0.ffn_down.weight": (h.n_embd, n_ff)}
    matrices |= {"token_proj.weight": (h.n_embd, h.n_embd)}
    vectors = ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm", "state_scale"]
    return matrices | {f"{v}.weight": (h.n_embd,) for v in [*vectors, "target_output_norm"]}


def print_costs(path: Path, costs: Costs) -> None:
    """A table of what each length costs."""
    share = costs.head_bytes / path.stat().st_size
    print(
        f"\n{path.name}: plain {costs.plain:.2f} ms; head {costs.head_bytes:,} bytes, {share:.1%}"
    )
    print("\n| n | " + " | ".join(map(str, LENGTHS)) + " |")
    print("|---" * (len(LENGTHS) + 1) + "|")
    v = [f"{costs.verify[n + 1]:.2f}" for n in LENGTHS]
    c = [f"{costs.draft[n] / n / costs.plain:.3f}" for n in LENGTHS]
    print(f"| v(n + 1) | {' | '.join(v)} |\n| c | {' | '.join(c)} |", flush=True)


def beginnings(engine: Engine, path: Path, n: int) -> list[list[int]]:
    """The first sixteen tokens of `n` texts."""
    texts = path.read_text(encoding="utf-8").split("<|endoftext|>")
    whole = [text.strip() for text in texts if len(text.strip()) > 200]
    return [engine.vocabulary.encode(text)[:16] for text in whole[:n]]


@dataclass
class Watched:
    """Passes on a drafter's drafts and remembers which were made where."""

    drafter: HeadDrafter
    drafts: list[tuple[int, Sequence[int]]] = field(default_factory=list)
    name: str = "head"
    wants_hidden: bool = True

    def begin(self, sampler: Sampler) -> None:
        """Pass on."""
        self.drafter.begin(sampler)

    def propose(self, context: Sequence[int], n: int, hidden: NDArray[np.float32] | None) -> Draft:
        """Pass on, and remember."""
        draft = self.drafter.propose(context, n, hidden)
        self.drafts.append((len(context), draft.ids))
        return draft


def shares_by_position(ids: Sequence[int], drafts: list[tuple[int, Sequence[int]]]) -> NDArray:
    """[2, n]: by position, how many drafted tokens were reached, and how many of them stood."""
    counts = np.zeros((2, max(LENGTHS)))
    for start, draft in drafts:
        for position, (guess, token) in enumerate(zip(draft, ids[start:], strict=False)):
            counts[0, position] += 1
            counts[1, position] += guess == token
            if guess != token:
                break
    return counts


def compare(
    path: Path, costs: Costs, prompts: list[list[int]], arguments: argparse.Namespace
) -> None:
    """Print the acceptance by position, and predicted and measured speed-ups."""
    for sampling in (Sampling(temperature=0), Sampling(temperature=0.8, seed=3)):
        with Engine.open(path, n_ctx=N_CTX, n_threads=arguments.threads) as engine:
            drafter, _ = open_head(engine, arguments.head)
            plain, replies = run_all(engine, prompts, sampling, arguments.n, None, 0)
            rows, counts = [], np.zeros((2, max(LENGTHS)))
            for n in LENGTHS:
                watched = Watched(drafter)
                taken, found = run_all(engine, prompts, sampling, arguments.n, watched, n)
                if found != replies:
                    raise SystemExit("a reply differs from plain decoding")
                rows.append(plain / taken)
                if n == max(LENGTHS):
                    counts = watched_counts(prompts, replies, watched)
        drafting.LEAST = 0.3
        with Engine.open(path, n_ctx=N_CTX, n_threads=arguments.threads, spec="head",
                         draft_model=arguments.head) as engine:  # fmt: skip
            taken, found = run_all(engine, prompts, sampling, arguments.n, None, 0)
            if found != replies:
                raise SystemExit("a reply differs from plain decoding")
        print_compared(sampling, counts[1] / np.maximum(counts[0], 1), costs, rows, plain / taken)


def watched_counts(
    prompts: list[list[int]], replies: list[list[int]], watched: Watched
) -> NDArray[np.float64]:
    """Sum of `shares_by_position` over all replies; a context that shrinks begins the next one."""
    total, drafts = np.zeros((2, max(LENGTHS))), list(watched.drafts)
    for prompt, reply in zip(prompts, replies, strict=True):
        mine = []
        while drafts and (not mine or drafts[0][0] > mine[-1][0]):
            mine.append(drafts.pop(0))
        total += shares_by_position(prompt + reply, mine)
    return total


def run_all(
    engine: Engine,
    prompts: list[list[int]],
    sampling: Sampling,
    n: int,
    drafter: Watched | None,
    n_draft: int,
) -> tuple[float, list[list[int]]]:
    """Milliseconds per token after each first one, and the replies."""
    seconds, n_token, replies = 0.0, 0, []
    for prompt in prompts:
        replies.append([s.token_id for s in engine.generate(prompt, sampling, n, drafter, n_draft)])
        seconds += engine.timings.generated_seconds
        n_token += engine.timings.n_generated
    return 1000 * seconds / n_token, replies


def print_compared(
    sampling: Sampling, shares: NDArray[np.float64], costs: Costs, rows: list[float], auto: float
) -> None:
    """One table per temperature."""
    print(f"\ntemperature {sampling.temperature}: a by position "
          + " ".join(f"{share:.2f}" for share in shares))  # fmt: skip
    print("\n| n | tokens per step | predicted | measured |\n|---|---|---|---|")
    for n, measured in zip(LENGTHS, rows, strict=True):
        tokens, speedup = costs.predicted(shares.tolist(), n)
        print(f"| {n} | {tokens:.2f} | {speedup:.2f} | {measured:.2f} |")
    print(f"| adaptive | | | {auto:.2f} |", flush=True)


if __name__ == "__main__":
    main()
