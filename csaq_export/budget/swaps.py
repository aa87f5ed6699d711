"""Cost curves + size → other plans of that size, for measuring against the first.

The solver takes a mixture's divergence for a sum over matrices, which at few bits it is not.
A swap supposes that the curves are wrong in one way, and the rest of the bytes follows:

    a role  its matrices in all layers (the embedding is one, too) cost more or less than
            the curves say, so that they get bytes from the others or give them some
    grown   the plan of a smaller file is sound: no matrix gets less than there
"""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from csaq_export.budget.allocate import allocate
from csaq_export.budget.curve import Curve
from csaq_export.metadata import Metadata
from csaq_export.model import Model
from csaq_export.plan import Plan
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import GGMLType

# Costs of a role times this, or divided by it, at most so often one way.
STEP, MOST_STEPS = 2.0, 4
# The smaller file that a plan may grow from.
SHRUNK = 0.95


@dataclass(frozen=True)
class Budget:
    """What `allocate` is given: the choices of every matrix, bytes of the file, and keys."""

    model: Model
    curves: Mapping[str, Curve]
    limit: int
    metadata: Metadata

    def plan(self) -> Plan:
        """The plan of least expected divergence; UsageError if nothing fits."""
        return allocate(self.model, self.curves, self.limit, self.metadata)

    def scaled(self, role: str, factor: float) -> "Budget":
        """With other costs of one role."""
        curves = {
            name: curve.scaled(factor if role_of(name) == role else 1.0)
            for name, curve in self.curves.items()
        }
        return replace(self, curves=curves)

    def smaller(self) -> Plan | None:
        """The plan of a file of SHRUNK of the size; None where nothing fits."""
        with suppress(UsageError):
            return replace(self, limit=int(SHRUNK * self.limit)).plan()
        return None

    def above(self, plan: Plan) -> "Budget":
        """With no less for any matrix than it has in `plan`."""
        least = types_of(plan)
        curves = {name: curve.at_least(least[name]) for name, curve in self.curves.items()}
        return replace(self, curves=curves)


def role_of(name: str) -> str:
    """What a matrix is in its layer: `blk.3.ffn_up.weight` → `ffn_up.weight`."""
    return name.split(".", 2)[2] if name.startswith("blk.") else name


def types_of(plan: Plan) -> dict[str, GGMLType]:
    """The type of every tensor by name."""
    return {tensor.name: tensor.type for tensor in plan.tensors}


def settled(budget: Budget, measure: Callable[[Plan], float], n_most: int) -> Plan:
    """The plan that `measure` finds closest, of the solver's and at most `n_most` others.

    One of them is a smaller file's, which bytes must not make worse. A swap that helps is
    kept, and taken again, before the next is tried.
    """
    first = budget.plan()
    search = _Search(budget, measure, n_most + 1)
    search.try_plan(budget, first)
    smaller = budget.smaller()
    if smaller is not None:
        search.try_budget(budget.above(smaller))
        search.try_plan(budget, smaller)
    for role in _roles(budget, first):
        any(search.go(role, factor) for factor in (1 / STEP, STEP))
    assert search.best is not None
    return search.best


class _Search:
    """The best plan so far with the budget it is of; `left` more may be measured."""

    def __init__(self, budget: Budget, measure: Callable[[Plan], float], left: int) -> None:
        self.budget, self.measure, self.left = budget, measure, left
        self.best: Plan | None = None
        self.least = math.inf
        self.seen: list[dict[str, GGMLType]] = []

    def go(self, role: str, factor: float) -> bool:
        """Scale a role's costs as long as that helps; whether it did."""
        helped, changed = False, self.budget
        for _ in range(MOST_STEPS):
            changed = changed.scaled(role, factor)
            found = self.try_budget(changed)
            if found is False:
                break
            helped = helped or found is True
        return helped

    def try_budget(self, budget: Budget) -> bool | None:
        """Whether its plan is closer than the best; None if it has been measured before."""
        plan = budget.plan()
        return None if types_of(plan) in self.seen else self.try_plan(budget, plan)

    def try_plan(self, budget: Budget, plan: Plan) -> bool:
        """Measure a new plan, if one is left, and keep it if it is closer."""
        if self.left == 0:
            return False
        self.left -= 1
        self.seen.append(types_of(plan))
        found = self.measure(plan)
        if found >= self.least:
            return False
        self.best, self.least, self.budget = plan, found, budget
        return True


def _roles(budget: Budget, plan: Plan) -> list[str]:
    """Roles by what their matrices are expected to cost in `plan`, the dearest first."""
    costs: dict[str, float] = {}
    for name, chosen in types_of(plan).items():
        if name in budget.curves:
            cost = budget.curves[name].cost(chosen) or 0.0
            costs[role_of(name)] = costs.get(role_of(name), 0.0) + cost
    return sorted(costs, key=lambda role: (-costs[role], role))
