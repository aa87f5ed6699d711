"""A model + texts → perplexity, by the sliding window of GPTQ's and AWQ's papers."""

import math
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from csaq_runtime.errors import UsageError


@torch.no_grad()
def compute_perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    eval_texts: Sequence[str],
    max_tokens: int = 4096,
    stride: int = 512,
    seq_len: int = 1024,
) -> float:
    """e to the mean negative log-likelihood of the texts' tokens, joined by empty lines.

    A window of up to `seq_len` tokens (at most the model's) moves on by `stride`; each of the
    first `max_tokens` tokens but the very first counts once, the rest of a window is context.
    Raises UsageError where there is nothing to predict or `stride` would skip tokens.
    """
    ids = tokenizer("\n\n".join(eval_texts), return_tensors="pt")["input_ids"][:, :max_tokens]
    seq_len = min(seq_len, int(model.config.max_position_embeddings))
    if not 0 < stride <= seq_len:
        raise UsageError(f"stride {stride}: windows have {seq_len} tokens")
    if ids.shape[1] < 2:
        raise UsageError("the texts have no token to predict")
    total, end = [], 0
    for start in range(0, ids.shape[1] - 1, stride):
        stop = min(start + seq_len, ids.shape[1])
        window = ids[:, start:stop].to(model.device)
        fresh = stop - max(end, start + 1)
        logits = model(window).logits[0, :-1].float()
        losses = nn.functional.cross_entropy(logits, window[0, 1:], reduction="none")
        total += losses[len(losses) - fresh :].double().tolist()
        end = stop
        if end == ids.shape[1]:
            break
    return math.exp(math.fsum(total) / len(total))
