"""A penalty, and the sums of penalties whose prox has a closed form."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property, partial, reduce, wraps
from typing import Any, ClassVar, Self, TypeVar, cast

import torch
from torch import Tensor

from lissom.arguments import fits, misfit
from lissom.errors import LissomError, PenaltyError
from lissom.penalties.abilities import Abilities, Asked, Per
from lissom.penalties.numbers import (
    Numbers,
    added,
    as_like,
    as_norms,
    check_shape,
    none,
    number_of,
    per_block,
    widen,
    without_schedule,
)
from lissom.penalties.parts import Part
from lissom.penalties.together import in_all
from lissom.schedules import Schedule
from lissom.scratch import scratch
from lissom.widths import require_widths

LEAST = 1e-30  # stands for d = 0, where a group may move for nothing: 1/d stays finite

Prox = TypeVar("Prox", bound=Callable[..., Tensor])
InPlace = TypeVar("InPlace", bound=Callable[..., None])


def in_float32(prox: Prox) -> Prox:
    """Let a prox compute in float32 where norms are half precision, so that no step is lost."""

    @wraps(prox)
    def wide(
        self: Any, norms: Tensor, t: float | Tensor = 1.0, metric: Tensor | None = None
    ) -> Tensor:
        values = as_norms(self, norms)
        for name, given, kind in (("t", t, float | Tensor), ("metric", metric, Tensor | None)):
            if not fits(given, kind):
                raise PenaltyError(misfit(name, kind, given))
            if isinstance(given, Tensor):
                check_shape(name, given, norms)
        x = prox(self, values, t, None if metric is None else metric.to(values))
        return x.to(norms.dtype)

    return cast(Prox, wide)


def parts_in_float32(prox_: InPlace) -> InPlace:
    """The same for a prox in place."""

    @wraps(prox_)
    def wide(self: Any, parts: Sequence[Part]) -> None:
        widened = [
            part if (values := widen(part.values)) is part.values else replace(part, values=values)
            for part in parts
        ]
        prox_(self, widened)
        for part, computed in zip(parts, widened, strict=True):
            if computed is not part:
                part.values.copy_(computed.values)

    return cast(InPlace, wide)


class Penalty(Abilities, ABC):
    """A cost of the norms of groups. One's own is a frozen dataclass with `value` and `prox`.

    Its fields may be numbers, schedules, and tensors with a number for each group; `value` and
    `prox` see floats and tensors, by `number_of`. Penalties are added with `+` where the prox of
    the sum has a closed form.
    """

    error: ClassVar[type[LissomError]] = PenaltyError

    @abstractmethod
    def value(self, norms: Tensor) -> Tensor:
        """P(norms), a tensor of no dimension.

        Args:
            norms: of any shape, ≥ 0.
        """

    @abstractmethod
    def prox(self, norms: Tensor, t: float | Tensor = 1.0, metric: Tensor | None = None) -> Tensor:
        """argmin_x ½ Σ_g d_g (x_g − r_g)² + t·P(x), with r = norms and d = metric.

        Args:
            norms: of any shape and float dtype, ≥ 0. NaN stays NaN. From methods they come in
                float32 at least; with `in_float32` they always do.
            t: the step, ≥ 0: a learning rate, or 1/μ. A tensor gives each group its own.
            metric: d ≥ 0, shaped like norms; None means d = 1. It is always None where the penalty
                does not have a metric.

        Returns:
            x, in the shape of norms, with 0 ≤ x ≤ norms.
        """

    @parts_in_float32
    def prox_(self, parts: Sequence[Part]) -> None:
        """The prox in place, of numbers that come in parts: one by one, or jointly."""
        sizes = [part.values if self.signed else part.values.abs() for part in parts]
        metrics = [part.metric and part.metric().clone() for part in parts]
        if self.joint:
            steps = [part.t for part in parts]
            found = in_all(parts, sizes, steps, metrics, self._prox_together)
        else:
            each = zip(sizes, parts, metrics, strict=True)
            found = [proxed(self, size, part.t, metric) for size, part, metric in each]
        for part, x in zip(parts, found, strict=True):
            part.values.copy_(x if self.signed else torch.copysign(x, part.values))

    @cached_property
    def _schedules(self) -> dict[str, Schedule]:
        return {name: v for name, v in _numbers(self).items() if isinstance(v, Schedule)}

    def _prox_together(
        self,
        sizes: Sequence[Tensor],
        steps: Sequence[float | Tensor],
        metrics: Sequence[Tensor | None],
    ) -> list[Tensor]:
        flat = torch.cat([size.flatten() for size in sizes])
        t = torch.cat([
            as_like(step, size).expand_as(size).flatten()
            for size, step in zip(sizes, steps, strict=True)
        ])  # fmt: skip
        known = [
            torch.ones_like(size) if metric is None else metric
            for size, metric in zip(sizes, metrics, strict=True)
        ]
        some = any(metric is not None for metric in metrics)
        d = torch.cat([metric.flatten() for metric in known]) if some else None
        found = proxed(self, flat, t, d).split([size.numel() for size in sizes])
        return [x.view_as(size) for x, size in zip(found, sizes, strict=True)]

    @property
    def terms(self) -> "tuple[Penalty, ...]":
        """What it is a sum of: itself, if it is none."""
        return (self,)

    @property
    def linear(self) -> Numbers:
        """λ₁ of a penalty that `folds`."""
        return 0.0

    @property
    def quadratic(self) -> Numbers:
        """λ₂ of a penalty that `folds`."""
        return 0.0

    @cached_property
    def tensors(self) -> dict[str, Sequence[Tensor]]:
        """The fields with a number for each group: their tensors, one for each block."""
        found = {name: per_block(value) for name, value in _numbers(self).items()}
        return {name: tensors for name, tensors in found.items() if tensors is not None}

    def at(self, step: int) -> Self:
        now = {name: schedule(step) for name, schedule in self._schedules.items()}
        return replace(self, **now) if now else self  # type: ignore[type-var]

    def of(self, block: int) -> Self:
        """This penalty for the block with this number: of tensors for each block, that block's."""
        listed = {
            name: found[block]
            for name, found in self.tensors.items()
            if not isinstance(getattr(self, name), Tensor)
        }
        return replace(self, **listed) if listed else self  # type: ignore[type-var]

    def among(self, some: Callable[[Tensor], Tensor]) -> Self:
        """This penalty of one block for some of its groups: of tensors, the numbers of those.

        Args:
            some: gives, of a number for each group, those of the groups that are meant.
        """
        numbers = {name: some(found) for name, [found] in self.tensors.items()}
        return replace(self, **numbers) if numbers else self  # type: ignore[type-var]

    def require_groups(self, blocks: Sequence[Asked]) -> None:
        shapes = [list(block.shape) for block in blocks]
        for name, tensors in self.tensors.items():
            given = [list(tensor.shape) for tensor in tensors]
            if given != shapes:
                raise PenaltyError(
                    f"{self} has tensors shaped {given} for its {name}, and the norms of the "
                    f"groups are shaped {shapes}: give one for each block, as groups.norms() does"
                )
            if not all(bool(tensor.isfinite().all()) for tensor in tensors):
                raise PenaltyError(f"{self} has NaN or infinite numbers in its {name}")
        if self.per == "block" and (others := [b.name for b in blocks if b.run is None]):
            raise PenaltyError(
                f"{self} counts in each run of neighbours, and there is none in "
                f"{', '.join(others)}: choose the weights by lissom.blocks(model, 4), where 4 is "
                "the length of a run"
            )
        if self.tensors and self.per == "block":
            raise PenaltyError(
                f"{self} is a budget of each run of neighbours, and has a number for each of their "
                "weights: a budget per='layer' can have both"
            )
        if self.tensors and self.joint and self.per == "all" and len(blocks) > 1:
            raise PenaltyError(
                f"{self} is one budget over {len(blocks)} blocks, and has a number for each of "
                "their groups: a budget per='layer' can have both"
            )
        if self.by_family:
            require_widths(blocks, str(self), PenaltyError)
        if self.signed and not all(block.single for block in blocks):
            many = ", ".join(block.name for block in blocks if not block.single)
            raise PenaltyError(
                f"{self} is about the signs of single weights, such as lissom.weights(model); "
                f"groups of several, as in {many}, have norms without a sign"
            )

    def merge(self, other: Self) -> "Penalty":
        """This penalty and another of its class as one.

        Raises:
            PenaltyError: where they are none.
        """
        raise _no_closed_form(self, other)

    def __add__(self, other: "Penalty") -> "Penalty":
        if not isinstance(other, Penalty):
            return NotImplemented  # compressions know what may be added to them
        return _sum(self, other)

    def __radd__(self, other: "Penalty") -> "Penalty":
        return _sum(other, self) if isinstance(other, Penalty) else NotImplemented


