"""What CSAQ is asked for and, when done, which tiers each layer has: `quantization_config`."""

from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field, fields
from math import isfinite
from typing import Any

from transformers.utils.quantization_config import QuantizationConfigMixin

from csaq_export.hf.tier import BITS, TierShape, as_json, from_json
from csaq_runtime.errors import ModelError, UsageError

QUANT_METHOD = "csaq"
# Columns that share a scale: the blocks' own 16 or 32, so nothing finer can be asked for.
MIN_GROUP = 32


@dataclass(repr=False)
class CSAQConfig(QuantizationConfigMixin):
    """Settings of CSAQ; UsageError for values that make no sense. It cannot be changed afterwards.

    `target_bits`: bits per weight of the layers' matrices, scales and row index counted.
    `bit_options`: widths that rows may get, of 2, 4, 8 and 16. `clique_threshold`: Jaccard
    similarity from which rows that are large at the same tokens stay together. `protection_floor`:
    share of the rows, the most salient, that get 8 bits at least. `group_size`: most columns that
    may share a scale, -1 for any; ggml's blocks have one per 32 columns or finer.
    `salience_alpha`: a row counts as large among a token's top 0.1 · alpha outputs.
    `speculative_lookahead`: tokens drafted at a time. `layers`: the tiers of each layer by module
    name, filled in by `quantize`.
    """

    quant_method: str = field(default=QUANT_METHOD, init=False)  # type: ignore[assignment]
    target_bits: float = 4.0
    bit_options: tuple[int, ...] = BITS
    clique_threshold: float = 0.85
    protection_floor: float = 0.10
    group_size: int = -1
    salience_alpha: float = 1.0
    speculative_lookahead: int = 4
    layers: Mapping[str, tuple[TierShape, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_bits(self.target_bits, self.bit_options)
        _check_range("clique_threshold", self.clique_threshold, 0 < self.clique_threshold <= 1)
        _check_range("protection_floor", self.protection_floor, 0 <= self.protection_floor < 1)
        _check_range("salience_alpha", self.salience_alpha, 0 < self.salience_alpha <= 10)
        _check_range(
            "speculative_lookahead", self.speculative_lookahead, self.speculative_lookahead > 0
        )
        if self.group_size != -1 and self.group_size < MIN_GROUP:
            raise UsageError(
                f"group_size {self.group_size}: ggml's blocks share a scale among {MIN_GROUP} "
                "columns (16 at 2 bits)",
                f"use {MIN_GROUP} or more, or -1",
            )
        if not isinstance(self.layers, Mapping):
            raise UsageError("layers: not an object")
        self.__dict__["quant_method"] = QUANT_METHOD
        self.__dict__["bit_options"] = tuple(sorted(set(self.bit_options)))
        self.__dict__["layers"] = {
            name: from_json(tiers, f"layers: {name}") for name, tiers in self.layers.items()
        }

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__ or name not in {each.name for each in fields(self)}:
            raise FrozenInstanceError(f"cannot assign to {name!r}; use dataclasses.replace")
        self.__dict__[name] = value

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete {name!r}")

    def to_dict(self) -> dict[str, Any]:
        """All settings as JSON values, for config.json."""
        values = dict(self.__dict__)
        values["bit_options"] = list(self.bit_options)
        values["layers"] = {name: as_json(tiers) for name, tiers in self.layers.items()}
        return values

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, Any], return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """The config that `to_dict` wrote; ModelError naming what does not fit.

        With `return_unused_kwargs` also the `kwargs` that are no settings, as transformers asks.
        """
        known = {each.name for each in fields(cls) if each.init}
        values = {key: value for key, value in config_dict.items() if key != "quant_method"}
        values |= {key: value for key, value in kwargs.items() if key in known}
        if unknown := sorted(values.keys() - known):
            raise ModelError(f"quantization_config: unknown setting {unknown[0]!r}")
        try:
            config = cls(**values)
        except (UsageError, TypeError) as error:
            raise ModelError(f"quantization_config: {error}") from error
        unused = {key: value for key, value in kwargs.items() if key not in known}
        return (config, unused) if return_unused_kwargs else config


def _check_bits(target: float, options: Any) -> None:
    if isinstance(options, str) or not options or not set(options) <= set(BITS):
        raise UsageError(f"bit_options {options!r}: choose from {', '.join(map(str, BITS))}")
    low, high = min(options), max(options)
    # Scales come on top of the bits of a row, so that the largest is not reachable in full.
    if type(target) not in (int, float) or not low <= target <= high:
        raise UsageError(f"target_bits {target!r}: outside of {low} … {high}, the bit_options")


def _check_range(name: str, value: Any, good: bool) -> None:
    if isinstance(value, bool) or not isfinite(value) or not good:
        raise UsageError(f"{name} {value!r}: out of range")
