"""The gates of a model: log α, draws, their penalty, and the way back to plain weights."""

import copy
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from lissom.arguments import as_annotated, whole
from lissom.errors import GateError, OptimizerError, warn
from lissom.groups import Groups, Partition
from lissom.hard_concrete import HardConcrete, logistic
from lissom.methods.gates.budget import Constraint, allowed, constraints, notice_narrow
from lissom.methods.gates.drawing import Noise, Weight, by_block, draw, expected_sum
from lissom.methods.gates.expected import Cost, Expected
from lissom.methods.gates.opening import first, left
from lissom.methods.gates.options import GateOptions, check_seed
from lissom.methods.gates.placing import (
    LOG_ALPHA,
    Drawing,
    OnGathered,
    OnInputs,
    OnWeights,
    Waiting,
    check_ungated,
    placing_of,
)
from lissom.methods.gates.summary import summary
from lissom.methods.method import Method
from lissom.methods.optimizers import is_scheduled, parameters_of
from lissom.methods.placing import (
    compile_anew,
    places,
    require_module,
    require_own_weights,
    uncompiled,
)
from lissom.methods.sharing import (
    reduce_gradient,
    require_own_forward,
    require_reduced,
    reshard,
)
from lissom.penalties import EXPECTATION, Penalty, none, number_of
from lissom.running import ExampleInputs, require_layers
from lissom.shards import is_sharded, local
from lissom.strength import Strength
from lissom.widths import require_widths, width

LIMIT = 10.0  # |log α|; beyond, a gate would not come back within a training
CLOSED = 0.2  # of the gates expected to be open, that a budget closes at the end
FASTER = 10.0  # log α learns so many times faster than the weights, if nothing else is said