@dataclass(frozen=True, repr=False)
class Sum(Penalty):
    """P + λ₁ Σ x + λ₂ Σ x², by completing the square; made by `+`.

    ½d(x − r)² + t(P(x) + λ₁x + λ₂x²) = ½d'(x − r')² + t·P(x) + constant,
    d' = d + 2tλ₂,   r' = (d·r − tλ₁)/d',

    and where r' < 0 the least is at x = 0, as it is for r' = 0. So the prox of the sum is P's at
    max(r', 0) in the metric d'. Where signs count, negative weights are 0 from the start. After a
    budget that ranks groups, those it keeps have the prox of a count that was added.

    Attributes:
        parts: P first, and then what `folds`.
    """

    parts: tuple[Penalty, ...]

    @property
    def terms(self) -> tuple[Penalty, ...]:
        return self.parts

    @cached_property
    def joint(self) -> bool:  # type: ignore[override]
        return any(term.joint for term in self.terms)

    @cached_property
    def per(self) -> Per:  # type: ignore[override]
        return next((term.per for term in self.terms if term.per != "all"), "all")

    @cached_property
    def by_family(self) -> bool:  # type: ignore[override]
        return any(term.by_family for term in self.terms)

    @cached_property
    def has_metric(self) -> bool:  # type: ignore[override]
        return all(term.has_metric for term in self.terms)

    @cached_property
    def differentiable(self) -> bool:  # type: ignore[override]
        return all(term.differentiable for term in self.terms)

    @cached_property
    def weighed(self) -> bool:  # type: ignore[override]
        return any(term.weighed for term in self.terms)

    @cached_property
    def signed(self) -> bool:  # type: ignore[override]
        return any(term.signed for term in self.terms)

    @cached_property
    def homogeneous(self) -> bool:  # type: ignore[override]
        return all(term.homogeneous for term in self.terms)

    @cached_property
    def open_cost(self) -> Numbers | None:  # type: ignore[override]
        costs = [term.open_cost for term in self.terms]
        known = [cost for cost in costs if cost is not None]
        return _total("L0", known) if len(known) == len(costs) else None

    @cached_property
    def open_square(self) -> Numbers:  # type: ignore[override]
        return _total("L2", [term.open_square for term in self.terms])

    @cached_property
    def linear(self) -> Numbers:
        return _total("L1", [term.linear for term in self.terms])

    @cached_property
    def quadratic(self) -> Numbers:
        return _total("L2", [term.quadratic for term in self.terms])

    @cached_property
    def tensors(self) -> dict[str, Sequence[Tensor]]:
        return {
            f"{type(term).__name__}.{name}": found
            for term in self.terms
            for name, found in term.tensors.items()
        }

    def value(self, norms: Tensor) -> Tensor:
        norms = as_norms(self, norms)
        sizes = norms.abs() if self.signed else norms
        first, *others = [term.value(norms if term.signed else sizes) for term in self.terms]
        return sum(others, first)

    @in_float32
    def prox(self, norms: Tensor, t: float | Tensor = 1.0, metric: Tensor | None = None) -> Tensor:
        x = norms.clamp(min=0) if self.signed else norms
        l1, l2 = self._folded(norms)
        x, t, metric = fold(x, t, metric, l1, l2, keep_t=self._keeps_t)
        for term in self._others:
            x = term.prox(x, t, metric)
        return x

    @parts_in_float32
    def prox_(self, parts: Sequence[Part]) -> None:
        if any(term._schedules for term in self.parts):
            raise without_schedule(self)  # before anything is changed
        if self.signed:
            for part in parts:
                part.values.clamp_(min=0)
        others, keep_t = self._others, self._keeps_t
        if self.joint:
            folded = [fold_(p, *self._folded(p.values), anew=True, keep_t=keep_t) for p in parts]
            for term in others:
                term.prox_(folded)
            return
        for part in parts:  # one after the other, since metrics share their memory
            folded_part = fold_(part, *self._folded(part.values), anew=False)
            for term in others:
                term.prox_([folded_part])

    def at(self, step: int) -> "Sum":
        scheduled = any(term._schedules for term in self.parts)
        return Sum(tuple(term.at(step) for term in self.parts)) if scheduled else self

    def of(self, block: int) -> "Sum":
        return Sum(tuple(term.of(block) for term in self.parts)) if self.tensors else self

    def among(self, some: Callable[[Tensor], Tensor]) -> "Sum":
        return Sum(tuple(term.among(some) for term in self.parts)) if self.tensors else self

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.terms))

    @cached_property
    def _others(self) -> list[Penalty]:
        return [term for term in self.terms if not term.folds]

    @cached_property
    def _keeps_t(self) -> bool:
        """Whether d' has to be told apart from 1/t, as by a budget over parts with their own t."""
        return self.joint and self.has_metric

    def _folded(self, norms: Tensor) -> tuple[float | Tensor, float | Tensor]:
        """λ₁ and λ₂."""
        linear = number_of(self, self.linear, norms)
        return linear, number_of(self, self.quadratic, norms)


