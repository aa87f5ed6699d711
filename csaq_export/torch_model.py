"""A Hugging Face folder → the same model in torch, its parameters under their GGUF names.

What tuning trains; calibration takes one layer at a time (`layered_model`). Rows come and
go in GGUF order; families whose rotary rows are permuted in the file are permuted here on
the way in and out.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from csaq_export.arch import family_of
from csaq_export.arch.decoder import Slot, read_hparams, slots
from csaq_export.config import Config, read_json
from csaq_export.hf_folder import rotary_order
from csaq_runtime.errors import ModelError


@dataclass(frozen=True)
class TorchModel:
    """`model` in float32; `slots` by GGUF name; `tied`: the output matrix is the embedding."""

    model: PreTrainedModel
    slots: dict[str, Slot]
    tied: bool

    def parameter(self, name: str) -> nn.Parameter:
        """The parameter behind a GGUF tensor (rows in Hugging Face order)."""
        return self.model.get_parameter(self.slots[name].source)

    def has(self, name: str) -> bool:
        """Whether the model has this tensor (optional ones may be absent)."""
        module, _, leaf = self.slots[name].source.rpartition(".")
        return getattr(self.model.get_submodule(module), leaf, None) is not None

    def to_gguf(self, name: str, rows: Tensor) -> Tensor:
        """Reorder something that has one entry per row."""
        order = row_order(self.slots[name])
        return rows if order is None else rows[order.to(rows.device)]

    def read(self, name: str) -> Tensor:
        """A copy of the weights in GGUF order."""
        return self.to_gguf(name, self.parameter(name).detach()).clone()

    @torch.no_grad()
    def write(self, name: str, values: Tensor) -> None:
        """Replace the weights; `values` are in GGUF order."""
        parameter, order = self.parameter(name), row_order(self.slots[name])
        if order is None:
            parameter.copy_(values)
        else:
            parameter[order.to(parameter.device)] = values.to(parameter)


def row_order(slot: Slot) -> Tensor | None:
    """Hugging Face's row for each GGUF row, int64 [n_row], or None if they agree."""
    if not slot.permuted_heads:
        return None
    return torch.from_numpy(np.ascontiguousarray(rotary_order(slot.shape[0], slot.permuted_heads)))


def load_torch_model(folder: Path) -> TorchModel:
    """Load the weights of `folder` in float32; code in the folder is never run."""
    config = Config(read_json(folder / "config.json"), str(folder / "config.json"))
    family = family_of(config)
    h = read_hparams(config, family)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder}: transformers cannot load it: {error}") from error
    model.eval()  # type: ignore[no-untyped-call]
    model.requires_grad_(False)
    model.config.use_cache = False
    return TorchModel(model, {slot.name: slot for slot in slots(family, h)}, h.tied)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer; ModelError if it does not load."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: the tokenizer does not load: {error}") from error
