"""Types that a conversion will probably choose and compare: its own search, with costs made up.

The solver and the swaps run as they will. A type costs what it does to random weights, times
a factor drawn for every matrix; which of two plans is closer is drawn as well.
"""

import math
import random
from dataclasses import dataclass
from functools import cache

import torch

from csaq_export.budget.curve import Curve, ladder
from csaq_export.budget.solver import Option
from csaq_export.budget.swaps import settled
from csaq_export.calibrated import SWAPS, Request, budget_of
from csaq_export.estimate.clock import timed
from csaq_export.model import Model
from csaq_export.pipeline import Conversion
from csaq_export.plan import Plan
from csaq_export.quantize import decode, encode
from csaq_export.rival import rival_preset
from csaq_export.type_choice import Shape, is_quantizable
from csaq_export.weight import Weight
from csaq_export.write_gguf import padded
from csaq_runtime.formats import GGMLType, row_bytes

CPU = torch.device("cpu")
# Natural logarithm of how far matrices' costs per weight are apart.
SPREAD = 1.0
_TRIAL_SHAPE = (32, 256)


@dataclass(frozen=True)
class Search:
    """`plans` in the order in which they are rounded and measured; `seconds` to find them all."""

    plans: tuple[Plan, ...]
    seconds: float


def likely_search(model: Model, conversion: Conversion, request: Request) -> Search:
    """The plans for `request.target`; UsageError where nothing fits, as the conversion would."""
    drawn, plans, n_swap = random.Random(0), list[Plan](), SWAPS[request.effort]
    curves = {
        weight.name: _made_up(weight, math.exp(SPREAD * drawn.gauss(0, 1)))
        for weight in model.weights
        if is_quantizable(Shape(weight.name, weight.shape))
    }
    budget = budget_of(model, conversion, request, curves, {})

    def measure(plan: Plan) -> float:
        plans.append(plan)
        return drawn.random()

    def search() -> None:
        if n_swap == 0:
            plans.append(budget.plan())
            return
        settled(budget, measure, n_swap)
        rival = rival_preset(model, budget.limit, request.floor, conversion.overrides)
        plans.extend([] if rival is None else [rival])

    seconds = timed(search, CPU)
    return Search(tuple(plans), seconds)


def _made_up(weight: Weight, factor: float) -> Curve:
    types = ladder(weight.n_col)
    options = tuple(
        Option(
            padded(weight.n_row * row_bytes(t, weight.n_col)),
            factor * weight.n_row * weight.n_col * _error(t),
        )
        for t in types
    )
    return Curve(weight.name, types, options)


@cache
def _error(ggml_type: GGMLType) -> float:
    """Mean square of what the type does to weights of variance 1."""
    values = torch.randn(_TRIAL_SHAPE, generator=torch.Generator().manual_seed(0))
    return float((decode(encode(values, ggml_type), ggml_type) - values).square().mean())
