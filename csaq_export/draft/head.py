"""The head: one narrow decoder layer that goes on where the model stopped.

It takes the model's state after the final norm and the token drawn from it, attends to the
model's own last keys and values (so it needs no cache of its own) and gives the state and the
logits that the model would compute next. From its own state it goes on to the token after.

Like EAGLE (arXiv:2401.15077) it extrapolates states; like EAGLE-3 (arXiv:2503.01840) it is
trained on its own guesses several tokens ahead.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from csaq_export.draft.passages import Passages
from csaq_export.statistics.decoder import take_apart


@dataclass(frozen=True)
class Guess:
    """A head's guess one token further: `state` [n, m, n_embd] and `logits` [n, m, n_ids]."""

    state: Tensor
    logits: Tensor


class _Norm(nn.Module):
    """Root-mean-square norm."""

    def __init__(self, weight: Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight, self._epsilon = nn.Parameter(weight.clone()), epsilon

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = x * (x.square().mean(-1, keepdim=True) + self._epsilon).rsqrt()
        return normed * self.weight


class DraftHead(nn.Module):
    """`ids` int64 [n_ids] are the tokens it may propose; `rows` the model's output rows of these.

    Attention starts as a copy of the last layer's; embedding and `rows` stay the model's own.
    """

    embedding: Tensor
    ids: Tensor
    rows: Tensor
    cosine: Tensor
    sine: Tensor

    def __init__(self, model: PreTrainedModel, ids: Tensor, n_ff: int, seq_len: int) -> None:
        super().__init__()
        decoder = take_apart(model, seq_len)
        last: Any = decoder.layers[-1]
        norm: Any = decoder.norm
        self.attn: Any = copy.deepcopy(last.self_attn)
        embedding, n_embd = decoder.embedding.weight, decoder.embedding.weight.shape[1]
        epsilon = float(model.config.rms_norm_eps)
        self.epsilon = epsilon
        self.attn_norm = _Norm(last.input_layernorm.weight.detach(), epsilon)
        self.ffn_norm = _Norm(last.post_attention_layernorm.weight.detach(), epsilon)
        self.output_norm = _Norm(norm.weight.detach(), epsilon)
        self.state_scale = nn.Parameter(torch.ones(n_embd))
        self.token_proj = nn.Linear(n_embd, n_embd, bias=False)
        self.gate = nn.Linear(n_embd, n_ff, bias=False)
        self.up = nn.Linear(n_embd, n_ff, bias=False)
        self.down = nn.Linear(n_ff, n_embd, bias=False)
        self._begin(n_embd)
        cosine, sine = decoder.arguments[-1]["position_embeddings"]
        self.register_buffer("embedding", embedding.detach())
        self.register_buffer("ids", ids)
        self.register_buffer("rows", decoder.head.weight.detach()[ids])
        self.register_buffer("cosine", cosine[0])
        self.register_buffer("sine", sine[0])
        self.requires_grad_(True)

    def _begin(self, n_embd: int) -> None:
        for linear in (self.token_proj, self.gate, self.up):
            nn.init.normal_(linear.weight, std=n_embd**-0.5)
        nn.init.zeros_(self.down.weight)

    def rollout(self, passages: Passages, n_step: int) -> list[Guess]:
        """Guesses 1 … `n_step` tokens ahead of each position but the last `n_step`.

        Step j at position t has read the text up to token t + j, but knows the model's states
        only up to t: what it should find is the model's state at t + j.
        """
        n = passages.tokens.shape[1] - n_step
        tokens = self.token_inputs(passages.tokens)
        keys, values = (part[:, :, :n].float() for part in (passages.keys, passages.values))
        state, guesses = passages.hidden[:, :n].float(), []
        own: list[tuple[Tensor, Tensor]] = []
        for step in range(1, n_step + 1):
            x = state * self.state_scale + tokens[:, step : step + n]
            x = x + self._attend(self.attn_norm(x), (keys, values), own, step)
            inner = self.ffn_norm(x)
            x = x + self.down(nn.functional.silu(self.gate(inner)) * self.up(inner))
            state = self.output_norm(x)
            guesses.append(Guess(state, state @ self.rows.T))
        return guesses

    def token_inputs(self, tokens: Tensor) -> Tensor:
        """What the head sees of token ids [...]: [..., n_embd]."""
        rows = self.embedding[tokens]
        normed = rows * (rows.square().mean(-1, keepdim=True) + self.epsilon).rsqrt()
        projected = self.token_proj(normed)
        assert isinstance(projected, Tensor)
        return projected

    def _attend(
        self,
        x: Tensor,
        past: tuple[Tensor, Tensor],
        own: list[tuple[Tensor, Tensor]],
        step: int,
    ) -> Tensor:
        """Attention to the model's keys and values up to each position, and to the head's own.

        Appends this step's keys and values to `own`.
        """
        query, key, value = (self._placed(name, x, step) for name in "qkv")
        own.append((key, value))
        n_kv, n = key.shape[1], key.shape[2]
        query = query.reshape(len(query), n_kv, -1, *query.shape[2:]) * query.shape[-1] ** -0.5
        keys, values = past
        scores = query @ keys[:, :, None].transpose(-1, -2)
        future = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
        ahead = [(query * k[:, :, None]).sum(-1, keepdim=True) for k, _ in own]
        weights = torch.cat([scores, *ahead], -1).softmax(-1)
        out = weights[..., :n] @ values[:, :, None]
        for number, (_, v) in enumerate(own):
            out = out + weights[..., n + number, None] * v[:, :, None]
        attended = self.attn.o_proj(out.flatten(1, 2).transpose(1, 2).flatten(2))
        assert isinstance(attended, Tensor)
        return attended

    def _placed(self, name: str, x: Tensor, step: int) -> Tensor:
        """Queries, keys or values [n, n_head, m, head_dim], rotated to their positions."""
        head_dim = self.cosine.shape[-1]
        found = getattr(self.attn, f"{name}_proj")(x).unflatten(-1, (-1, head_dim))
        norm = getattr(self.attn, f"{name}_norm", None)
        found = (found if norm is None else norm(found)).transpose(1, 2)
        if name == "v":
            assert isinstance(found, Tensor)
            return found
        rows = slice(step, step + x.shape[1])
        first, second = found.chunk(2, -1)
        turned = torch.cat([-second, first], -1)
        rotated = found * self.cosine[rows] + turned * self.sine[rows]
        assert isinstance(rotated, Tensor)
        return rotated