def _total(name: str, strengths: Sequence[Numbers]) -> Numbers:
    nothing: Numbers = 0.0
    return reduce(partial(added, name), strengths, nothing)


def proxed(
    penalty: Penalty, norms: Tensor, t: float | Tensor, metric: Tensor | None = None
) -> Tensor:
    """The prox of a penalty that may be a user's own.

    Raises:
        PenaltyError: for a result that is no prox: of another shape, or with norms below 0.
    """
    x = penalty.prox(norms, t, metric)
    if not isinstance(x, Tensor) or x.shape != norms.shape:
        shape = f"shape {list(x.shape)}" if isinstance(x, Tensor) else repr(x)
        raise PenaltyError(
            f"the prox of {penalty} was given norms of shape {list(norms.shape)} and gave {shape}: "
            "it gives a tensor of the same shape"
        )
    if not penalty.signed and bool((x < 0).any()):
        raise PenaltyError(
            f"the prox of {penalty} gave a norm of {float(x.min()):.3g}: norms are ≥ 0, so that "
            "the least x is 0, as by .clamp(min=0)"
        )
    return x


def step_in(t: float | Tensor, metric: Tensor | None) -> float | Tensor:
    """s = t/d."""
    return t if metric is None else t / metric.clamp(min=LEAST)


