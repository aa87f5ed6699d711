"""A Hugging Face causal LM taken apart: embedding, decoder layers, head.

Layers are called one by one with the arguments the model itself would give them, so
that only one needs to be on the device.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from csaq_runtime.errors import ModelError

# A module, usable on a device inside the context.
Placed = Callable[[nn.Module, torch.device], AbstractContextManager[nn.Module]]


@dataclass(frozen=True)
class Decoder:
    """The parts of a model; `arguments[i]` are layer i's keyword arguments for any batch.

    A part must be `placed` on a device to run there.
    """

    embedding: nn.Embedding
    layers: tuple[nn.Module, ...]
    norm: nn.Module
    head: nn.Linear
    arguments: tuple[dict[str, Any], ...]
    placed: Placed

    def run_layer(self, index: int, hidden: Tensor) -> Tensor:
        """Output of layer `index` for `hidden` [n, seq_len, n_embd], on the layer's device."""
        arguments = {key: _to(value, hidden.device) for key, value in self.arguments[index].items()}
        output = self.layers[index](hidden, **arguments)
        found = output[0] if isinstance(output, tuple) else output
        assert isinstance(found, Tensor)
        return found

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [n, seq_len, n_vocab] of the last layer's output."""
        logits = self.head(self.norm(hidden))
        assert isinstance(logits, Tensor)
        return logits


@contextmanager
def on_device(module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """`module`, which has its weights, on `device` inside the context and back home after it."""
    home = next(module.parameters()).device
    try:
        yield module.to(device)
    finally:
        module.to(home)


def take_apart(
    model: PreTrainedModel,
    seq_len: int,
    placed: Placed = on_device,
    dtype: torch.dtype = torch.float32,
) -> Decoder:
    """The Decoder of `model` for windows of `seq_len` tokens with states of `dtype`.

    Raises ModelError for models of another build.
    """
    body = model.get_decoder()  # type: ignore[no-untyped-call]
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    layers = getattr(body, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not isinstance(head, nn.Linear):
        raise ModelError(f"{type(model).__name__}: not a plain stack of decoder layers")
    arguments = _layer_arguments(body, seq_len, dtype)
    return Decoder(body.get_input_embeddings(), tuple(layers), body.norm, head, arguments, placed)


@torch.no_grad()
def _layer_arguments(body: Any, seq_len: int, dtype: torch.dtype) -> tuple[dict[str, Any], ...]:
    """What the model gives its layers: it runs once with recorders in their place.

    Positions and masks hold for every unpadded batch.
    """
    layers, norm = body.layers, body.norm
    recorders = [_Recorder(getattr(layer, "attention_type", "")) for layer in layers]
    body.layers, body.norm = nn.ModuleList(recorders), nn.Identity()
    try:
        nothing = torch.zeros(1, seq_len, body.config.hidden_size, dtype=dtype)
        body(inputs_embeds=nothing, use_cache=False)
    finally:
        body.layers, body.norm = layers, norm
    return tuple(recorder.arguments for recorder in recorders)


class _Recorder(nn.Module):
    """Stands for a decoder layer and remembers the keyword arguments it is called with."""

    def __init__(self, attention_type: str) -> None:
        super().__init__()
        self.attention_type = attention_type
        self.arguments: dict[str, Any] = {}

    def forward(self, hidden_states: Tensor, **arguments: Any) -> Tensor:
        skipped = ("past_key_values", "past_key_value")
        self.arguments = {key: value for key, value in arguments.items() if key not in skipped}
        return hidden_states


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, tuple):
        return tuple(_to(part, device) for part in value)
    return value.to(device) if isinstance(value, Tensor) else value
