"""Generation with a CSAQ model in torch, plain or speculative."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from csaq_export.hf.speculative.context import Context
from csaq_export.hf.speculative.reply import Reply
from csaq_export.hf.speculative.report import SpeculativeReport
from csaq_export.hf.speculative.rows import RowsDrafter, cheaper_layers
from csaq_runtime.errors import UsageError
from csaq_runtime.sample import Sampler, Sampling
from csaq_runtime.speculate.choose import DEFAULT_DRAFT, choose_strategy
from csaq_runtime.speculate.ngram import NGramDrafter
from csaq_runtime.speculate.strategy import Fixed, Strategy

DRAFTERS = ("auto", "ngram", "rows")


class CSAQInferenceEngine:
    """Replies of `model`; `causal_map` are its protected rows, `info["causal_map"]` of `quantize`.

    `tokenizer` tells which token ends a reply beside those of the model's generation config.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        causal_map: Mapping[str, Sequence[int]],
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        self.model, self.causal_map = model, causal_map
        self._stops = frozenset(_stops(model, tokenizer))
        # What it learns about costs and look-ups outlives a reply.
        self._auto = choose_strategy("auto", DEFAULT_DRAFT, None)

    def generate(
        self,
        input_ids: Tensor,
        *,
        speculative: bool = False,
        lookahead: int = 4,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int = 128,
        seed: int | None = None,
        draft: Literal["auto", "ngram", "rows"] = "auto",
    ) -> tuple[Tensor, SpeculativeReport]:
        """The prompt and the tokens that follow it, int64 [1, n], and what it took.

        `input_ids`: int64 [1, n_prompt]. `temperature` 0 is greedy. `speculative` drafts up to
        `lookahead` tokens a step: `ngram` looks them up in the context, `auto` does so where it
        measures that it pays, as `csaq run`, and as far (up to 15), `rows` runs the model with its
        protected rows at 4 bits. The reply is that of plain decoding: the same tokens when greedy
        (two logits closer than float rounding aside), with look-ups also for a `seed`; the same
        distribution always. Raises UsageError for settings that make no sense.
        """
        prompt = _prompt(input_ids)
        if lookahead < 1 or draft not in DRAFTERS:
            raise UsageError(f"lookahead {lookahead}, draft {draft!r}: not possible")
        sampling = Sampling(temperature=temperature, top_k=0, top_p=top_p, min_p=0.0, seed=seed)
        context = Context(self.model)
        strategy = self._strategy(context, draft, lookahead) if speculative else None
        reply = Reply(context, prompt, Sampler(sampling), self._stops, strategy, lookahead)
        if len(prompt) >= context.room:
            raise UsageError(f"a prompt of {len(prompt)} tokens fills the context")
        reply.grow(min(max_new_tokens, context.room - len(prompt)))
        report = reply.report(draft if speculative else "plain")
        return torch.tensor([reply.ids], device=input_ids.device), report

    def _strategy(self, context: Context, draft: str, lookahead: int) -> Strategy | None:
        if draft == "auto":
            return self._auto
        if draft == "ngram":
            return Fixed(NGramDrafter(), lookahead)
        layers = cheaper_layers(self.model, self.causal_map)
        return Fixed(RowsDrafter(context, layers), lookahead)


def _prompt(input_ids: Tensor) -> list[int]:
    if input_ids.dim() != 2 or input_ids.shape[0] != 1 or input_ids.shape[1] < 1:
        raise UsageError(f"input_ids of shape {tuple(input_ids.shape)}, expected (1, n)")
    return [int(token) for token in input_ids[0]]


def _stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> Iterator[int]:
    settings = model.generation_config
    ends = None if settings is None else settings.eos_token_id
    yield from [ends] if isinstance(ends, int) else ends or []
    if tokenizer is not None and isinstance(tokenizer.eos_token_id, int):
        yield tokenizer.eos_token_id
