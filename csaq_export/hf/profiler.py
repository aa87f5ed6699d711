"""A model in memory + calibration windows → salience and cliques of the rows of every layer.

The statistics are those of `csaq convert`: |g·W| with the gradients of tokens drawn from the
model's own predictions, and the curvature that rounding is guided by.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from csaq_export.cliques import Cliques, find_cliques
from csaq_export.coactivation import FIRING_SHARE, layer_coactivation
from csaq_export.hf.calibration_data import Window, as_calibration
from csaq_export.hf.config import CSAQConfig
from csaq_export.sensitivity import Sensitivity, term_of
from csaq_export.statistics import (
    Collection,
    Statistics,
    collect_until_stable,
    layer_part,
    windows_of,
)
from csaq_export.statistics.decoder import Decoder, take_apart
from csaq_export.workdir import WorkDir
from csaq_runtime.errors import UsageError

# The rule of csaq-quant: after 16 windows, ranks compared every 8, end at this correlation.
STABLE = 0.99


@dataclass(frozen=True)
class Salience:
    """Of one matrix: `rows`, float32 [n_row], Σ over columns of |g·W|, mean over windows."""

    rows: Tensor
    n_col: int


class CausalProfiler:
    """Observes `model` on calibration windows; a context, as statistics lie in a folder until then.

    `n_window` is how many windows it took until the ranking of salience was stable.
    """

    def __init__(self, model: PreTrainedModel, config: CSAQConfig) -> None:
        self.model, self.config, self.n_window = model, config, 0
        self._folder = Path(tempfile.mkdtemp(prefix="csaq-"))
        self._statistics: Statistics | None = None

    def __enter__(self) -> "CausalProfiler":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the statistics."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def profile(
        self,
        calib_data: Sequence[Window] | Sequence[str],
        tokenizer: PreTrainedTokenizerBase | None = None,
        seq_len: int = 128,
    ) -> tuple[dict[str, Salience], dict[str, Cliques]]:
        """Salience and cliques by module name of every linear layer inside the decoder.

        Raises UsageError for data that cannot be used (`as_calibration`), ModelError for models
        that are no plain stack of decoder layers.
        """
        windows = as_calibration(calib_data, tokenizer, seq_len)
        device = self.model.device
        with _observable(self.model):
            decoder = take_apart(self.model, windows.tokens.shape[1], dtype=self.model.dtype)
            settings = Collection(1, device, 0.0, {})
            self._statistics = collect_until_stable(
                decoder, windows, WorkDir(self._folder), {}, settings, STABLE
            )
            self.n_window = windows_of(self._statistics, windows.tokens.shape[1])
            salience = dict(self._salience())
            return salience, dict(self._cliques(decoder, windows.tokens[: self.n_window]))

    def sensitivity(self, name: str) -> Sensitivity:
        """What an error in the matrix of module `name` costs, observed by `profile`."""
        prefix = f"{self._layers()}."
        index, _, module = name.removeprefix(prefix).partition(".")
        linear = self._known().of_one(layer_part(int(index)), module)
        return Sensitivity((term_of(linear, linear.row_curvature),))

    def _salience(self) -> Iterator[tuple[str, Salience]]:
        statistics = self._known()
        for index in range(statistics.n_layer):
            for module, linear in statistics.of(layer_part(index)).items():
                rows = linear.salience_rows / float(linear.n_batch)
                yield self._name(index, module), Salience(rows, len(linear.input_sum))

    def _cliques(self, decoder: Decoder, tokens: Tensor) -> Iterator[tuple[str, Cliques]]:
        share = FIRING_SHARE * self.config.salience_alpha
        found = layer_coactivation(decoder, tokens, self.model.device, share)
        for index, layer in enumerate(found):
            for module, counts in layer.items():
                yield self._name(index, module), find_cliques(counts, self.config.clique_threshold)

    def _known(self) -> Statistics:
        if self._statistics is None:
            raise UsageError("nothing is profiled yet", "call profile first")
        return self._statistics

    def _name(self, index: int, module: str) -> str:
        return f"{self._layers()}.{index}.{module}"

    def _layers(self) -> str:
        """Name of the list of decoder layers, `model.layers` in most."""
        layers = self.model.get_decoder().layers  # type: ignore[no-untyped-call]
        return next(str(name) for name, each in self.model.named_modules() if each is layers)


@contextmanager
def _observable(model: Any) -> Iterator[None]:
    """Inside the context the model is in evaluation mode and its parameters are frozen."""
    trained = [p for p in model.parameters() if p.requires_grad]
    training = model.training
    model.requires_grad_(False).eval()
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        model.train(training)
