"""One training for networks of all sizes: each step trains one size, the smaller in the larger.

    n_t = the number of groups of step t, between a smallest one and all of them
    m_t = 1 for the n_t groups with the largest d·r², else 0
    w ← the optimizer's step by the gradient of L(w ⊙ m_t), which is 0 where m_t is

Afterwards the groups are in an order, and a network of any size is a cut: the first of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lissom.arguments import is_number, positive, shown, whole
from lissom.errors import MethodError
from lissom.groups import Groups, Partition
from lissom.methods.method import Method
from lissom.methods.metric import Metric, metric_of
from lissom.methods.optimizers import param_groups_of
from lissom.methods.options import Options, Steps, make_options, takes
from lissom.methods.placing import (
    OnWeights,
    Place,
    compile_anew,
    go_along,
    holders,
    places,
    require_module,
    require_original,
    require_own_weights,
    stay_behind,
    uncompiled,
)
from lissom.methods.plain import require_plain
from lissom.penalties import TopK
from lissom.preconditioners import Preconditioner
from lissom.rescaling import Metrics, rescale
from lissom.running import ExampleInputs, require_layers
from lissom.selection import ascending

GOLDEN = (5**0.5 - 1) / 2  # its multiples fill [0, 1) evenly, however many are taken


@dataclass(frozen=True, kw_only=True)
class NestedOptions(Options):
    """Which sizes are trained.

    Attributes:
        smallest: the smallest size, as a fraction of the groups. Sizes are spread evenly on a
            logarithmic scale between it and all groups.
        falls: steps over which the smallest size falls from all groups to that, by the same factor
            each step. Half of the training is a good choice.
        every: after how many steps the groups are put in order anew.
        metric: by which they are: the optimizer's "adaptive" D, or "euclidean" (see `proximal`).

    Raises:
        MethodError: for numbers that cannot be.
    """

    smallest: float
    falls: Steps = 0
    every: Steps = 4
    metric: Metric = "adaptive"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (positive(self.smallest) and self.smallest < 1):
            what = (
                f"smallest is a fraction of the groups, between 0 and 1, got {shown(self.smallest)}"
            )
            raise MethodError(what, field="smallest")
        for name, least in (("falls", 0), ("every", 1)):
            if not whole(steps := getattr(self, name), least=least):
                what = f"{name} counts steps, {least} or more, got {shown(steps)}"
                raise MethodError(what, field=name)

    @classmethod
    def over(cls, epochs: int) -> Mapping[str, Any]:
        return {"start": 0, "finalize_at": None, "falls": epochs // 2}

    def size(self, step: int) -> float:
        """The fraction of the groups that the step after so many trains."""
        fallen = min(1.0, step / self.falls) if self.falls else 1.0
        share: float = self.smallest ** (fallen * ((0.5 + GOLDEN * step) % 1))
        return share


class Nested(Method):
    """One training for networks of all sizes; made by `lissom.nested`.

    Attributes:
        model: whose weights are masked in training mode.
    """

    name = "nested"
    takes = "TopK of all groups together, or of each layer, without multiple_of"
    options_type = NestedOptions
    averages = True
    cuts = True

    optimizer: Optimizer
    options: NestedOptions
    penalties: dict[Groups, TopK]

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        penalties: Mapping[Groups, TopK],
        options: NestedOptions | None = None,
    ) -> None:
        require_module(model, "lissom.nested(optimizer, model, {groups: TopK(…)})", MethodError)
        require_layers(model, "nested")
        require_plain(model, "nested")
        require_own_weights(model, "a mask of these would not be one of", MethodError)
        super().__init__(optimizer, penalties, options)
        self.model = model
        self._orders = []
        for groups, budget in self.penalties.items():
            together = [groups.blocks] if budget.per == "all" else [[block] for block in groups]
            orders = [Order(blocks) for blocks in together]
            if isinstance(budget.count, int):
                least = min(budget.count / order.n for order in orders)
                _check_trained(least, self.options, f"{budget}, {least:.3g} of the groups,")
            self._orders += orders
        for block in self.blocks():
            self._metrics(block)  # an optimizer without one is refused now, not at a step
        self._masks: dict[Partition, Tensor] | None = None  # None where all groups are trained
        self._stale = True
        self._fraction: float | None = None  # of a cut that is asked for
        found = places(model, self.blocks(), MethodError)
        self._placing = Masked(model, found, self.blocks(), self._masks_now)

    @classmethod
    def accepts(cls, penalty: Any) -> bool:
        return isinstance(penalty, TopK) and penalty.per != "block" and not penalty.by_family

    @classmethod
    def check(cls, penalties: Iterable[Any], options: NestedOptions) -> None:
        listed = list(penalties)
        super().check(listed, options)
        for penalty in listed:
            _check_trained(penalty.fraction, options, str(penalty))

    @classmethod
    def attach(
        cls,
        optimizer: Optimizer,
        model: nn.Module,
        penalties: Mapping[Groups, Any],
        options: Any,
        example_inputs: ExampleInputs,
    ) -> "Nested":
        return cls(optimizer, model, penalties, options)

    @property
    def size(self) -> float:
        """The fraction of the groups that the next step trains."""
        active = self.step > self.options.start
        return self.options.size(self.now) if active else 1.0

    @torch.no_grad()
    def after_step(self) -> None:
        self._placing.clear()
        if self.now % self.options.every == 0:
            self._rank()
        self._draw()

    @contextmanager
    def deployed(self, fraction: float | None = None) -> Iterator[None]:
        """Make the network for a while what `finalize` would leave now.

            for fraction in (0.1, 0.03, 0.01):
                with method.deployed(fraction):
                    evaluate(net.eval())

        Args:
            fraction: of the groups, which stay; without, as many as the penalties say.
        """
        with self._cut_at(fraction), super().deployed():
            yield

    def finalize(self, fraction: float | None = None) -> None:
        """End: plain weights with exact zeros. If they are trained on, the zeros stay.

        A second call changes nothing.

        Args:
            fraction: of the groups, which stay; without, as many as the penalties say.
        """
        with self._cut_at(fraction):
            super().finalize()

    def write_(self) -> None:
        """Kill all groups but the first."""
        for groups, budget in self.penalties.items():
            if self._fraction is not None:
                budget = replace(budget, count=None, fraction=self._fraction)
            rescale(budget.at(self.now), groups.blocks, lambda block: 0.0, self._metrics)
        alive = [block.norms() > 0 for block in self.blocks()]  # before what reads them is gone
        for block, mask in zip(self.blocks(), alive, strict=True):
            block.kill_(~mask)

    def keep_zeros_(self, block: Partition, alive: Tensor) -> None:
        block.kill_(alive == 0)

    def let_go(self) -> None:
        self._placing.remove()
        compile_anew()

    @contextmanager
    def aside(self) -> Iterator[None]:
        with self._placing.aside(), uncompiled():
            yield

    @torch.no_grad()
    def order(self) -> dict[str, Tensor]:
        kept = {t: torch.zeros_like(t, dtype=torch.float64) for t in self.tensors()}
        named = self.model.named_parameters()
        names: dict[Tensor, str] = {parameter: name for name, parameter in named}
        for order in self._orders:
            for block, least in zip(order.blocks, order.least(self._metrics), strict=True):
                for tensor, spread in ((m.tensor, m.spread) for m in block.killed()):
                    here = 1 - spread(1 - least)  # 0 for what is of no group
                    kept[tensor] = torch.maximum(kept[tensor], here.to(tensor.device))
        return {names[tensor]: least.float() for tensor, least in kept.items()}

    def event(self) -> dict[str, Any]:
        lowest = self.options.smallest ** min(1.0, self.now / max(1, self.options.falls))
        return {
            "summary": f"sizes from all groups down to {100 * lowest:.2g} %",
            "curves": {"smallest size": {"fraction of the groups": lowest}},
        }

    def own_state(self) -> dict[str, Any]:
        return {"gains": [order.gains for order in self._orders]}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        for order, gains in zip(self._orders, state["gains"], strict=True):
            order.load(gains)
        self._stale = True

    def _masks_now(self) -> Mapping[Partition, Tensor] | None:
        """1 for the groups that a call trains, by block; None for all of them."""
        if self._stale:
            torch.compiler.disable(self._draw)()
        return self._masks

    @torch.no_grad()
    def _draw(self) -> None:
        """Choose the groups that the next step trains."""
        self._stale, self._masks, size = False, None, self.size
        if all(order.is_whole(size) for order in self._orders):
            return
        if any(order.gains is None for order in self._orders):
            self._rank()
        self._masks = {b: mask for order in self._orders for b, mask in order.first(size)}

    def _rank(self) -> None:
        for order in self._orders:
            order.rank(self._metrics)

    @contextmanager
    def _cut_at(self, fraction: float | None) -> Iterator[None]:
        if fraction is not None:
            TopK(fraction=fraction)  # refuses what is none
            _check_trained(fraction, self.options, f"fraction={shown(fraction)}")
        before, self._fraction = self._fraction, fraction
        try:
            yield
        finally:
            self._fraction = before

    def _metrics(self, block: Partition) -> list[Preconditioner] | None:
        if self.options.metric == "euclidean":
            return None
        return metric_of(self.optimizer, param_groups_of(self.optimizer), block.parameters)


class Order:
    """Groups that share a budget, from the one that stays longest to the first that goes.

    Attributes:
        blocks: of the groups.
        n: how many there are.
        gains: r·√d of each group, [n], when they were put in order; None before.
    """

    def __init__(self, blocks: Sequence[Partition]) -> None:
        self.blocks = blocks
        self.n = sum(block.shape.numel() for block in blocks)
        self.gains: Tensor | None = None
        self._mask: Tensor | None = None  # one for all sizes: a fresh one costs more

    def rank(self, metrics: Metrics) -> None:
        """Put the groups in order."""
        self.load(self._gains(metrics))

    def load(self, gains: Tensor | None) -> None:
        """Put the groups into the order of an earlier moment.

        Raises:
            ValueError: if it is of other groups.
        """
        self.gains = gains
        if gains is None:
            return
        if gains.shape != (self.n,):
            raise ValueError(f"an order of {list(gains.shape)} groups, and there are {self.n}")
        self.gains = gains = gains.to(self.blocks[0].parameters[0].device)
        self._ascending = ascending(gains)
        if self._mask is None or self._mask.device != gains.device:
            self._mask = torch.empty_like(gains)

    def is_whole(self, size: float) -> bool:
        """Whether all groups are of this size."""
        return self._kept(size) == self.n

    def first(self, size: float) -> Iterator[tuple[Partition, Tensor]]:
        """1 for the groups of this size, else 0, for each block; until the next call."""
        assert self.gains is not None and self._mask is not None
        torch.ge(self.gains, self._ascending[self.n - self._kept(size)], out=self._mask)
        return self._by_block(self._mask)

    def least(self, metrics: Metrics) -> Iterator[Tensor]:
        """The smallest fraction of the groups with which each stays, for each block."""
        places = self._gains(metrics).argsort(stable=True, descending=True)
        least = torch.empty(self.n, dtype=torch.float64, device=places.device)
        least[places] = (torch.arange(self.n, device=places.device).double() + 0.5) / self.n
        return (part for _, part in self._by_block(least))

    def _kept(self, size: float) -> int:
        return max(1, TopK(fraction=size).kappa(self.n))

    def _gains(self, metrics: Metrics) -> Tensor:
        gains = []
        for block in self.blocks:
            norms, found = block.norms(), metrics(block)
            d = None if found is None else block.weighted(*(one() for one in found))
            gains.append((norms if d is None else norms * d.sqrt()).flatten())
        return torch.cat(gains)

    def _by_block(self, flat: Tensor) -> Iterator[tuple[Partition, Tensor]]:
        parts = flat.split([block.shape.numel() for block in self.blocks])
        for block, part in zip(self.blocks, parts, strict=True):
            yield block, part.view(block.shape)


class Masked(OnWeights):
    """In training mode each call sees the weights of the groups that it trains, and 0 for others.

    The parameters are whole, and so a copy of the model is a plain network of all weights.

    Args:
        model: whose calls are meant.
        places: where the masks act.
        blocks: of which the masks are.
        masks: gives the mask of each block; None for weights as they are.
    """

    def __init__(
        self,
        model: nn.Module,
        places: list[Place],
        blocks: Sequence[Partition],
        masks: Callable[[], Mapping[Partition, Tensor] | None],
    ) -> None:
        self.blocks, self.masks = blocks, masks
        super().__init__(model, places)

    def __getstate__(self) -> dict[str, Any]:
        # A class that copies its own __dict__, as parametrized ones do, takes hooks along.
        return {**self.__dict__, "_calls": [], "masks": _none}

    def remove(self) -> None:
        super().remove()
        for module in holders(self.model, self.places):
            go_along(module)

    def _hook(self) -> list[RemovableHandle]:
        handles = super()._hook()
        for module in holders(self.model, self.places):
            stay_behind(module, handles)
        return handles

    def _products(self, module: nn.Module) -> list[Tensor]:
        require_original(module, "masks", MethodError)
        masks = self.masks() if self.model.training else None
        if masks is None:
            return [place.parameter for place in self.places]
        factors = [masks[block] for block in self.blocks]
        return [place.times(factors, _Kept.apply) for place in self.places]


class _Kept(torch.autograd.Function):
    """w·m, of which torch keeps nothing for the backward pass, but the mask is at hand there.

    What gradient checkpointing runs again has to keep as many tensors as before, and the products
    are made outside of it in the forward pass, but within when it runs again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, mask: Tensor) -> Tensor:
        return weight * mask

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        _, ctx.mask = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.mask, None


