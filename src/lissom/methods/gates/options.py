"""How gates begin, are drawn and end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lissom.arguments import positive, whole
from lissom.errors import GateError
from lissom.hard_concrete import HardConcrete, TestGate
from lissom.methods.gates.budget import Budget
from lissom.methods.options import Options
from lissom.widths import check_multiple


@dataclass(frozen=True, kw_only=True)
class GateOptions(Options):
    """How gates begin, are drawn and end.

    λ and the budget act from `start` on; after `finalize_at` the gates are plain weights.

    Attributes:
        gate_lr: of log α; 10·lr by default. Gates that never move usually want a larger one.
        budget: an expected size to be met instead of a λ to be guessed.
        init: the drop rate p at the start, log α ~ N(log((1 − p)/p), 0.01²); one for all, or a list
            with one for each groups.
        per: what λ is for: "weight", each of the weights n_g that the group's norm counts, as in
            the paper, or "group", n_g = 1.
        test: the gate of evaluation mode and of `finalize`: "published" (eq. 13), "median", "mean"
            (which is never zero) or "mode" (see `lissom.hard_concrete`).
        multiple_of: m, for gates on units, as of `lissom.channels`: runtimes compute in blocks of
            16 channels, say, and 33 cost as much as 48. At the end each family of n units has the
            width nearest to what it has of the open gates: of the widths m, 2m, … and n, as under
            `lissom.TopK(multiple_of=m)`. The gates with the largest log α of the family are open;
            a budget is met with these widths.
        law: β, γ and ζ.
        draws: one draw for each "batch", shared by its examples as in the paper, or one for each
            "example".
        noise: "fresh" for every draw, or "pooled": from a random place of a fixed pool of 2²²
            numbers, where drawing takes longer than the network's own step (weights on CPUs).
        detach_l2: whether the gradient of the L2 part reaches the weights only. Otherwise large
            weights push their gates shut.
        seed: the n-th draw then depends on (seed, n) alone. In distributed training the same seed
            gives the same draws on every rank, seed + rank different ones. None draws from torch's
            global generator.

    Raises:
        GateError: for rates, budgets, laws and seeds that cannot be.
        MethodError: for an unknown word.
    """

    gate_lr: float | None = None
    budget: Budget | None = None
    init: float | Sequence[float] = 0.5
    per: Literal["weight", "group"] = "weight"
    test: TestGate = "published"
    multiple_of: int = 1
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
        check_multiple(self.multiple_of, GateError)
        if self.law is not None and not isinstance(self.law, HardConcrete):
            what = f"a law is a lissom.hard_concrete.HardConcrete, got {self.law!r}"
            raise GateError(what, field="law")
        check_seed(self.seed)


def check_seed(seed: object) -> None:
    """Refuse what seeds nothing.

    Raises:
        GateError: unless it is None or a whole number ≥ 0.
    """
    if seed is not None and not whole(seed, least=0):
        raise GateError(f"a seed is a whole number ≥ 0, or None, got {seed!r}", field="seed")
