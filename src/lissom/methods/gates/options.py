"""How gates begin, are drawn and end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lissom.errors import GateError
from lissom.hard_concrete import TEST_GATES, HardConcrete
from lissom.methods.gates.budget import Budget
from lissom.methods.options import Options, positive, whole


@dataclass(frozen=True, kw_only=True)
class GateOptions(Options):
    """How gates begin, are drawn and end; see `gate`."""

    init: float | Sequence[float] = 0.5
    gate_lr: float | None = None
    budget: Budget | None = None
    per: Literal["weight", "group"] = "weight"
    test: str = "published"
    law: HardConcrete | None = None
    draws: Literal["batch", "example"] = "batch"
    noise: Literal["fresh", "pooled"] = "fresh"
    detach_l2: bool = True
    seed: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        several = isinstance(self.init, Sequence) and not isinstance(self.init, str)
        rates: Any = self.init if several else [self.init]
        for rate in rates:
            if not positive(rate) or not rate < 1:
                raise GateError(f"init is a drop rate, 0 < p < 1, got {rate!r}", field="init")
        lr = self.gate_lr
        if lr is not None and not positive(lr) and lr != 0:
            raise GateError(f"gate_lr is a learning rate ≥ 0, got {lr!r}", field="gate_lr")
        if self.budget is not None and not isinstance(self.budget, Budget):
            raise GateError(
                f"budget is a lissom.Budget, such as Budget(macs=0.1), got {self.budget!r}",
                field="budget",
            )
        if self.law is not None and not isinstance(self.law, HardConcrete):
            what = f"a law is a lissom.hard_concrete.HardConcrete, got {self.law!r}"
            raise GateError(what, field="law")
        check_seed(self.seed)
        choices = {
            "per": ("weight", "group"),
            "test": TEST_GATES,
            "draws": ("batch", "example"),
            "noise": ("fresh", "pooled"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                listed = ", ".join(map(repr, known))
                what = f"{name} is one of {listed}, got {getattr(self, name)!r}"
                raise GateError(what, field=name)


def check_seed(seed: object) -> None:
    """Refuse what seeds nothing.

    Raises:
        GateError: unless it is None or a whole number ≥ 0.
    """
    if seed is not None and not whole(seed, least=0):
        raise GateError(f"a seed is a whole number ≥ 0, or None, got {seed!r}", field="seed")
