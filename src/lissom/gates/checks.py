"""What gates can be put on, and what cannot be done while they are."""

from collections.abc import Mapping

from torch import nn

from lissom.errors import GateError
from lissom.groups import Groups, disjoint
from lissom.hard_concrete import TEST_GATES
from lissom.penalties import Elastic, Penalty

LOG_ALPHA = "lissom_log_alpha"

Drops = float | Mapping[Groups, float]


def refuse_gated(model: nn.Module, verb: str) -> None:
    """Only plain weights are what they seem.

    Raises:
        GateError: if there are gates on the model.
    """
    if any(LOG_ALPHA in module._parameters for module in model.modules()):
        raise GateError(
            f"{verb} needs plain weights, and this {type(model).__name__} has gates: take "
            "gates.harden(), or gates.hardened() for a copy"
        )


def check(model: nn.Module, prices: Mapping[Groups, Penalty], options: Mapping[str, str]) -> None:
    """Refuse what has no expectation over gates, and what cannot be.

    Raises:
        GateError: quoting it.
        GroupError: for overlapping groups.
    """
    refuse_gated(model, "gate")
    disjoint(prices)
    choices = {
        "per": ("weight", "group"),
        "test": TEST_GATES,
        "draws": ("batch", "example"),
        "noise": ("fresh", "pooled"),
    }
    for name, allowed in choices.items():
        if options[name] not in allowed:
            known = ", ".join(map(repr, allowed))
            raise GateError(f"{name} is one of {known}, got {options[name]!r}")
    for penalty in prices.values():
        if not isinstance(penalty, Elastic) or penalty.l1 != 0:
            raise GateError(
                f"gates price P(z ≠ 0), so they know L0, L2 and L0 + L2; got {penalty}. Its exact "
                "zeros come from lissom.proximal(optimizer, {groups: penalty})"
            )


def drop_rates(prices: Mapping[Groups, Penalty], init: Drops) -> list[float]:
    """The initial drop rate of every block.

    Raises:
        GateError: for what is no rate, or a mapping without some of the groups.
    """
    rates = dict(init) if isinstance(init, Mapping) else dict.fromkeys(prices, init)
    missing = [groups for groups in prices if groups not in rates]
    if missing:
        raise GateError(f"init has no drop rate for {missing[0]!r}: give one for each groups")
    for rate in rates.values():
        if not isinstance(rate, int | float) or not 0 < rate < 1:
            raise GateError(f"init is a drop rate, 0 < p < 1, got {rate!r}")
    return [float(rates[groups]) for groups in prices for _ in groups]


def elastic(penalty: Penalty) -> Elastic:
    """The penalty as what `check` has seen that it is."""
    assert isinstance(penalty, Elastic)
    return penalty
