"""The LC algorithm: L steps are the user's own training, C steps happen on the optimizer's hook.

    min L(w)  s.t.  w = Δ(Θ)

    L step:  min over w of  L(w) + (μ/2)‖w − Δ(Θ) − u‖²_D        (by the user's optimizer, to whose
                                                                 gradients the pull is added)
    C step:  Θ = argmin ‖(w − u) − Δ(Θ)‖²_D,   then   u ← u − (w − Δ(Θ))

u holds the multipliers of the constraint, divided by μD; it is 0 in the quadratic-penalty method.
As μ grows, w becomes Δ(Θ).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lissom.arguments import positive, whole
from lissom.compressions.compressions import Compression, distance
from lissom.compressions.result import Compressed
from lissom.errors import CompressionError, MethodError, warn
from lissom.groups import Groups
from lissom.methods.lc.mu import Automatic, Given
from lissom.methods.lc.task import Task
from lissom.methods.method import Method
from lissom.methods.metric import Metric, check_metric
from lissom.methods.optimizers import param_groups_of, require_dense, took_a_step
from lissom.methods.options import Options, Steps
from lissom.penalties import SIZE, Abilities, Penalty, refusal
from lissom.shards import Shard, local, summed

C_STEPS = 40
TOLERANCE = 1e-2  # of ‖w − θ‖/‖w‖, where μ is to be found
APART = 0.6  # of the same in the metric, at the end; above it θ was another network than w


@dataclass(frozen=True, kw_only=True)
class LCOptions(Options):
    """How long L steps are and how μ grows.

    The first L step begins after `start`; `finalize_at` ends them before the last C step.

    Attributes:
        every: optimizer steps of an L step; or a list of the steps since `start` after which each
            of them ends.
        first: steps of the first L step, if it is another number.
        c_steps: how many C steps there are, where `every` is a number; 40 by default.
        mu: μ of the first L step, which grows by `mu_factor` with each, or a list with one for
            each. None finds it: the pull is a tenth of the loss's gradient at first, and grows
            where ‖w − θ‖ falls too slowly, up to the 1/lr that the optimizer can follow.
        mu_factor: a in μ_n = μ₀ aⁿ.
        algorithm: "augmented" Lagrangian, or "quadratic" penalty, with u = 0.
        metric: in which θ is nearest and w is drawn: "euclidean", or the optimizer's "adaptive" D
            as of the last C step (see `proximal`). There μ is a rate: an optimizer's step moves w
            by lr·μ of the way to θ.
        tolerance: of ‖w − θ‖/‖w‖, below which it ends before, unless a schedule still goes on. By
            default 0.01 where mu is None, otherwise never.
        restart: whether the optimizer forgets its moments when an L step begins, as the published
            code does by making a new one.

    Raises:
        MethodError, CompressionError: for numbers or words that cannot be.
    """

    every: Steps | Sequence[Steps]
    first: Steps | None = None
    c_steps: int | None = None
    mu: float | Sequence[float] | None = None
    mu_factor: float = 1.0
    algorithm: Literal["augmented", "quadratic"] = "augmented"
    metric: Metric = "euclidean"
    tolerance: float | None = None
    restart: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.c_steps is not None and not whole(self.c_steps, least=1):
            what = f"c_steps is a whole number ≥ 1, got {self.c_steps!r}"
            raise CompressionError(what, field="c_steps")
        self._check_lengths()
        tolerance = self.tolerance
        if tolerance is not None and not (positive(tolerance) and tolerance < 1):
            what = f"tolerance is of ‖w − θ‖/‖w‖, between 0 and 1, got {tolerance!r}"
            raise CompressionError(what, field="tolerance")
        self._check_mu()

    def _check_lengths(self) -> None:
        if isinstance(self.every, Sequence) and not isinstance(self.every, str):
            ends = list(self.every)
            counted = bool(ends) and all(whole(end, least=1) for end in ends)
            if not counted or any(a >= b for a, b in pairwise(ends)):
                raise CompressionError(
                    "every is the length of an L step, or a list of the steps after which each of "
                    f"them ends, such as [500, 800, 1100]; got {self.every!r}",
                    field="every",
                )
            for name in ("first", "c_steps"):
                if getattr(self, name) is not None:
                    what = f"every={self.every!r} says when each L step ends: leave out {name}"
                    raise CompressionError(what, field=name)
            return
        for name in ("every", "first"):
            length = getattr(self, name)
            if not (whole(length, least=1) or (name == "first" and length is None)):
                raise CompressionError(
                    f"{name} counts the steps of an L step, 1 or more, got {length!r}", field=name
                )

    def _check_mu(self) -> None:
        values: list[Any] = list(self.mu) if isinstance(self.mu, Sequence) else [self.mu]
        if self.mu is not None and not (values and all(map(positive, values))):
            raise CompressionError(
                "mu is a positive number, with mu_factor for its growth, or a list with one for "
                f"each C step, or None to find it on the way; got {self.mu!r}",
                field="mu",
            )
        if isinstance(self.mu, Sequence) and len(values) != len(self.ends):
            what = f"mu has {len(values)} numbers, and there are {len(self.ends)} C steps"
            raise CompressionError(what, field="mu")
        if not positive(self.mu_factor):
            what = f"mu_factor is a number above 0, got {self.mu_factor!r}"
            raise CompressionError(what, field="mu_factor")
        if self.mu_factor != 1 and not positive(self.mu):
            what = f"mu_factor is the growth of a mu that is one number, got mu={self.mu!r}"
            raise CompressionError(what, field="mu_factor")

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """After how many steps since `start` each L step ends in a C step."""
        if isinstance(self.every, Sequence):
            return tuple(self.every)
        first = self.every if self.first is None else self.first
        c_steps = C_STEPS if self.c_steps is None else self.c_steps
        return tuple(first + n * self.every for n in range(c_steps))

    @cached_property
    def mus(self) -> tuple[float, ...] | None:
        """μ of each L step; None where it is to be found."""
        if self.mu is None or isinstance(self.mu, Sequence):
            return None if self.mu is None else tuple(self.mu)
        return tuple(self.mu * self.mu_factor**n for n in range(len(self.ends)))

    @property
    def end(self) -> int:
        last = self.start + self.ends[-1]
        return last if self.finalize_at is None else min(last, self.finalize_at)

    @classmethod
    def over(cls, epochs: int) -> Mapping[str, Any]:
        return {"start": 0, "every": 1, "first": None, "c_steps": epochs, "finalize_at": None}

    @classmethod
    def scaled(cls, given: Mapping[str, Any], ratio: Fraction) -> dict[str, Any]:
        """Fewer C steps where L steps cannot be shorter; μ grows as much over all of them."""
        made = super().scaled(given, ratio)
        every, start, count = (
            given.get(k, d) for k, d in (("every", 1), ("start", 0), ("c_steps", C_STEPS))
        )
        first = given.get("first", every)
        if not all(whole(number, least=0) for number in (every, start, first, count)):
            return made  # a list, or steps
        end = int((start + first + (count - 1) * every) * ratio) - made.get("start", 0)
        each = made.get("every", 1)
        fewer = max(1, min(count, end // each))
        made |= {"c_steps": fewer, "first": max(1, end - (fewer - 1) * each)}
        if count > 1 and fewer > 1 and isinstance(given.get("mu_factor"), float):
            made["mu_factor"] = given["mu_factor"] ** ((count - 1) / (fewer - 1))
        return made


class LC(Method):
    """Learning–compression; made by `lissom.lc`.

    Attributes:
        number: C steps done, without direct compression.
        gap: ‖w − θ‖/‖w‖ after the last C step.
    """

    name = "lc"
    takes = "penalties, and compressions such as Codebook or LowRank"
    options_type = LCOptions
    shards = True
    fresh_moments = True
    settles = 0.6

    optimizer: Optimizer
    options: LCOptions
    penalties: dict[Groups, Compression | Penalty]

    def __init__(
        self,
        optimizer: Optimizer,
        penalties: Mapping[Groups, Compression | Penalty],
        options: LCOptions | None = None,
    ) -> None:
        super().__init__(optimizer, penalties, options)
        require_dense(self.optimizer, self.name)
        options = self.options
        mus, tolerance = options.mus, options.tolerance
        self._mu: Given | Automatic = (
            Given(mus, tolerance or 0.0)
            if mus is not None
            else Automatic(len(options.ends), tolerance or TOLERANCE, optimizer=self.optimizer)
        )
        self._tasks = [
            Task(
                groups,
                compression,
                augmented=options.algorithm == "augmented",
                optimizer=self.optimizer if options.metric == "adaptive" else None,
            )
            for groups, compression in penalties.items()
        ]
        self.number = 0
        self.gap = math.inf
        self._since = 0  # steps since the last C step

    def follow(self, optimizer: Optimizer) -> None:
        super().follow(optimizer)
        self._pulls = optimizer.register_step_pre_hook(torch.compiler.disable(self._before_step))

    @classmethod
    def accepts(cls, penalty: Any) -> bool:
        return isinstance(penalty, Abilities)

    @classmethod
    def check(cls, penalties: Iterable[Any], options: LCOptions) -> None:
        listed = list(penalties)
        super().check(listed, options)
        check_metric(options.metric, listed)
        for penalty in listed if options.mu is None else ():
            if what := refusal("method 'lc'", penalty, SIZE):
                raise CompressionError(what, field="mu")

    @classmethod
    def lasts(cls, penalties: Iterable[Any]) -> bool:
        """Zeros can stay; a codebook or a rank could not."""
        return all(isinstance(penalty, Penalty) for penalty in penalties)

    @property
    def mu(self) -> float:
        """μ of the present step; 0 while the automatic one is not found yet."""
        return self._mu(min(self.number, self._mu.steps - 1))

    @property
    def begun(self) -> bool:
        """Whether there is a θ."""
        return bool(self._tasks[0].forms)

    @property
    def done(self) -> bool:
        """Whether there are no more C steps: all were made, or ‖w − θ‖ is small enough.

        It is small too as long as a schedule asks for nothing yet, which is no end.
        """
        close = self.number > 0 and self.gap < self._mu.tolerance
        return (close and self._asks_for_all()) or self.number >= len(self.options.ends)

    def _asks_for_all(self) -> bool:
        """Whether all schedules are where they will be at the last C step."""
        last = self.options.ends[-1]
        now_and_then = [(p.at(self.now), p.at(last)) for p in self.penalties.values()]
        return all(now is then or now == then for now, then in now_and_then)

    def penalty(self) -> Tensor:
        """(μ/2)‖w − Δ(Θ) − u‖²_D over all that is compressed, to be looked at.

        Its gradient joins those of the loss in the optimizer's step, whether this was added to the
        loss or not. Of weights that the optimizer maximizes it is below 0, as what is added there.
        """
        value = self._value()
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            value.requires_grad_()  # by itself, so that no gradient goes on from it
        return self._noticed(value)

    def _value(self) -> Tensor:
        first, *others = self._tasks
        if not self._active or not self.mu:
            return torch.zeros((), device=first.weights[0].device)
        groups = {} if self.optimizer is None else param_groups_of(self.optimizer)
        total = first.penalty(self.mu, groups)
        return sum((other.penalty(self.mu, groups).to(total.device) for other in others), total)

    @torch.no_grad()
    def after_step(self) -> None:
        self._begin()
        self._since += 1
        if isinstance(self._mu, Automatic) and not self.mu:
            shards = [shard for task in self._tasks for shard in task.shards]
            self._mu.measure(_squares([w for task in self._tasks for w in task.weights], shards))
            if self._mu.ready:
                self._mu.settle(self._distance())
        if self.step - self.options.start >= self.options.ends[self.number]:
            self._compress()
            if self.done:
                self.finalize()

    def write_(self) -> None:
        """θ into the weights, as a C step would find it now."""
        if self.step < self.options.start:
            return
        settled = self.begun and not self._since
        for task in self._tasks:
            forms = task.forms if settled else task.project(self.now, self.mu or 1.0)
            for weight, form in zip(task.weights, forms, strict=True):
                local(weight).copy_(form.value())
        for block in self.blocks():
            if not block.whole:  # biases, say, go with what died
                self.keep_zeros_(block, (block.norms() != 0).to(block.normed[0].values))

    def finalize(self) -> None:
        """θ into the weights, after one more C step if there were steps since the last."""
        if self._active:
            self._begin()
            if self._since:
                self._compress()
            self._notice_gap()
        super().finalize()

    def let_go(self) -> None:
        self._pulls.remove()

    def event(self) -> dict[str, Any]:
        if not self.begun:
            return {}
        return {
            "summary": f"C step {self.number} of {len(self.options.ends)}  μ {self.mu:.3g}  "
            f"‖w − θ‖/‖w‖ {self.gap:.3g}",
            "curves": {"μ": {"μ": self.mu}, "‖w − θ‖/‖w‖": {"after the last C step": self.gap}},
        }

    def outcome(self, model: nn.Module) -> Compressed | None:
        """The forms of all compressed tensors, as long as nothing has trained them since the end.

        Args:
            model: whose parameters they are.

        Raises:
            CompressionError: if they are another model's.
        """
        written = self._alive is not None  # by `finalize`, and not just removed
        if not written or self.step != self.finalized_at or not self.begun:
            return None
        names = {parameter: name for name, parameter in model.named_parameters()}
        weights = [weight for task in self._tasks for weight in task.weights]
        if not names.keys() >= set(weights):
            raise CompressionError(
                f"the compressed weights are no parameters of this {type(model).__name__}"
            )
        found = [
            form if shard is None else form.changed(shard.gathered)
            for task in self._tasks
            for form, shard in zip(task.forms, task.shards, strict=True)
        ]
        forms = {names[weight]: form for weight, form in zip(weights, found, strict=True)}
        others = sum(p.nbytes for p, name in names.items() if name not in forms)
        return Compressed(forms, self.gap, others)

    def own_state(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "gap": self.gap,
            "since": self._since,
            "mu": self._mu.state_dict(),
            "tasks": [task.state_dict() for task in self._tasks],
        }

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        begun = math.isfinite(state["gap"])  # or forms are there only for torch to load into
        for task, kept in zip(self._tasks, state["tasks"], strict=True):
            task.load_state_dict(kept if begun else {**kept, "forms": []})
        self.number, self.gap, self._since = state["number"], state["gap"], state["since"]
        self._mu.load_state_dict(state["mu"])

    def _begin(self) -> None:
        """See that there is a θ, once and for all."""
        if not self.begun:
            self._compress_directly()

    def _require_trained(self) -> None:
        """Refuse what no loss can draw to θ: it would be changed at the end, all at once."""
        frozen = [b.name for b in self.blocks() if not all(p.requires_grad for p in b.parameters)]
        if frozen:
            raise MethodError(
                f"{', '.join(frozen)} is frozen (requires_grad=False), and method {self.name!r} "
                "draws weights to their compressed form by the loss: leave it out with "
                ".without(…), or train it"
            )

    @torch.no_grad()
    def _compress_directly(self) -> None:
        """θ is the form nearest to the weights as they are."""
        self._require_trained()
        for task in self._tasks:
            task.begin(self.mu)
            task.aim()
        self._measure_gap()
        self._mu.begin(self.gap)

    def _compress(self) -> None:
        """The C step, which ends an L step and begins the next."""
        self._require_trained()
        if isinstance(self._mu, Automatic) and not self.mu:
            self._mu.settle(self._distance())
        before = self.mu
        for task in self._tasks:
            task.compress(self.now, before)
        self._measure_gap()
        self._mu.follow(self.number, self.gap)
        self.number += 1
        self._since = 0
        for task in self._tasks:
            task.aim(before / self.mu)

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Let the pull join the gradients: those that are there, or that a closure will make."""
        if not self._active:
            return None
        if self.options.restart and not self._since:
            if optimizer.state:
                self._begin()  # in the metric that is about to be forgotten
            self.forget_moments()
        if kwargs.get("closure") is not None:
            return args, {**kwargs, "closure": partial(self._evaluated, kwargs["closure"])}
        if len(args) > 1 and args[1] is not None:
            return (args[0], partial(self._evaluated, args[1]), *args[2:]), kwargs
        self._pull()
        return None

    def _evaluated(self, closure: Callable[[], Any]) -> Any:
        """The loss of a closure, with the pull in its gradients and so in its value, once."""
        self._in_loss = False
        loss = closure()
        self._pull()
        if self._in_loss or not isinstance(loss, Tensor | float):
            return loss
        value = self._value()
        return loss + (value.to(loss) if isinstance(loss, Tensor) else float(value))

    def _pull(self) -> None:
        """Add the gradient of the penalty to those of the loss, which may be scaled."""
        if not took_a_step(self.optimizer):  # nor will it
            return
        self._begin()
        if self.mu:
            groups, scale = (
                param_groups_of(self.optimizer),
                getattr(self.optimizer, "grad_scale", None),
            )
            for task in self._tasks:
                task.pull_(self.mu, groups, scale)

    def _gap(self, *, weighed: bool) -> float:
        """‖w − θ‖/‖w‖ over all tasks; weighed, in the metric of the last C step."""
        sizes = []
        for task in self._tasks:
            here = task.here()
            zeros = [torch.zeros(()).to(w) for w in here]
            sizes.append(distance(here, zeros, task.metric if weighed else None, task.shards))
        return self._distance(weighed=weighed) / max(math.hypot(*sizes), 1e-30)

    def _distance(self, *, weighed: bool = False) -> float:
        """‖w − θ‖ over all tasks; weighed, in the metric of the last C step."""
        return math.hypot(
            *(
                distance(task.here(), task.values(), task.metric if weighed else None, task.shards)
                for task in self._tasks
            )
        )

    def _notice_gap(self) -> None:
        """Warn where w has not come near θ, which is about to replace it."""
        gap = self._gap(weighed=True)
        if gap > APART:
            asked = f", and was to be {self._mu.tolerance:g}" if self._mu.tolerance else ""
            warn(
                f"method 'lc' ends after {self.number} C steps, and ‖w − θ‖/‖w‖ is still "
                f"{gap:.2g}{asked}: the compressed weights θ, which are written now, are far from "
                "those that were trained. More or longer L steps help, or a larger μ towards the "
                f"end, which is {self.mu:.3g} now"
            )

    def _measure_gap(self) -> None:
        self.gap = self._gap(weighed=False)
        if not math.isfinite(self.gap):
            raise CompressionError(
                f"training diverged in L step {self.number}: ‖w − θ‖/‖w‖ is {self.gap} at μ = "
                f"{self.mu:.3g}. Gradient descent with momentum m and rate lr follows μ up to "
                "2(1 + m)/lr: a smaller μ or rate helps"
            )


def _squares(weights: Sequence[nn.Parameter], shards: Sequence[Shard | None]) -> Tensor | None:
    """‖gradient‖² of the step that just ended; None if there was none."""
    pairs = zip(weights, shards, strict=True)
    known = [(local(w.grad), shard) for w, shard in pairs if w.grad is not None]
    if not known:
        return None
    squares = [grad.square().sum(dtype=torch.float64) for grad, _ in known]
    return summed(squares, [shard for _, shard in known])
