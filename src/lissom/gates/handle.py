"""The gates of a model: log α, draws, penalties, and the way back to plain weights."""

import copy
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lissom.errors import GateError
from lissom.gates.checks import LOG_ALPHA, Drops, check, drop_rates, elastic
from lissom.gates.constraints import Constraint
from lissom.gates.drawing import Drawn, Noise, Singles, Values, draw, expected_price
from lissom.gates.expected import Cost, Expected
from lissom.gates.placing import OnInputs, OnWeights, Placing, Waiting, places
from lissom.groups import Block, Groups
from lissom.hard_concrete import HardConcrete, logistic
from lissom.penalties import Penalty
from lissom.running import Example
from lissom.schedules import Schedule, value_at
from lissom.tables import table, text

LIMIT = 10.0  # |log α|; beyond, a gate would not come back within a training


class Gates:
    """Hard-concrete gates on the groups of a model; made by `lissom.gate`.

    Attributes:
        model: that is gated.
        prices: {groups: penalty}.
        blocks: of all groups, in their order.
        log_alpha: one parameter of the model for all gates.
        law: of the gates.
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
        example: Example | None = None,
    ) -> None:
        check(model, prices, {"per": per, "test": test, "draws": draws, "noise": noise})
        drops = drop_rates(prices, init)
        self.model, self.prices, self.per = model, dict(prices), per
        self.law, self.test = law or HardConcrete(), test
        self._noise = Noise(seed, pooled=noise == "pooled")
        self.blocks: list[Block] = [block for groups in prices for block in groups]
        self.constraints: list[Constraint] = []
        self.step = self.drawn = 0
        self._weights = [
            [block.priced() if per == "weight" else 1 for block in groups] for groups in prices
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
        self.log_alpha = nn.Parameter(start.to(weight.device))
        self._has_l2 = any(elastic(penalty).l2 != 0 for penalty in prices.values())
        placing = OnWeights if draws == "batch" else OnInputs
        self._hooks: Placing = placing(model, self._places, self._draw)
        model.register_parameter(LOG_ALPHA, self.log_alpha)  # nothing is refused from here on
        self._multiply(self._by_block(1 / self.law.mean(self.log_alpha.detach())))

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

        Source: Louizos, Welling & Kingma 2018, eq. 9 and 24; budgets: see `constrain`.
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

        `penalty` then has a term whose multiplier rises until E[size] is at the target.

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
        wanted = {cost: target for cost, target in targets.items() if target is not None}
        if not wanted:
            raise GateError("name a target, such as constrain(weights=0.05) or constrain(macs=0.1)")
        made = []
        for cost, target in wanted.items():
            least, total = self._bounds(cost)
            constraint = Constraint(cost, target, total, rate, damping)
            constraint.check(least)
            made.append(constraint)
        self.constraints = made

    def expected_loss(self, loss: Callable[[], Tensor], samples: int = 1) -> Tensor:
        """E_z[loss] by Monte Carlo: the mean over `samples` draws.

        Args:
            loss: runs the model and gives its loss; called once for each draw.
            samples: L; 1 is Louizos' choice.

        Source: Ahmed eq. 2.
        """
        if not isinstance(samples, int) or samples < 1:
            raise GateError(f"expected_loss takes 1 sample or more, got {samples!r}")
        return torch.stack([loss() for _ in range(samples)]).mean()

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
        if not self.constraints:
            return self._write(self.test_gates())
        return self._write(self._by_block(self._within_budgets()))

    @torch.no_grad()
    def hardened(self) -> nn.Module:
        """A hardened copy; the model keeps its gates."""
        return gates_of(copy.deepcopy(self.model)).harden()

    @torch.no_grad()
    def sample(self, n: int = 1, seed: int | None = None) -> Iterator[nn.Module]:
        """Plain networks drawn from the distribution, one after the other.

        Args:
            n: how many.
            seed: of the draws; torch's global generator if None.

        Source: Ahmed, chapter 5 (Monte-Carlo ensembles).
        """
        if not isinstance(n, int) or n < 1:
            raise GateError(f"sample(n) draws n networks, n ≥ 1, got {n!r}")
        generator = None
        if seed is not None:
            generator = torch.Generator(self.log_alpha.device).manual_seed(seed)
        for _ in range(n):
            mine = gates_of(copy.deepcopy(self.model))
            noise = logistic(self.log_alpha, generator)
            yield mine._write(self._by_block(self.law.sample(self.log_alpha, noise)))

    def remove(self) -> nn.Module:
        """Take the gates away and leave the weights as they are."""
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
        rows: list[list[object]] = []
        for block, p, z in zip(self.blocks, self.p_nonzero(), self.test_gates(), strict=True):
            opened = int(torch.count_nonzero(z))
            rows.append([block.name, p.numel(), f"{float(p.sum()):.1f}", opened])
        total = [sum(int(str(row[i])) for row in rows) for i in (1, 3)]
        expected = f"{float(self.expected('groups')):.1f}"
        return text(
            table(
                ["gated", "gates", "expected open", f"open ({self.test})"],
                rows,
                total=["total", total[0], expected, total[1]],
            )
        )

    def __repr__(self) -> str:
        return f"<{len(self):,} gates on {type(self.model).__name__}>"

    @property
    def _training(self) -> bool:
        return self.model.training and torch.is_grad_enabled()

    def _draw(self, examples: int | None, waiting: Waiting) -> list[Drawn]:
        """The gates of one call: random in training mode, deterministic in evaluation mode."""
        if not self.model.training:
            return [Values(z if examples is None else z[None]) for z in self.test_gates()]
        with torch.no_grad():
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

    def _within_budgets(self) -> Tensor:
        """The deterministic gates, of which the κ with the largest log α are open."""
        order = self.log_alpha.argsort(descending=True, stable=True)

        def fits(count: int) -> bool:
            alive = torch.zeros(len(self), dtype=torch.float64, device=order.device)
            alive[order[:count]] = 1
            blocks = self._by_block(alive)
            return all(
                float(self._expected(blocks, one.cost)) <= one.limit(self.step)
                for one in self.constraints
            )

        most = bisect_left(range(len(self) + 1), True, key=lambda count: not fits(count)) - 1
        gates = self.law.test_gate(self.log_alpha, self.test)
        opened = torch.where(gates == 0, self.law.mean(self.log_alpha), gates)
        return torch.zeros_like(gates).index_copy(0, order[:most], opened[order[:most]])

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
        self.remove()
        self._multiply(gates)
        for block, z in zip(self.blocks, gates, strict=True):
            block.kill_(z == 0)
        return self.model

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
    for hook in model._forward_pre_hooks.values():
        placed = getattr(hook, "__self__", None)
        if isinstance(placed, Placing):
            gates = placed.draw.__self__  # type: ignore[attr-defined]
            assert isinstance(gates, Gates)
            return gates
    raise GateError(f"this {type(model).__name__} has no gates: put them on with lissom.gate")