def fold(
    norms: Tensor,
    t: float | Tensor,
    metric: Tensor | None,
    l1: float | Tensor,
    l2: float | Tensor,
    *,
    keep_t: bool = False,
) -> tuple[Tensor, float | Tensor, Tensor | None]:
    """r', t and d' of a sum with λ₁ Σ x + λ₂ Σ x² (see `Sum`).

    Where d' would be the same for all it is 1 instead, and t is divided by it, unless `keep_t`.
    """
    s = step_in(t, metric)
    x = norms if none(l1) else (norms - s * l1).clamp(min=0)
    if none(l2):
        return x, t, metric
    damping = 1 + 2 * s * l2
    x = x / damping
    if metric is not None:
        return x, t, metric + 2 * t * l2
    return (x, t, torch.ones_like(x) * damping) if keep_t else (x, t / damping, None)


def fold_(
    part: Part,
    l1: float | Tensor,
    l2: float | Tensor,
    *,
    anew: bool = False,
    keep_t: bool = False,
) -> Part:
    """The same in place; what is left to do is the prox of the part that is returned.

    Args:
        part: whose values are changed.
        l1: λ₁.
        l2: λ₂.
        anew: whether the metric of the result may be asked for later and more than once.
        keep_t: as of `fold`.
    """
    values, t = part.values, part.t
    # What is 0 is left out: no step (t = 0) moves nothing, also where d = 0.
    linear, curvature = t * l1, 2 * t * l2
    if part.metric is None:
        shrink_(values, linear)
        if none(curvature):
            return part
        damping = 1 + curvature
        values.div_(damping)
        if keep_t:
            d = as_like(damping, values)
            return replace(part, metric=lambda: scratch(values, "metric").copy_(d))
        return replace(part, t=t / damping)
    if none(linear) and none(curvature):
        return part
    d = part.metric()
    if not none(linear):
        shrink_(values, torch.div(linear, _positive(d, linear), out=scratch(d, "limit")))
    if not none(curvature):
        values.div_(1 + curvature / _positive(d, curvature))
        d.add_(curvature)
    metric = part.metric
    return replace(part, metric=(lambda: metric().add_(curvature)) if anew else (lambda: d))


