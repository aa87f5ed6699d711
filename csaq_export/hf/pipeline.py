"""The whole of CSAQ on a model in memory: profile, solve, pack.

profile              salience and cliques of every layer's rows
solve_clique_budget  bits of every clique within the target
apply_csaq           packed layers in place of linear ones
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from csaq_export.cliques import Cliques
from csaq_export.hf.apply import apply_csaq
from csaq_export.hf.calibration_data import Window
from csaq_export.hf.clique_budget import solve_clique_budget
from csaq_export.hf.config import CSAQConfig
from csaq_export.hf.linear import CSAQLinear
from csaq_export.hf.profiler import CausalProfiler


def quantize(
    model: PreTrainedModel,
    calib_data: Sequence[Window] | Sequence[str],
    config: CSAQConfig | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    seq_len: int = 128,
    calibration_domain: str = "user_provided",
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Quantize the linear layers of `model` in place; embedding and output matrix stay as they are.

    `calib_data`: windows of `build_calibration_data`, or texts, which need `tokenizer`.
    `calibration_domain` is a label for the report. Returns the model and what was found:

    - `actual_bits`: bits per weight of the layers, every packed byte counted
    - `model_bits`: the same of all parameters, with what stays as it is
    - `cliques_count`, `clique_sizes`: groups of rows, and how many there are of each size
    - `tier_stats`: weights per width; `budget`: bits of every clique, by layer
    - `causal_map`: rows with 8 bits and more, by layer
    - `n_window`: windows until the ranking of salience was stable; `elapsed_s`

    Raises UsageError or ModelError, and then the model may be packed in part.
    """
    config, start = config or CSAQConfig(), perf_counter()
    with CausalProfiler(model, config) as profiler:
        salience, cliques = profiler.profile(calib_data, tokenizer, seq_len)
        budget, tier_stats, _ = solve_clique_budget(salience, cliques, config)
        causal_map = apply_csaq(model, budget, config, profiler)
        n_window = profiler.n_window
    info = {
        "actual_bits": packed_bits(model),
        "model_bits": model_bits(model),
        "target_bits": config.target_bits,
        "cliques_count": sum(len(found) for found in budget.values()),
        "clique_sizes": clique_sizes(cliques),
        "tier_stats": tier_stats,
        "budget": budget,
        "causal_map": causal_map,
        "n_window": n_window,
        "calibration_domain": calibration_domain,
        "elapsed_s": perf_counter() - start,
    }
    return model, info


def packed_bits(model: PreTrainedModel) -> float:
    """Bits per weight of the packed layers, from the bytes they hold."""
    weights = [m.qweight for m in model.modules() if isinstance(m, CSAQLinear)]
    n_weight = sum(weight.shape[0] * weight.shape[1] for weight in weights)
    return 8 * sum(weight.n_bytes for weight in weights) / n_weight


def model_bits(model: PreTrainedModel) -> float:
    """Bits per parameter of the whole model, tied ones counted once."""
    packed = [m for m in model.modules() if isinstance(m, CSAQLinear)]
    plain = list(model.parameters())
    n_bytes = sum(m.qweight.n_bytes for m in packed) + sum(p.nbytes for p in plain)
    n_weight = sum(m.in_features * m.out_features for m in packed)
    return 8 * n_bytes / (n_weight + sum(p.numel() for p in plain))


def clique_sizes(cliques: Mapping[str, Cliques]) -> dict[int, int]:
    """How many cliques of each size all layers have; 1 are rows that are alone."""
    total: Counter[int] = Counter()
    for found in cliques.values():
        total.update(found.histogram())
    return dict(sorted(total.items()))
