"""What a group costs: functions of its norm, and their proximal maps.

A penalty P is a function of the norms r_g ≥ 0 of groups of weights. It has two methods:

    value(r)           = P(r)
    prox(r, t, metric) = argmin_x ½ Σ_g d_g (x_g − r_g)² + t·P(x),     d = metric, 1 if not given

One's own is a frozen dataclass with these two. What else there is, a fused twin of the prox, sums,
schedules and a number for each group, follows from them; what a penalty can do is declared (see
`Abilities`).
"""

from lissom.penalties.abilities import (
    EXPECTATION,
    GRADIENT,
    METRIC,
    SIZE,
    Abilities,
    Ability,
    Asked,
    Per,
    check_per,
    refusal,
)
from lissom.penalties.budgets import L1Ball, TopK
from lissom.penalties.numbers import Number, Numbers, check_number, none, number_of, widen
from lissom.penalties.parts import Part
from lissom.penalties.penalty import Penalty, Sum, in_float32
from lissom.penalties.separable import L0, L1, L2, MCP, Lq, NonNegative, Threshold

__all__ = [
    "EXPECTATION",
    "GRADIENT",
    "L0",
    "L1",
    "L2",
    "MCP",
    "METRIC",
    "SIZE",
    "Abilities",
    "Ability",
    "Asked",
    "L1Ball",
    "Lq",
    "NonNegative",
    "Number",
    "Numbers",
    "Part",
    "Penalty",
    "Per",
    "Sum",
    "Threshold",
    "TopK",
    "check_number",
    "check_per",
    "in_float32",
    "none",
    "number_of",
    "refusal",
    "widen",
]
