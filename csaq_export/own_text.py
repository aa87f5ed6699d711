"""A model and no text → token windows that the model itself writes, drawn with a seed.

What a model says of its own accord is spread as what it was trained on, so curvature on it
stands in for curvature on that (data-free calibration as in LLM-QAT, arXiv 2305.17888). Each
batch of windows is a stage of the work dir.
"""

import hashlib
import itertools
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from csaq_export.calibration import Calibration
from csaq_export.parallel import in_parallel
from csaq_export.ranks import own_share, wait_for_ranks
from csaq_export.workdir import Fingerprint, WorkDir

Report = Callable[[str, int, int], None]
OWN_TEXT = "written by the model"
# Windows written at once: their keys and values are in memory together.
WINDOWS_AT_ONCE = 16


def write_calibration(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    shape: tuple[int, int, int],
    work: WorkDir,
    identity: Fingerprint,
    report: Report,
    temperature: float = 1.0,
) -> Calibration:
    """`shape` is (n_sample, seq_len, seed); `identity` names the model, and what else differs."""
    n_sample, seq_len, seed = shape
    fingerprint = {**identity, "text": str(shape)}
    stages = {start: f"text-{start:06}" for start in range(0, n_sample, WINDOWS_AT_ONCE)}
    wanted, done = own_share(list(stages)), itertools.count(1)
    report("writing text", 0, len(wanted))

    def write(start: int) -> None:
        if not work.has(stages[start], fingerprint):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
            windows = (min(WINDOWS_AT_ONCE, n_sample - start), seq_len)
            tokens = draw_windows(model, tokenizer, windows, Drawn(generator, temperature))
            work.save(stages[start], fingerprint, {"tokens": tokens})
        report("writing text", next(done), len(wanted))

    in_parallel(write, wanted, model.device, len(wanted))
    wait_for_ranks()
    written = (work.load(stage, fingerprint) or {} for stage in stages.values())
    tokens = torch.cat([stage["tokens"] for stage in written])
    digest = hashlib.sha256(tokens.numpy().tobytes()).hexdigest()
    return Calibration(tokens, OWN_TEXT, digest, seed)


class Drawn(LogitsProcessor):
    """Makes the greedy choice a draw from the prediction (Gumbel-max), by a generator of its own.

    `temperature` below 1 prefers what is likely.

    The generator that `generate` draws from is the process's, which threads would share.
    """

    def __init__(self, generator: torch.Generator, temperature: float) -> None:
        self._generator, self._temperature = generator, temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores whose largest is the token drawn, float32 [n, n_vocab]."""
        uniform = torch.rand(scores.shape, generator=self._generator).clamp(min=1e-30)
        return scores / self._temperature - (-uniform.log()).log().to(scores)


def draw_windows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    shape: tuple[int, int],
    drawn: "Drawn",
) -> Tensor:
    """int64 [n, seq_len]: the beginning of a text, then what the model finds likely."""
    n, seq_len = shape
    begin = tokenizer.bos_token_id
    begin = tokenizer.eos_token_id if begin is None else begin
    first = torch.full((n, 1), 0 if begin is None else begin)
    # Where one text ends the model goes on with the next, as in training: the end token is one
    # that does not exist. Left out, it would be the model's own.
    n_vocab = model.config.vocab_size
    freely = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, max_new_tokens=seq_len - 1, use_cache=True, eos_token_id=n_vocab
    )
    written = model.generate(  # type: ignore[operator]
        first,
        attention_mask=torch.ones_like(first),
        generation_config=freely,
        logits_processor=LogitsProcessorList([drawn]),
    )
    assert isinstance(written, Tensor)
    return written
