"""What gates can be put on, and what cannot be done while they are."""

from collections.abc import Mapping

from torch import Tensor, nn

from lissom.errors import GateError
from lissom.gates.placing import placing_on
from lissom.groups import Groups, disjoint
from lissom.hard_concrete import TEST_GATES, HardConcrete
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


def check(
    model: nn.Module,
    prices: Mapping[Groups, Penalty],
    options: Mapping[str, str],
    law: object,
    seed: object,
) -> None:
    """Refuse what has no expectation over gates, and what cannot be.

    Raises:
        GateError: quoting it.
        GroupError: for overlapping groups.
    """
    if not isinstance(model, nn.Module):
        raise GateError(f"gate takes a torch.nn.Module, got {model!r}")
    if any(placing_on(module) is not None for module in model.modules()):
        raise GateError(
            f"there are gates on this {type(model).__name__}, or on a part or a parent of it: give "
            "all groups in one lissom.gate(model, {groups: penalty, …}), or take the others off "
            "with .harden()"
        )
    if law is not None and not isinstance(law, HardConcrete):
        raise GateError(f"a law is a lissom.hard_concrete.HardConcrete, got {law!r}")
    check_seed(seed)
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


def check_rates(lr: object, gate_lr: object, options: Mapping[str, object]) -> None:
    """Refuse learning rates that are none, and parameters that are chosen elsewhere.

    Raises:
        GateError: quoting them.
    """
    for name, rate in (("lr", lr), ("gate_lr", gate_lr)):
        if not isinstance(rate, int | float | Tensor) or not rate >= 0:
            raise GateError(f"{name} is a learning rate ≥ 0, got {rate!r}")
    if "params" in options:
        raise GateError("param_groups chooses the parameters itself: leave params=… out")


def check_seed(seed: object) -> None:
    """Refuse what seeds nothing.

    Raises:
        GateError: unless it is None or a whole number ≥ 0.
    """
    if seed is not None and (not isinstance(seed, int) or seed < 0):
        raise GateError(f"a seed is a whole number ≥ 0, or None, got {seed!r}")


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
