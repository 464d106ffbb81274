"""The LC algorithm: L steps in the user's own loop, C steps when its body ends.

    min L(w)  s.t.  w = Δ(Θ)

    L step:  min over w of  L(w) + (μ/2)‖w − Δ(Θ) − u‖²_D        (by the user's optimizer)
    C step:  Θ = argmin ‖(w − u) − Δ(Θ)‖²_D,   then   u ← u − (w − Δ(Θ))

u holds the multipliers of the constraint, divided by μ; it is 0 in the quadratic-penalty method.
As μ grows, w becomes Δ(Θ).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lissom.errors import CompressionError
from lissom.groups import Groups, disjoint
from lissom.learning_compression.checks import Method, Metric, check
from lissom.learning_compression.compressions import Compression, distance
from lissom.learning_compression.mu import Automatic, Given, Probe
from lissom.learning_compression.result import Compressed
from lissom.learning_compression.task import Task
from lissom.penalties import Penalty
from lissom.running import holding

TOLERANCE = 1e-2  # of ‖w − θ‖/‖w‖, where μ is to be found


class Step:
    """One pass through the body of the user's loop: an L step, and the C step at its end.

    Attributes:
        number: from 0.
    """

    def __init__(self, run: "LC", number: int) -> None:
        self._run, self.number = run, number

    @property
    def mu(self) -> float:
        """μ of this step; 0 while the automatic one is not found yet."""
        return self._run.mu

    def penalty(self) -> Tensor:
        """(μ/2)‖w − Δ(Θ) − u‖²_D over all that is compressed, to be added to the loss."""
        return self._run.penalty()

    def apply(self) -> AbstractContextManager[None]:
        """The model as its compressed self, as a C step would make it now: for evaluation."""
        return self._run.apply()


class LC:
    """Learning–compression on a model; made by `lissom.lc`, and iterated over.

    Attributes:
        model: whose weights are compressed.
        given: {groups: compression}.
        number: C steps done, without direct compression.
        gap: ‖w − θ‖/‖w‖ after the last C step.
        learning: whether an L step was begun and not ended.
        result: what came out, once θ was written into the weights.
    """

    def __init__(
        self,
        model: nn.Module,
        compressions: Mapping[Groups, Compression | Penalty],
        *,
        mu: Sequence[float] | None = None,
        method: Method = "augmented",
        metric: Metric = "euclidean",
        optimizer: Optimizer | None = None,
        steps: int = 40,
        tolerance: float | None = None,
    ) -> None:
        disjoint(compressions, (Penalty, Compression))
        check(model, compressions, mu, method, metric, optimizer, steps, tolerance)
        self.model, self.given = model, dict(compressions)
        self._mu: Given | Automatic = (
            Given(mu, tolerance or 0.0)
            if mu is not None
            else Automatic(steps, tolerance or TOLERANCE, optimizer=optimizer)
        )
        self._tasks = [
            Task(
                groups,
                compression,
                augmented=method == "augmented",
                optimizer=optimizer if metric == "adaptive" else None,
            )
            for groups, compression in compressions.items()
        ]
        self.number = 0
        self.gap = math.inf
        self.result: Compressed | None = None
        self.learning = self._asked = False
        self._last = 0.0  # μ of the last C step
        self._probe: Probe | None = None

    @property
    def mu(self) -> float:
        """μ of the present step; 0 while the automatic one is not found yet."""
        return self._mu(min(self.number, self.steps - 1))

    @property
    def steps(self) -> int:
        """How many steps there are at most."""
        return self._mu.steps

    @property
    def begun(self) -> bool:
        """Whether there is a θ."""
        return bool(self._tasks[0].forms)

    @property
    def done(self) -> bool:
        """Whether there are no more steps: all were made, or ‖w − θ‖ is small enough."""
        close = self.number > 0 and self.gap <= self._mu.tolerance
        return self.result is not None or close or self.number >= self.steps

    def __iter__(self) -> Iterator[Step]:
        while not self.done:
            self.learn()
            yield Step(self, self.number)
            self.compress()
        self.finish()

    def learn(self) -> None:
        """Begin an L step; the first one begins with direct compression."""
        if self.learning or self.result is not None:
            return
        mu = self.mu
        if not self.number:
            for task in self._tasks:
                task.begin(mu)
            self._measure_gap()
            self._mu.begin(self.gap)
        for task in self._tasks:
            task.aim(self._last / mu if self.number else 1.0)
        self.learning, self._asked = True, False

    def penalty(self) -> Tensor:
        """(μ/2)‖w − Δ(Θ) − u‖²_D over all that is compressed, for the L step.

        Raises:
            CompressionError: outside of an L step.
        """
        if not self.learning:
            raise CompressionError(
                "there is no L step now, so there is nothing to draw the weights to: take the "
                "penalty within the loop `for step in lissom.lc(…)`"
            )
        self._asked = True
        if isinstance(self._mu, Automatic) and not self.mu:
            return self._probed(self._mu)
        return self._pull()

    @torch.no_grad()
    def compress(self) -> None:
        """The C step, which ends an L step.

        Raises:
            CompressionError: if there was no L step, or nothing was drawn to θ in it.
        """
        if not self.learning or not self._asked:
            raise CompressionError(
                f"the body of step {self.number} ended and its penalty was never asked for, so the "
                "weights cannot come closer to their compressed form: add step.penalty() to the "
                "loss"
                if self.learning
                else "a C step ends an L step, and none was begun"
            )
        if isinstance(self._mu, Automatic) and not self.mu:
            self._settle(self._mu)
        for task in self._tasks:
            task.compress(self.number + 1, self.mu)
        self._measure_gap()
        self._last = self.mu
        self._mu.follow(self.number, self.gap)
        self.number += 1
        self.learning = False

    @torch.no_grad()
    def apply(self) -> AbstractContextManager[None]:
        """The model as its compressed self, as a C step would make it now; then as it was."""
        weights, values = [], []
        for task in self._tasks:
            now = task.project(self.number + 1, self.mu or 1.0) if self.learning else task.forms
            weights += task.weights
            values += [form.value() for form in now]
        return holding(weights, values)

    @torch.no_grad()
    def finish(self) -> Compressed:
        """Write θ into the weights. The loop does so when it ends; after a break, call it.

        Returns:
            The forms of all compressed tensors, and their size.
        """
        if self.result is not None:
            return self.result
        self.learn()
        if self._asked:
            self.compress()
        self.learning = False
        self._stop_probe()
        for task in self._tasks:
            for weight, value in zip(task.weights, task.values(), strict=True):
                weight.copy_(value)
        self.result = self._compressed()
        return self.result

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs besides the model's and the optimizer's own state."""
        if isinstance(self._mu, Automatic):
            self._note(self._mu)
        return {
            "number": self.number,
            "gap": self.gap,
            "last": self._last,
            "learning": self.learning,
            "asked": self._asked,
            "finished": self.result is not None,
            "mu": self._mu.state_dict(),
            "shapes": self._shapes(),
            "tasks": [task.state_dict() for task in self._tasks],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken, in a run that was made in the same way.

        Raises:
            CompressionError: if the state is of other weights.
        """
        if state["shapes"] != self._shapes():
            raise CompressionError(
                f"the saved state is of weights shaped {state['shapes']}, and those here are "
                f"{self._shapes()}: was it saved with other groups?"
            )
        for task, known in zip(self._tasks, state["tasks"], strict=True):
            task.load_state_dict(known)
        self.number, self.gap, self._last = state["number"], state["gap"], state["last"]
        self.learning, self._asked = state["learning"], state["asked"]
        self._mu.load_state_dict(state["mu"])
        self.result = self._compressed() if state["finished"] else None

    def _shapes(self) -> list[list[list[int]]]:
        return [[list(w.shape) for w in task.weights] for task in self._tasks]

    def _pull(self) -> Tensor:
        first, *others = [task.pull(self.mu) for task in self._tasks]
        return sum((other.to(first.device) for other in others), first)

    def _probed(self, mu: Automatic) -> Tensor:
        """A penalty of 0, while the first batches show how large the loss's gradient is."""
        if self._probe is None:
            self._probe = Probe([weight for task in self._tasks for weight in task.weights])
        self._note(mu)
        if mu.ready:
            self._settle(mu)
            return self._pull()
        value = self._pull()
        self._probe.watch(value)
        return value

    def _settle(self, mu: Automatic) -> None:
        """Set the first μ by the gradients seen so far."""
        self._note(mu)
        mu.settle(self._distance())
        self._stop_probe()

    def _note(self, mu: Automatic) -> None:
        """Take in the gradient of the last backward pass, if it was measured."""
        if self._probe is not None and (squares := self._probe.take()) is not None:
            mu.measure(squares)

    def _stop_probe(self) -> None:
        if self._probe is not None:
            self._probe.remove()
            self._probe = None

    def _distance(self) -> float:
        """‖w − θ‖ over all tasks."""
        return math.hypot(*(distance(task.weights, task.values()) for task in self._tasks))

    def _measure_gap(self) -> None:
        zeros = [[torch.zeros(()).to(w) for w in task.weights] for task in self._tasks]
        norms = [distance(t.weights, zero) for t, zero in zip(self._tasks, zeros, strict=True)]
        self.gap = self._distance() / max(math.hypot(*norms), 1e-30)
        if not math.isfinite(self.gap):
            raise CompressionError(
                f"training diverged in step {self.number}: ‖w − θ‖/‖w‖ is {self.gap} at μ = "
                f"{self.mu:.3g}. Gradient descent with momentum m and rate lr follows μ up to "
                "2(1 + m)/lr: a smaller μ or rate helps, and optimizer=… where μ is to be found"
            )

    def _compressed(self) -> Compressed:
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        forms = {
            names[weight]: form
            for task in self._tasks
            for weight, form in zip(task.weights, task.forms, strict=True)
        }
        others = sum(p.nbytes for p, name in names.items() if name not in forms)
        return Compressed(forms, self.gap, others)