class Gates(Method):
    """Hard-concrete gates on the groups of a model; made by `lissom.gate`.

    Attributes:
        model: that is gated.
        constraints: the budgets, with their multipliers.
        law: of the gates.
        test: which deterministic gate stands in evaluation mode.
    """

    name = "gates"
    needs = (EXPECTATION,)
    options_type = GateOptions
    shards = True
    averages = True
    fresh_moments = True
    settles = 0.6
    strengths = {  # noqa: RUF012
        f"budget.{size}": Strength(f"fraction of the {words}", ramps=True, dense=1.0)
        for size, words in (("weights", "weights"), ("macs", "MACs"), ("bytes", "bytes"))
    }

    options: GateOptions
    penalties: dict[Groups, Penalty]

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        penalties: Mapping[Groups, Penalty],
        options: GateOptions | None = None,
        *,
        example_inputs: ExampleInputs | None = None,
    ) -> None:
        require_module(model, "lissom.gate(optimizer, model, {groups: penalty})", GateError)
        require_own_forward(model)
        require_layers(model, "gate")
        require_own_weights(model, "a gate on these would not be one on", GateError)
        check_ungated(model)
        self.model = model
        super().__init__(optimizer, penalties, options)
        assert self.optimizer is not None
        self._put_on(self.optimizer, example_inputs)

    def _put_on(self, optimizer: Optimizer, example_inputs: ExampleInputs | None) -> None:
        """Make log α, and hang the gates into the model and the optimizer."""
        options, model = self.options, self.model
        if options.multiple_of > 1:
            require_widths(self.blocks(), f"multiple_of={options.multiple_of}", GateError)
        drops = _drop_rates(self.penalties, options.init)
        self.law, self.test = options.law or HardConcrete(), options.test
        self._noise = Noise(options.seed, pooled=options.noise == "pooled")
        self._blocks = self.blocks()
        self._shapes = [block.shape for block in self._blocks]
        self._sizes = [shape.numel() for shape in self._shapes]
        self._set_aside: nn.Parameter | None = None  # log α, while the model is as deployed
        self.drawn = torch.tensor(0)  # a graph is compiled for one number, but not for one tensor
        self._costed: Any = ((), None, None)  # penalties, device, and what `_open_costs` found
        self._places = places(model, self._blocks, GateError)
        self._expected = Expected(model, self._blocks, example_inputs)
        weight = self._blocks[0].parameters[0]
        dtype = torch.promote_types(weight.dtype, torch.float32)
        mean = [math.log1p(-p) - math.log(p) for p in drops]
        start = torch.cat([
            torch.full((n,), m, dtype=dtype) for n, m in zip(self._sizes, mean, strict=True)
        ])  # fmt: skip
        seed = options.seed
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        start += 0.01 * torch.randn(start.shape, dtype=dtype, generator=generator)
        log_alpha = nn.Parameter(start.to(weight.device))
        self.constraints: list[Constraint] = []
        if options.budget is not None:
            self.constraints = constraints(
                options.budget, lambda cost: self._bounds(cost, log_alpha)
            )
            if (m := options.multiple_of) > 1:
                least = [(torch.arange(n) < width(1, n, m)).double() for n in self._sizes]
                notice_narrow(self.constraints, m, lambda of: float(self._expected(least, of)))
        placing: type[Drawing] = OnWeights if options.draws == "batch" else OnInputs
        sharded = any(is_sharded(place.tensor) for place in self._places)
        if sharded:
            self._check_shards(example_inputs)
            placing = OnGathered
            reduce_gradient(log_alpha, self._blocks)
        self._placing = placing(model, self._places, self._draw)
        try:
            _join(optimizer, log_alpha, options.gate_lr)
        except Exception:
            self._placing.remove()
            raise
        model.register_parameter(LOG_ALPHA, log_alpha)
        compile_anew()
        self._multiply(self._by_block(1 / self.law.mean(log_alpha.detach())))

    def _check_shards(self, example_inputs: ExampleInputs | None) -> None:
        """Refuse what is not known of gates on tensors of which each process has a part."""
        if parts := [block.name for block in self._blocks if block.shard is not None]:
            raise GateError(
                f"each process has some of the groups of {parts[0]}, and log α is whole in every "
                "process: gate units, as lissom.channels and neurons find them before the model is "
                "sharded"
            )
        if self.options.draws != "batch" or example_inputs is not None:
            raise GateError(
                "on a sharded model gates know draws='batch', and budgets of weights, bytes and "
                "groups: leave out draws='example' and example_inputs"
            )

    @classmethod
    def check(cls, penalties: Iterable[Any], options: GateOptions) -> None:
        listed = list(penalties)
        super().check(listed, options)
        init = options.init
        if isinstance(init, Sequence) and len(init) != len(listed):
            raise GateError(
                f"init is one drop rate for all groups, or a list with one for each: it has "
                f"{len(init)}, and there are {len(listed)} groups",
                field="init",
            )

    @classmethod
    def attach(
        cls,
        optimizer: Optimizer,
        model: nn.Module,
        penalties: Mapping[Groups, Any],
        options: Any,
        example_inputs: ExampleInputs,
    ) -> "Gates":
        return cls(optimizer, model, penalties, options, example_inputs=example_inputs)

    def check_optimizer(self, optimizer: Optimizer) -> None:
        held, log_alpha = parameters_of(optimizer), self.model._parameters.get(LOG_ALPHA)
        if log_alpha is None:  # it joins them later
            trained = [p for p in self.model.parameters() if p.requires_grad]
            if trained and held.isdisjoint(trained):
                raise OptimizerError(
                    f"the optimizer holds no parameter of this {type(self.model).__name__}: make "
                    "it of model.parameters()"
                )
        elif log_alpha not in held:
            raise OptimizerError(
                "log α is in no param group of the optimizer any more, so that no gate would move: "
                "leave the group that lissom.gate added, or call method.finalize()"
            )

    @property
    def log_alpha(self) -> Tensor:
        """log α of all gates, one parameter of the model.

        Raises:
            GateError: once the gates were taken away.
        """
        if (found := self.model._parameters.get(LOG_ALPHA, self._set_aside)) is not None:
            return found
        raise GateError(
            f"these gates of {type(self.model).__name__} are gone: put new ones on by lissom.gate"
        )

    def log_alphas(self) -> dict[str, Tensor]:
        """log α by the name of each block, shaped as its norms are: for plots."""
        parts = self._by_block(self.log_alpha.detach())
        return {block.name: part for block, part in zip(self._blocks, parts, strict=True)}

    def p_nonzero(self) -> list[Tensor]:
        """P(z ≠ 0) of every gate, a tensor for each block, shaped as its norms are."""
        return self._by_block(self.law.p_nonzero(self.log_alpha))

    def loss_term(self) -> Tensor:
        """Σ_g (λ₀·n_g + λ₂‖w_g‖²)·P(z_g ≠ 0), and what the budgets add.

        n_g is the number of weights in group g that its norm counts, or 1 with per="group".

        Source: Louizos, Welling & Kingma 2018, eq. 9 and 24.
        """
        cost, squares = self._open_costs()
        total = expected_sum(self.law, self.log_alpha, cost)
        if all(map(none, squares)) and not self.constraints:
            return total
        p = self.p_nonzero()
        for block, chance, square in zip(self._blocks, p, squares, strict=True):
            if not none(square):
                chance = chance.detach() if self.options.detach_l2 else chance
                total = total + (square * chance * block.norms().square()).sum().to(total)
        for constraint in self.constraints:
            expected = self._expected(p, constraint.cost)
            total = total + constraint.term(expected, self.now)
        return total

    def penalty_was_in_the_loss(self) -> None:
        for constraint in self.constraints:
            constraint.in_the_loss()

    def after_step(self) -> None:
        for constraint in self.constraints:
            constraint.follow()

    def keep_zeros_(self, block: Partition, alive: Tensor) -> None:
        block.kill_(alive == 0)

    @as_annotated(GateError, "samples")
    def expected_loss(self, loss: Callable[[], Tensor], samples: int = 1) -> Tensor:
        """E_z[loss] by Monte Carlo: the mean over `samples` draws.

        Args:
            loss: runs the model and gives its loss; called once for each draw.
            samples: L; 1 is Louizos' choice.

        Source: Ahmed eq. 2.
        """
        if not whole(samples, least=1):
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
        return self._bounds(cost, self.log_alpha)[1]

    def test_gates(self) -> list[Tensor]:
        """The deterministic gates of evaluation mode, a tensor for each block."""
        return self._by_block(self.law.test_gate(self.log_alpha, self.test))

    def write_(self) -> None:
        """Write the deterministic gates into the weights, zeros exactly.

        With a budget as many gates are open, in the order of log α, as it allows at this step;
        with `multiple_of` each family is as wide as that asks for. Those that evaluation mode has
        open beyond are closed; those it has closed get E[z].
        """
        self._write(self._delivered())

    def finalize(self) -> None:
        """Plain weights; says so if a budget closes many gates that were learned to be open."""
        if self.constraints and not self.finalized and not self._deploying:
            self._notice_closing()
        super().finalize()

    @torch.no_grad()
    def _notice_closing(self) -> None:
        flat = (self.p_nonzero(), self.test_gates(), self._delivered())
        p, opened, within = (torch.cat([x.flatten() for x in parts]) for parts in flat)
        closed = (opened != 0) & (within == 0)
        if float(p[closed].sum()) <= CLOSED * float(p.sum()):
            return
        sizes = ", ".join(
            f"{float(self.expected(one.cost)):,.0f} {one.cost} are expected, and the budget is "
            f"{one.limit(self.now):,.0f}"
            for one in self.constraints
        )
        warn(
            f"the budget closes {int(closed.sum()):,} of {int((opened != 0).sum()):,} gates that "
            f"are open in evaluation, P(z ≠ 0) = {float(p[closed].mean()):.2g} on average: {sizes}"
            ". The network was not trained without them. More steps help, a larger gate_lr or rate "
            "of the Budget, or a target that falls by a schedule"
        )

    def let_go(self) -> None:
        log_alpha = self.log_alpha  # refuses a second time
        self._placing.remove()
        compile_anew()
        del self.model._parameters[LOG_ALPHA]
        if self.optimizer is not None:
            for group in self.optimizer.param_groups:
                # The group stays, if empty: a scheduler keeps a rate for each.
                group["params"] = [p for p in group["params"] if p is not log_alpha]
            self.optimizer.state.pop(log_alpha, None)

    @contextmanager
    def aside(self) -> Iterator[None]:
        parameters = self.model._parameters
        kept = dict(parameters)
        with self._placing.aside(), uncompiled():
            self._set_aside = parameters.pop(LOG_ALPHA)
            try:
                yield
            finally:
                self._set_aside = None
                parameters.clear()
                parameters.update(kept)

    def warm_start(self, optimizer_state: dict[str, Any] | None) -> None:
        """Close the gates of what is dead; moments of other gates are of no use."""
        close_dead_gates(self)

    @torch.no_grad()
    def event(self) -> dict[str, Any]:
        expected = {"weights": float(self.expected("weights"))}
        with suppress(GateError):  # made without example inputs
            expected["macs"] = float(self.expected("macs"))
        names = [block.name for block in self._blocks]
        chances, at_test = self.p_nonzero(), self.test_gates()
        opened = {name: int(z.count_nonzero()) for name, z in zip(names, at_test, strict=True)}
        return {
            "summary": f"gates open {sum(opened.values()):,}  "
            f"expected weights {expected['weights']:,.0f}",
            "curves": {
                "open gates": opened,
                "gates expected to be open": {
                    name: float(p.sum()) for name, p in zip(names, chances, strict=True)
                },
                "expected size": expected,
            },
            "multipliers": {one.cost: float(one.multiplier) for one in self.constraints},
        }

    @as_annotated(GateError, "n", "seed")
    def sample(self, n: int = 1, seed: int | None = None) -> Iterator[nn.Module]:
        """Plain networks drawn from the distribution, one after the other.

        Args:
            n: how many.
            seed: of the draws; torch's global generator if None.

        Source: Ahmed, chapter 5 (Monte-Carlo ensembles).
        """
        if not whole(n, least=1):
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
            mine._write(self._by_block(self.law.sample(self.log_alpha, noise)))
            mine.let_go()
            yield mine.model

    def own_state(self) -> dict[str, Any]:
        return {
            "drawn": int(self.drawn),
            "multipliers": {c.cost: c.value() for c in self.constraints},
        }

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        saved, here = list(state["multipliers"]), [one.cost for one in self.constraints]
        if saved != here:
            raise GateError(f"the saved state has budgets of {saved}, these gates of {here}")
        self.drawn = torch.tensor(int(state["drawn"]))
        for one in self.constraints:
            one.set(state["multipliers"][one.cost])

    def __len__(self) -> int:
        return sum(self._sizes)

    @torch.no_grad()
    def __str__(self) -> str:
        if self.finalized:
            return repr(self)
        return summary(self._blocks, self.p_nonzero(), self.test_gates(), self.test)

    def __repr__(self) -> str:
        return f"<{len(self):,} gates on {type(self.model).__name__}>"

    def _draw(self, examples: int | None, waiting: Waiting) -> list[Tensor]:
        """The gates of one call: random in training mode, deterministic in evaluation mode."""
        if not self.model.training:
            return [z if examples is None else z[None] for z in self.test_gates()]
        if not torch.compiler.is_compiling():
            require_reduced(self.log_alpha)
        self.log_alpha.data.clamp_(-LIMIT, LIMIT)
        like: Tensor = self.log_alpha
        if like.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            like = like.view_as(like)  # of this draw alone, so that its backward pass can be seen
            like.register_hook(waiting.mark_over)
        like = like if examples is None else like.expand(examples, -1)
        noise = self._noise(like, self.drawn)
        if self._noise.seed is not None:
            self.drawn = self.drawn + 1
        return draw(self.law, like, noise, self._shapes)

    def _by_block(self, flat: Tensor) -> list[Tensor]:
        return by_block(flat, self._shapes)

    def _delivered(self) -> list[Tensor]:
        """The deterministic gates, of which some with the largest log α are open."""
        if not self.constraints and self.options.multiple_of == 1:
            return self.test_gates()
        gates = self.law.test_gate(self.log_alpha, self.test)
        order = self.log_alpha.argsort(descending=True, stable=True)

        def opened(count: int) -> Tensor:
            return first(order, count, self._sizes, self.options.multiple_of)

        def cost(count: int, of: str) -> float:
            return float(self._expected(self._by_block(left(opened(count), self._blocks)), of))

        count = int(gates.count_nonzero())
        if self.constraints:
            count = allowed(self.constraints, self.now, cost, len(self))
        gates = torch.where(gates == 0, self.law.mean(self.log_alpha), gates)
        return self._by_block(torch.where(opened(count), gates, 0))

    def _open_costs(self) -> tuple[Weight, list[Weight]]:
        """λ₀·n_g of all gates, and λ₂ of each block, at this step."""
        now = [penalty.at(self.now) for penalty in self.penalties.values()]
        known, device, found = self._costed
        renewed = any(penalty.tensors for penalty in now)  # which may be changed in place
        same = device == self.log_alpha.device and all(map(operator.is_, now, known))
        if renewed or not same:
            with torch.inference_mode(False):  # the next call may want a gradient
                found = self._open_costs_of(now)
            self._costed = now, self.log_alpha.device, found
        cost, squares = found
        return cost, squares

    @torch.no_grad()
    def _open_costs_of(self, now: Sequence[Penalty]) -> tuple[Weight, list[Weight]]:
        costs: list[Weight] = []
        squares: list[Weight] = []
        for groups, penalty in zip(self.penalties, now, strict=True):
            for i, block in enumerate(groups):
                of = penalty.of(i)
                assert of.open_cost is not None  # as `needs` says
                each = block.weights_each() if self.options.per == "weight" else 1
                each = each.to(self.log_alpha.device) if isinstance(each, Tensor) else each
                cost = number_of(of, of.open_cost, self.log_alpha) * each
                costs.append(cost.flatten() if isinstance(cost, Tensor) else cost)
                squares.append(number_of(of, of.open_square, self.log_alpha))
        if not any(isinstance(cost, Tensor) for cost in costs) and len(set(costs)) == 1:
            return costs[0], squares
        sized = zip(costs, self._sizes, strict=True)
        return torch.cat([self.log_alpha.new_ones(n) * cost for cost, n in sized]), squares

    @torch.no_grad()
    def _multiply(self, gates: Sequence[Tensor]) -> None:
        for place in self._places:
            values = local(place.tensor) if is_sharded(place.tensor) else place.parameter
            for block, spread in place.here:
                values.mul_(spread(gates[block]).to(values.dtype))

    @torch.no_grad()
    def _write(self, gates: Sequence[Tensor]) -> None:
        reshard(self.model)
        held = {id(parameter) for parameter in self.model.parameters()}
        if any(id(p) not in held for block in self._blocks for p in block.parameters):
            raise GateError(
                f"parameters of {type(self.model).__name__} were replaced since its gates were put "
                "on, as load_state_dict(assign=True) does: load into the same parameters"
            )
        self._multiply(gates)
        for block, z in zip(self._blocks, gates, strict=True):
            block.kill_(z == 0)

    def _copied(self) -> "Gates":
        """The gates of a copy of the model."""
        self._placing.clear()
        return gates_of(copy.deepcopy(self.model))

    @torch.no_grad()
    def _bounds(self, cost: Cost, log_alpha: Tensor) -> tuple[float, float]:
        """The cost of what is left with every gate closed, and with every gate open."""
        opened = torch.ones(len(self), dtype=torch.bool, device=log_alpha.device)
        parts = (left(one, self._blocks) for one in (~opened, opened))
        least, most = (self._expected(self._by_block(p), cost) for p in parts)
        return float(least), float(most)


