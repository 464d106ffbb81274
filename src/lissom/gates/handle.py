"""The gates of a model: log α, draws, penalties, and the way back to plain weights."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lissom.errors import GateError
from lissom.gates.checks import (
    LOG_ALPHA,
    Drops,
    check,
    check_rates,
    check_seed,
    drop_rates,
    elastic,
)
from lissom.gates.constraints import Constraint, allowed, constraints
from lissom.gates.drawing import Drawn, Noise, Singles, Values, draw, expected_price
from lissom.gates.expected import Cost, Expected
from lissom.gates.placing import OnInputs, OnWeights, Placing, Waiting, places, placing_of
from lissom.gates.summary import summary
from lissom.groups import Block, Groups
from lissom.hard_concrete import HardConcrete, logistic
from lissom.penalties import Penalty
from lissom.running import ExampleInputs
from lissom.schedules import Schedule, value_at

LIMIT = 10.0  # |log α|; beyond, a gate would not come back within a training


class Gates:
    """Hard-concrete gates on the groups of a model; made by `lissom.gate`.

    Attributes:
        model: that is gated.
        prices: {groups: penalty}.
        blocks: of all groups, in their order.
        test: which deterministic gate stands in evaluation mode.
        step: penalties asked for so far.
    """

    def __init__(
        self,
        model: nn.Module,
        prices: Mapping[Groups, Penalty],
        *,
        init: Drops = 0.5,
        per: Literal["weight", "group"] = "weight",
        test: str = "published",
        law: HardConcrete | None = None,
        draws: Literal["batch", "example"] = "batch",
        noise: Literal["fresh", "pooled"] = "fresh",
        seed: int | None = None,
        example: ExampleInputs | None = None,
    ) -> None:
        check(model, prices, {"per": per, "test": test, "draws": draws, "noise": noise}, law, seed)
        drops = drop_rates(prices, init)
        self.model, self.prices, self.per = model, dict(prices), per
        self.law, self.test = law or HardConcrete(), test
        self._noise = Noise(seed, pooled=noise == "pooled")
        self.blocks: list[Block] = [block for groups in prices for block in groups]
        self.constraints: list[Constraint] = []
        self.step = self.drawn = 0
        self._weights = [
            [block.weights_each() if per == "weight" else 1 for block in groups]
            for groups in prices
        ]
        self._sizes = [block.shape.numel() for block in self.blocks]
        self._places = places(model, self.blocks)
        self._expected = Expected(model, self.blocks, example)
        weight = self.blocks[0].parameters[0]
        dtype = torch.promote_types(weight.dtype, torch.float32)
        mean = [math.log1p(-p) - math.log(p) for p in drops]
        start = torch.cat([
            torch.full((n,), m, dtype=dtype) for n, m in zip(self._sizes, mean, strict=True)
        ])  # fmt: skip
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        start += 0.01 * torch.randn(start.shape, dtype=dtype, generator=generator)
        log_alpha = nn.Parameter(start.to(weight.device))
        self._has_l2 = any(elastic(penalty).l2 != 0 for penalty in prices.values())
        placing = OnWeights if draws == "batch" else OnInputs
        self._hooks: Placing = placing(model, self._places, self._draw)
        model.register_parameter(LOG_ALPHA, log_alpha)  # nothing is refused from here on
        self._multiply(self._by_block(1 / self.law.mean(log_alpha.detach())))

    @property
    def log_alpha(self) -> Tensor:
        """log α of all gates, one parameter of the model.

        Raises:
            GateError: once the gates were taken away.
        """
        if (found := self.model._parameters.get(LOG_ALPHA)) is not None:
            return found
        gone = f"these gates of {type(self.model).__name__} were taken away"
        raise GateError(f"{gone}: put new ones on with lissom.gate")

    def log_alphas(self) -> dict[str, Tensor]:
        """log α by the name of each block, shaped as its norms are: for plots."""
        parts = self._by_block(self.log_alpha.detach())
        return {block.name: part for block, part in zip(self.blocks, parts, strict=True)}

    def param_groups(
        self, lr: float, gate_lr: float | None = None, **options: Any
    ) -> list[dict[str, Any]]:
        """Two param groups for an optimizer: the model's weights, and the gates.

        Args:
            lr: of the weights.
            gate_lr: of log α; 10·lr by default. Gates that never move usually want a larger one.
            options: of the weights, such as weight_decay; the gates have no weight decay.
        """
        rest = [p for p in self.model.parameters() if p is not self.log_alpha]
        gate_lr = 10 * lr if gate_lr is None else gate_lr
        check_rates(lr, gate_lr, options)
        return [
            {"params": rest, "lr": lr, **options},
            {"params": [self.log_alpha], "lr": gate_lr, "weight_decay": 0.0},
        ]

    def p_nonzero(self) -> list[Tensor]:
        """P(z ≠ 0) of every gate, a tensor for each block, shaped as its norms are."""
        return self._by_block(self.law.p_nonzero(self.log_alpha))

    def penalty(self, *, detach: bool = True) -> Tensor:
        """What is to be added to the loss: Σ_g (λ₀·n_g + λ₂‖w_g‖²)·P(z_g ≠ 0), and the budgets'.

        n_g is the number of weights in group g that its norm counts, or 1 with per="group". Call it
        once for each step: schedules and multipliers move with it.

        Args:
            detach: whether the gradient of the L2 part reaches the weights only. Otherwise large
                weights push their gates shut.

        Source: Louizos, Welling & Kingma 2018, eq. 9 and 24.
        """
        total = expected_price(self.law, self.log_alpha, self._sizes, self._priced())
        if not self.constraints and not self._has_l2:
            self.step += self._training
            return total
        p = self.p_nonzero()
        chances = iter(p)
        for groups, penalty in self.prices.items():
            l2 = value_at(elastic(penalty).l2, self.step)
            for block, chance in [(block, next(chances)) for block in groups]:
                if l2:
                    chance = chance.detach() if detach else chance
                    total = total + (l2 * chance * block.norms().square()).sum().to(total)
        for constraint in self.constraints:
            expected = self._expected(p, constraint.cost)
            total = total + constraint.penalty(expected, self.step, self._training)
        self.step += self._training
        return total

    def constrain(
        self,
        *,
        weights: float | Schedule | None = None,
        macs: float | Schedule | None = None,
        bytes: float | Schedule | None = None,
        rate: float = 5e-3,
        damping: float = 30.0,
    ) -> None:
        """Reach a stated expected size, as a part of the whole network's, without a price to guess.

        It replaces what was asked before; several may be named. `penalty` then has a term whose
        multiplier rises until E[size] is at the target.

        Args:
            weights: of the trainable weights of the whole network, biases included.
            macs: of its multiply–accumulates; gate(…, example=x) is needed.
            bytes: of its trainable weights.
            rate: η, how quickly multipliers rise: by at most η a step.
            damping: ρ, how strongly a violation acts at once: the size ends at most the part 1/ρ
                below its target.

        Raises:
            GateError: for a target that no gates can reach.

        Source: Gallego-Posada et al. 2022.
        """
        targets = {"weights": weights, "macs": macs, "bytes": bytes}
        self.constraints = constraints(targets, self._bounds, rate, damping)

    def expected_loss(self, loss: Callable[[], Tensor], samples: int = 1) -> Tensor:
        """E_z[loss] by Monte Carlo: the mean over `samples` draws.

        Args:
            loss: runs the model and gives its loss; called once for each draw.
            samples: L; 1 is Louizos' choice.

        Source: Ahmed eq. 2.
        """
        if not isinstance(samples, int) or samples < 1:
            raise GateError(f"expected_loss takes 1 sample or more, got {samples!r}")
        losses = [loss() for _ in range(samples)]
        if not all(isinstance(one, Tensor) for one in losses):
            raise GateError(f"the loss of expected_loss gives a tensor, got {losses[0]!r}")
        return torch.stack(losses).mean()

    def expected(self, cost: Cost = "weights") -> Tensor:
        """The expected cost of the network that `shrink` would leave, differentiable by log α.

        Sums over layers, of products over neighbouring groups: a weight between two units is there
        if both are.

        Args:
            cost: "weights" (trainable, biases included), "bytes", "macs" (for one example),
                "groups", or {parameter: cost of each of its weights} for any other.
        """
        return self._expected(self.p_nonzero(), cost)

    def total(self, cost: Cost = "weights") -> float:
        """The same with every gate open."""
        return self._bounds(cost)[1]

    def test_gates(self) -> list[Tensor]:
        """The deterministic gates of evaluation mode, a tensor for each block."""
        return self._by_block(self.law.test_gate(self.log_alpha, self.test))

    @torch.no_grad()
    def harden(self) -> nn.Module:
        """Write the deterministic gates into the weights, zeros exactly, and take the gates away.

        With budgets (`constrain`) as many gates are open, in the order of log α, as they allow at
        this step. Those that evaluation mode has open beyond are shut; those it has shut get E[z].

        Returns:
            The model, which without budgets computes what it computed in evaluation mode.
        """
        return self._write(self._within_budgets() if self.constraints else self.test_gates())

    @torch.no_grad()
    def hardened(self) -> nn.Module:
        """A hardened copy; the model keeps its gates."""
        return self._copied().harden()

    def sample(self, n: int = 1, seed: int | None = None) -> Iterator[nn.Module]:
        """Plain networks drawn from the distribution, one after the other.

        Args:
            n: how many.
            seed: of the draws; torch's global generator if None.

        Source: Ahmed, chapter 5 (Monte-Carlo ensembles).
        """
        if not isinstance(n, int) or n < 1:
            raise GateError(f"sample(n) draws n networks, n ≥ 1, got {n!r}")
        check_seed(seed)
        return self._sampled(n, seed)

    @torch.no_grad()
    def _sampled(self, n: int, seed: int | None) -> Iterator[nn.Module]:
        device = self.log_alpha.device
        generator = None if seed is None else torch.Generator(device).manual_seed(seed)
        for _ in range(n):
            mine = self._copied()
            noise = logistic(self.log_alpha, generator)
            yield mine._write(self._by_block(self.law.sample(self.log_alpha, noise)))

    def remove(self) -> nn.Module:
        """Take the gates away and leave the weights as they are."""
        _ = self.log_alpha  # refuses a second time
        self._hooks.remove()
        del self.model._parameters[LOG_ALPHA]
        return self.model

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs besides the model's own state, which holds log α."""
        return {
            "step": self.step,
            "drawn": self.drawn,
            "constraints": [constraint.state_dict() for constraint in self.constraints],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken.

        Raises:
            GateError: if the budgets are others.
        """
        if not {"step", "drawn", "constraints"} <= state.keys():
            raise GateError(f"this is no state of gates: it has {sorted(state)}")
        saved = [one["cost"] for one in state["constraints"]]
        mine = [constraint.cost for constraint in self.constraints]
        if saved != mine:
            raise GateError(f"the saved state has budgets of {saved}, these gates of {mine}")
        self.step, self.drawn = int(state["step"]), int(state["drawn"])
        for constraint, one in zip(self.constraints, state["constraints"], strict=True):
            constraint.load_state_dict(one)

    def __len__(self) -> int:
        return sum(self._sizes)

    @torch.no_grad()
    def __str__(self) -> str:
        return summary(self.blocks, self.p_nonzero(), self.test_gates(), self.test)

    def __repr__(self) -> str:
        return f"<{len(self):,} gates on {type(self.model).__name__}>"

    @property
    def _training(self) -> bool:
        return self.model.training and torch.is_grad_enabled()

    def _draw(self, examples: int | None, waiting: Waiting) -> list[Drawn]:
        """The gates of one call: random in training mode, deterministic in evaluation mode."""
        if not self.model.training:
            return [Values(z if examples is None else z[None]) for z in self.test_gates()]
        self.log_alpha.data.clamp_(-LIMIT, LIMIT)
        like: Tensor = self.log_alpha
        if like.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            like = like.view_as(like)  # of this draw alone, so that its backward pass can be seen
            like.register_hook(waiting.finish)
        like = like if examples is None else like.expand(examples, -1)
        noise = self._noise(like, self.drawn)
        self.drawn += self._noise.seed is not None
        if examples is not None or not any(block.single for block in self.blocks):
            return [Values(z) for z in self._by_block(draw(self.law, like, noise))]
        parts = zip(self.blocks, self._by_block(like), self._by_block(noise), strict=True)
        return [
            Singles(self.law, log_alpha, part)
            if block.single
            else Values(draw(self.law, log_alpha, part))
            for block, log_alpha, part in parts
        ]

    def _by_block(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split(self._sizes, -1)
        return [
            part.view(*flat.shape[:-1], *block.shape)
            for part, block in zip(parts, self.blocks, strict=True)
        ]

    def _within_budgets(self) -> list[Tensor]:
        """The deterministic gates, of which the κ with the largest log α are open."""
        order = self.log_alpha.argsort(descending=True, stable=True)
        alive = torch.zeros(len(self), dtype=torch.float64, device=order.device)

        def cost(count: int, of: str) -> float:
            alive.zero_()[order[:count]] = 1
            return float(self._expected(self._by_block(alive), of))

        opened = order[: allowed(self.constraints, self.step, cost, len(self))]
        gates = self.law.test_gate(self.log_alpha, self.test)
        gates = torch.where(gates == 0, self.law.mean(self.log_alpha), gates)
        return self._by_block(torch.zeros_like(gates).index_copy(0, opened, gates[opened]))

    def _priced(self) -> list[float]:
        """λ₀·n_g at this step, which is the same for all groups of a block."""
        return [
            value_at(elastic(penalty).l0, self.step) * each
            for (groups, penalty), weights in zip(self.prices.items(), self._weights, strict=True)
            for each in weights
        ]

    @torch.no_grad()
    def _multiply(self, gates: Sequence[Tensor]) -> None:
        for place in self._places:
            place.parameter.copy_(place.gated([Values(z) for z in gates]))

    @torch.no_grad()
    def _write(self, gates: Sequence[Tensor]) -> nn.Module:
        held = {id(parameter) for parameter in self.model.parameters()}
        if any(id(p) not in held for block in self.blocks for p in block.parameters):
            raise GateError(
                f"parameters of {type(self.model).__name__} were replaced since its gates were put "
                "on, as load_state_dict(assign=True) does: load into the same parameters"
            )
        self.remove()
        self._multiply(gates)
        for block, z in zip(self.blocks, gates, strict=True):
            block.kill_(z == 0)
        return self.model

    def _copied(self) -> "Gates":
        """The gates of a copy of the model."""
        self._hooks.clear()
        return gates_of(copy.deepcopy(self.model))

    @torch.no_grad()
    def _bounds(self, cost: Cost) -> tuple[float, float]:
        one = torch.ones(len(self), dtype=torch.float64, device=self.log_alpha.device)
        least, most = (self._expected(self._by_block(p), cost) for p in (0 * one, one))
        return float(least), float(most)


def gates_of(model: nn.Module) -> Gates:
    """The gates that are on a model: on a copy, or on one that was loaded.

    Raises:
        GateError: if it has none.
    """
    gates = placing_of(model).draw.__self__  # type: ignore[attr-defined]
    assert isinstance(gates, Gates)
    return gates