def shrink_(values: Tensor, limit: float | Tensor) -> None:
    """sign(v)·max(|v| − limit, 0) in place."""
    if isinstance(limit, Tensor):
        least = torch.neg(limit.expand_as(values), out=scratch(values, "least"))
        values.sub_(torch.clamp(values, least, limit, out=least))
    elif limit:
        torch.ops.aten.softshrink.out(values, limit, out=values)


def _positive(d: Tensor, strength: float | Tensor) -> Tensor:
    """d, and a tiny number instead of 0 where a strength of 0 might meet it."""
    return d.clamp(min=LEAST) if isinstance(strength, Tensor) else d


def _sum(one: Penalty, other: Penalty) -> Penalty:
    kinds: dict[type[Penalty], Penalty] = {}
    for term in (*one.terms, *other.terms):
        same = kinds.get(type(term))
        kinds[type(term)] = term if same is None else same.merge(term)
    terms = sorted(kinds.values(), key=lambda p: (p.folds, not p.joint, type(p).__name__))
    others = [term for term in terms if not term.folds]
    if len(others) == 2 and others[0].ranks:  # and then a count of one strength for all
        count = others[1]
        possible = count.open_cost is not None and not count.tensors
    else:
        folded = [term for term in terms if term.folds and not term.signed]
        possible = len(others) <= 1 and (not folded or all(term.sums for term in others))
    if not possible:
        raise _no_closed_form(one, other)
    return terms[0] if len(terms) == 1 else Sum(tuple(terms))


def _no_closed_form(one: object, other: object) -> PenaltyError:
    return PenaltyError(
        f"{one} + {other} has no prox in closed form; L1, L2 and NonNegative may be added to one "
        "another and to any other penalty (L1 and L2 not to Threshold), and L0 to TopK"
    )


def _numbers(penalty: Penalty) -> dict[str, Any]:
    if not is_dataclass(penalty):
        return {}
    return {field.name: getattr(penalty, field.name) for field in fields(penalty)}