@as_annotated(GateError)
def gates_of(model: nn.Module) -> Gates:
    """The gates that are on a model: on a copy, or on one that was loaded.

    Raises:
        GateError: if it has none.
    """
    gates = placing_of(model).draw.__self__  # type: ignore[attr-defined]
    assert isinstance(gates, Gates)
    return gates


@as_annotated(GateError)
@torch.no_grad()
def close_dead_gates(gates: Gates) -> None:
    """Close the gates of groups that are zero: log α_g = −10 where ‖w_g‖ = 0.

    Gates start open, and those of dead groups would count as something that may still be removed.
    On a network that was finalized before, they begin where they ended.
    """
    parts = gates._by_block(gates.log_alpha.data)
    for block, log_alpha in zip(gates.blocks(), parts, strict=True):
        log_alpha[block.norms() == 0] = -LIMIT


def _drop_rates(penalties: Mapping[Groups, Penalty], init: float | Sequence[float]) -> list[float]:
    """The initial drop rate of every block."""
    rates = list(init) if isinstance(init, Sequence) else [init] * len(penalties)
    return [float(rate) for groups, rate in zip(penalties, rates, strict=True) for _ in groups]


def _join(optimizer: Optimizer, log_alpha: nn.Parameter, gate_lr: float | None) -> None:
    """Give log α a param group of its own, without weight decay.

    Raises:
        OptimizerError: for an optimizer that takes no further group.
    """
    if is_scheduled(optimizer):
        raise OptimizerError(
            "a learning-rate scheduler was made for this optimizer before its gates, and keeps "
            "one rate for each param group it knew: make the scheduler after lissom.gate, "
            "which adds a group"
        )
    group: dict[str, Any] = {"params": [log_alpha]}
    group["lr"] = FASTER * optimizer.param_groups[0]["lr"] if gate_lr is None else gate_lr
    own = {"weight_decay": 0.0, "maximize": False}
    group |= {name: value for name, value in own.items() if name in optimizer.defaults}
    if isinstance(optimizer, LBFGS):
        raise OptimizerError("LBFGS has one param group, and log α needs another: use Adam or SGD")
    if isinstance(optimizer, getattr(torch.optim, "Muon", ())):  # of torch 2.9, and no error yet
        raise OptimizerError(
            "Muon takes no param group for log α, a vector: it steps matrices. Use Adam or SGD"
        )
    try:
        optimizer.add_param_group(group)
    except (TypeError, ValueError, RuntimeError) as error:
        raise OptimizerError(
            f"{type(optimizer).__name__} takes no param group for log α, a vector: {error}"
        ) from error
