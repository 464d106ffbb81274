"""What a penalty or a compression can do, who needs it, and how it is refused where it cannot."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

from lissom.arguments import shown
from lissom.errors import LissomError
from lissom.penalties.numbers import Numbers, per_block, written
from lissom.strength import Strength
from lissom.widths import Sized

Per = Literal["all", "layer", "block"]


class Asked(Sized, Protocol):
    """What a penalty has to know of the groups it is asked of (see `lissom.groups.Partition`)."""

    @property
    def run(self) -> int | None: ...


class Abilities:
    """What penalties and compressions declare, so that nobody has to ask which one it is.

    Each is a class attribute, or a property where it depends on the numbers.

    Attributes:
        error: what is raised where it cannot be used.
        strengths: its own numbers that a curve may go along, by the name of the field.
        joint: whether the norms that come together are looked at together, as budgets do.
        per: whether "all" the layers of a choice of groups come together, or each "layer" alone, or
            each "block" of neighbours (see `lissom.blocks`), which then lies along the last dim.
        by_family: whether it is about the widths of layers: each block is a family of units, and
            the norms of several come together as parts, one for each, and not as one vector.
        has_metric: whether d ≠ 1 is known.
        differentiable: whether the gradient of `value` says anything (a count has none).
        weighed: whether a λ is weighed against the loss, so that t (or 1/μ) matters. A size, such
            as a budget, is not.
        sums: whether L1 and L2 may be added: P(0) = 0 is the least, P never falls, and the prox is
            the exact one, so that a square can be completed under it.
        folds: whether P = λ₁ Σ x + λ₂ Σ x² with the numbers `linear` and `quadratic`, or a
            condition on signs; such a penalty may be added to any that `sums`.
        ranks: whether a budget keeps the groups of which zeroing costs most, so that a count may be
            added.
        signed: whether `value` and `prox` take single weights with their signs instead of norms.
        homogeneous: whether P(s·x) = s·P(x) for s ≥ 0. Then it may be asked of the single weights
            of groups that have a penalty of their own.
        open_cost: λ₀ of a penalty P = Σ λ₀·[x ≠ 0] + λ₂ x², whose expectation over gates is known;
            None for other penalties.
        open_square: its λ₂.
    """

    error: ClassVar[type[LissomError]] = LissomError
    strengths: ClassVar[Mapping[str, Strength]] = {}
    joint: bool = False
    per: Per = "all"
    by_family: bool = False
    has_metric: bool = True
    differentiable: bool = False
    weighed: bool = False
    sums: bool = True
    folds: bool = False
    ranks: bool = False
    signed: bool = False
    homogeneous: bool = False
    open_cost: Numbers | None = None
    open_square: Numbers = 0.0

    def at(self, step: int) -> Self:
        """The same with every schedule replaced by its value at `step`."""
        return self

    def require_groups(self, blocks: Sequence[Asked]) -> None:
        """Refuse groups that it cannot be asked of.

        Raises:
            LissomError: of the class `error`.
        """

    def __repr__(self) -> str:
        if not is_dataclass(self):
            return super().__repr__()
        given = [(field, getattr(self, field.name)) for field in fields(self)]
        told = [
            f"{field.name}={written(value)}" if number or field.kw_only else written(value)
            for number, (field, value) in enumerate(given)
            if per_block(value) is not None or value != field.default
        ]
        return f"{type(self).__name__}({', '.join(told)})"


@dataclass(frozen=True)
class Ability:
    """Something that a method or an option needs, and the words about it.

    Attributes:
        has: whether a penalty or compression has it.
        takes: what has it, in general, and of lissom's.
        lacks: what is said of something else.
    """

    has: Callable[[Abilities], bool]
    takes: str
    lacks: str


METRIC = Ability(
    lambda given: given.has_metric,
    "what follows a metric, as L0 does, whose threshold is √(2tλ/d)",
    "knows no metric: use metric='euclidean' with it",
)
GRADIENT = Ability(
    lambda given: given.differentiable,
    "penalties with a gradient: L1, L2, MCP and their sums",
    "has none that says anything",
)
EXPECTATION = Ability(
    lambda given: given.open_cost is not None,
    "L0, L2 and L0 + L2, since gates have a probability of being open, P(z ≠ 0)",
    "has no expectation under it",
)
SIZE = Ability(
    lambda given: not given.weighed,
    "sizes, such as TopK(fraction=0.02), where mu is to be found",
    "is weighed against μ: give mu",
)


def check_per(given: Abilities, *known: Per) -> None:
    """Refuse a `per` that it does not know.

    Raises:
        LissomError: quoting it.
    """
    if not isinstance(given.per, str) or given.per not in known:
        *some, last = map(repr, known)
        raise given.error(
            f"per is {', '.join(some)} or {last}, got {shown(given.per)}", field="per"
        )


def refusal(who: str, given: Any, *needs: Ability) -> str | None:
    """Why somebody cannot take a penalty or a compression; None if it can.

    Args:
        who: a method or an option: "method 'gates'", "metric='adaptive'".
        given: the penalty or compression.
        needs: what it must be able to do.
    """
    for need in needs:
        if not need.has(given):
            return f"{who} takes {need.takes}; got {given}, which {need.lacks}"
    return None
