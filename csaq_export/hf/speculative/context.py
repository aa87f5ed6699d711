"""A transformers model and its KV cache: tokens go in, logits come out, drafts are rolled back."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel

from csaq_runtime.errors import UsageError


class Context:
    """`n_past` tokens have been through `model`, their keys and values are kept."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._cache: Any = DynamicCache()
        # What transformers calls it before version 5.
        named = "cache" in signature(model.forward).parameters
        self._cache_name = "cache" if named else "past_key_values"

    @property
    def n_past(self) -> int:
        """Tokens whose keys and values are kept."""
        return int(self._cache.get_seq_length())

    @property
    def room(self) -> int:
        """Tokens that still fit."""
        return int(self.model.config.max_position_embeddings) - self.n_past

    @torch.no_grad()
    def run(self, ids: Sequence[int], n_output: int) -> NDArray[np.float32]:
        """Append `ids`; logits [n_output, n_vocab] after the last `n_output` of them."""
        if len(ids) > self.room:
            raise UsageError(f"{len(ids)} tokens do not fit the context, {self.room} do")
        tokens = torch.tensor([list(ids)], device=self.model.device)
        cache = {self._cache_name: self._cache}
        found = self.model(tokens, use_cache=True, logits_to_keep=n_output, **cache)
        logits: NDArray[np.float32] = found.logits[0].float().cpu().numpy()
        return logits

    def truncate(self, n: int) -> None:
        """Forget all but the first `n` tokens."""
        if n < self.n_past:
            # A negative number is how many to remove, in all versions.
            self._cache.crop(n - self.n_past)