def _none() -> None:
    """The masks of copies: there are none."""


def _check_trained(fraction: object, options: NestedOptions, what: str) -> None:
    """Refuse a size that no step trains.

    Raises:
        MethodError: naming the smallest that some do.
    """
    if is_number(fraction) and fraction < options.smallest:
        raise MethodError(
            f"sizes down to smallest={options.smallest:g} of the groups are trained, and "
            f"{what} is below it: train smaller ones too, or cut at a larger one"
        )


@takes(NestedOptions)
def nested(
    optimizer: Optimizer,
    model: nn.Module,
    penalties: Mapping[Groups, TopK],
    **options: Any,
) -> Nested:
    """Train networks of all sizes at once, the smaller within the larger; then cut at any size.

        method = lissom.nested(opt, net, {weights: TopK(fraction=0.1)}, smallest=1e-3, falls=4000)
        …                                                    # the loop of all methods
        for fraction in (0.3, 0.1, 0.03, 0.01):
            with method.deployed(fraction):
                evaluate(net.eval())
        method.finalize()                                    # at 0.1; or finalize(0.03)

    Each step trains one size: in training mode the model computes with the groups that are largest
    in the optimizer's metric, and only they get a gradient. So the first groups learn to do alone
    what they can, and others to add to it. Parameters hold all weights all the time, an average of
    them is one of all sizes, and in evaluation mode the model is the whole network. A few epochs of
    fine-tuning after `finalize` make a cut better still; `lissom.path(cuts=True)` does that at
    each point of a curve.

    A learning rate that is constant for half of the training, and then falls to 0, has worked best.
    The running statistics of BatchNorm are of networks of all sizes: after a cut make them anew on
    training data, by `torch.optim.swa_utils.update_bn(batches, net)`, or fine-tune, which does it
    on the way. `Trainer` does so at the end.

    Args:
        optimizer: of the model's weights.
        model: any module. Compile it after this call, or wrap it for distributed training.
        penalties: {groups: TopK(…)}, the size that is delivered unless another is asked for, of all
            groups together or of each layer.
        **options: those of `NestedOptions`.

    Returns:
        The method's handle (see `lissom.methods.Method`); `deployed` and `finalize` take a size.

    Raises:
        MethodError: for impossible options, other penalties, or a model that a method is at work
            on.
        OptimizerError: for an optimizer whose metric is not known.
        GroupError: for overlapping groups.
    """
    return Nested(optimizer, model, penalties, make_options(NestedOptions, options))
