"""Training on with what lives: the same training as at full size, and the same network afterwards.

In float64, where the same is 1e-10.
"""

from collections.abc import Callable

import pytest
import torch
from products import exhaustive, rest
from random_networks import random_network
from shrink_cases import EXACT, Between, assert_equal, fresh, inputs, outputs
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, Adam, AdamW, Optimizer, RMSprop
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import lissom
from lissom import TopK, proximal, train_small
from lissom.errors import GroupError, LissomError, MethodError, OptimizerError
from lissom.methods import Method
from lissom.running import leaves

IMAGE = inputs(2, 6, 6)


def convolutions(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3),
        nn.ReLU(), nn.Flatten(), nn.Linear(80, 7), nn.Tanh(), nn.Linear(7, 3),
    ).double()  # fmt: skip


def step(net: nn.Module, optimizer: Optimizer, x: Tensor, seed: int) -> Tensor:
    net.train()
    [batch] = fresh(x, seed)
    loss = sum((y.square().mean() for y in leaves(net(batch))), torch.zeros(()))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def ended(
    net: nn.Module,
    x: Tensor,
    make: Callable[..., Optimizer] = Adam,
    units: bool = True,
    fraction: float = 0.4,
    **options: object,
) -> tuple[Optimizer, Method]:
    """An optimizer and a method that has left zeros in a network."""
    optimizer = make(net.parameters(), **{"lr": 0.01, **options})
    groups = lissom.units(net, x) if units else lissom.weights(net)
    method = proximal(optimizer, {groups: TopK(fraction=fraction)})
    for seed in (1, 2):
        step(net, optimizer, x, seed)
    method.finalize()
    return optimizer, method


def weights_of(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(
    ("make", "options"),
    [(AdamW, {"fused": True}), rest(SGD, {"momentum": 0.9, "nesterov": True})],
)
def test_a_training_of_units_goes_as_at_full_size(make: type, options: dict[str, object]) -> None:
    nets = [convolutions(), convolutions()]
    optimizers = [ended(net, IMAGE, make, **options)[0] for net in nets]
    small = train_small(nets[1], optimizers[1], IMAGE)
    assert weights_of(nets[1]) < 0.6 * weights_of(nets[0])
    for seed in range(3, 7):
        losses = [step(*both, IMAGE, seed) for both in zip(nets, optimizers, strict=True)]
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-10, atol=0)
    assert_equal(*nets, IMAGE)
    small.restore()
    assert_equal(*nets, IMAGE)
    assert [p.shape for p in nets[0].parameters()] == [p.shape for p in nets[1].parameters()]
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        lives = b != 0
        torch.testing.assert_close(b[lives], a[lives], rtol=0, atol=1e-10)
        for name, moment in optimizers[1].state[b].items():
            there = optimizers[0].state[a][name]
            assert moment.shape == there.shape
            if moment.ndim:
                torch.testing.assert_close(moment[lives], there[lives], rtol=0, atol=1e-10)
    losses = [step(*both, IMAGE, 9) for both in zip(nets, optimizers, strict=True)]  # and on
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-10, atol=0)


def test_single_weights_constants_and_zeros_that_stay() -> None:
    """Dead neurons are constants, which go into biases; other zeros stay zero in between."""
    net = convolutions()
    optimizer, method = ended(net, IMAGE, units=False, fraction=0.05)
    before, size = outputs(net, IMAGE), weights_of(net)
    zeros = [(p == 0).clone() for p in net.parameters()]
    with train_small(net, optimizer, IMAGE) as inside:
        assert inside is net and weights_of(net) < 0.5 * size
        assert apart_from(before, net) < EXACT
        for seed in range(3, 6):
            step(net, optimizer, IMAGE, seed)
        kept = sum(int((p != 0).sum()) for p in net.parameters())
        after = outputs(net, IMAGE)
    assert weights_of(net) == size and apart_from(after, net) < EXACT
    assert sum(int((p != 0).sum()) for p in net.parameters()) == kept
    for _ in range(2):
        now = [p == 0 for p in net.parameters()]
        for groups in method.penalties:
            for block in groups:
                [at] = [i for i, p in enumerate(net.parameters()) if p is block.parameters[0]]
                assert bool(now[at][zeros[at]].all())
        step(net, optimizer, IMAGE, 7)  # they stay when it is large again, too


def apart_from(before: list[Tensor], net: nn.Module) -> float:
    pairs = zip(before, outputs(net, IMAGE), strict=True)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def test_the_first_layer_reads_only_what_it_weighs() -> None:
    torch.manual_seed(0)
    x = inputs(40)
    net = nn.Sequential(nn.Linear(40, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    optimizer, _ = ended(net, x, units=False, fraction=0.1)
    read = int((net[0].weight != 0).any(0).sum())
    before = outputs(net, x)
    with train_small(net, optimizer, x) as small:
        assert small[0].weight.shape[1] <= read < 30
        torch.testing.assert_close(outputs(small, x), before)
    torch.testing.assert_close(outputs(net, x), before)
    assert net[0].in_features == 40 and not net[0]._forward_pre_hooks


def test_a_zero_that_is_trained_is_not_dead() -> None:
    """As a γ or a last layer may begin; `shrink` would remove what they belong to."""
    torch.manual_seed(0)
    x = inputs(4)
    net = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)
    ).double()
    nn.init.zeros_(net[1].weight)
    nn.init.zeros_(net[5].weight)
    optimizer = Adam(net.parameters(), lr=0.01)
    proximal(optimizer, {lissom.weights(net).only("0.weight"): TopK(count=24)}).finalize()
    size = weights_of(net)
    assert weights_of(lissom.shrink(net, x)) < size
    with train_small(net, optimizer, x):
        assert weights_of(net) == size
        step(net, optimizer, x, 1)
        step(net, optimizer, x, 2)
    assert bool((net[5].weight != 0).any())


def test_a_constant_is_not_folded_into_a_bias_that_stays_zero() -> None:
    torch.manual_seed(0)
    x = inputs(4)
    net = nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 3)).double()
    optimizer = Adam(net.parameters(), lr=0.01)
    with torch.no_grad():
        net[0].weight[:3] = 0
        net[2].bias[:] = 0
    proximal(optimizer, {lissom.weights(net, biases=True): TopK(count=36)}).finalize()
    before = outputs(net, x)
    with train_small(net, optimizer, x) as small:
        optimizer.param_groups[0]["lr"] = 0.0
        step(net, optimizer, x, 1)
        assert bool((small[2].bias == 0).all())
        torch.testing.assert_close(outputs(small, x), before)
    assert bool((net[2].bias == 0).all())


def test_a_loss_that_somebody_holds_does_not_matter() -> None:
    net = convolutions()
    optimizer, _ = ended(net, IMAGE)
    held = net(IMAGE).sum()
    with train_small(net, optimizer, IMAGE):
        again = step(net, optimizer, IMAGE, 1)
    step(net, optimizer, IMAGE, 2)
    assert held.requires_grad and again.requires_grad


@exhaustive
@pytest.mark.parametrize(
    ("model", "x"),
    [
        pytest.param(
            lambda: nn.TransformerEncoderLayer(12, 3, 16, 0.0, batch_first=True),
            inputs(5, 12),
            id="attention",
        ),
        pytest.param(
            lambda: Between(
                lambda s, x: s.out(s.rnn(x)[0]), rnn=nn.LSTM(4, 9, 2), out=nn.Linear(9, 2)
            ),
            inputs(3, 4),
            id="LSTM",
        ),
    ],
)
def test_modules_that_hold_more_than_tensors_come_back(
    model: Callable[[], nn.Module], x: Tensor
) -> None:
    torch.manual_seed(0)
    net = model().double()
    kinds = {name: type(module) for name, module in net.named_modules()}
    optimizer, _ = ended(net, x)
    with train_small(net, optimizer, x) as small:
        size = weights_of(small)
        for seed in (3, 4):
            step(net, optimizer, x, seed)
        after = outputs(net, x)
    assert size < weights_of(net)
    torch.testing.assert_close(outputs(net, x), after)
    assert kinds == {name: type(module) for name, module in net.named_modules()}
    step(net, optimizer, x, 5)


@exhaustive
def test_an_average_joins() -> None:
    net = convolutions()
    optimizer, _ = ended(net, IMAGE)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    small = train_small(net, optimizer, IMAGE)
    small.join(average.module)
    step(net, optimizer, IMAGE, 3)
    average.update_parameters(net)
    inside = outputs(average.module, IMAGE)
    small.restore()
    torch.testing.assert_close(outputs(average.module, IMAGE), inside)
    average.update_parameters(net)


def test_a_new_method_works_on_the_small_network() -> None:
    """So zeros may be cut out in rounds, while more of them form."""
    net = convolutions()
    optimizer, method = ended(net, IMAGE, units=False, fraction=0.5)
    small = train_small(net, optimizer, IMAGE)
    inner = proximal(optimizer, {lissom.weights(net): TopK(count=60)})
    step(net, optimizer, IMAGE, 3)
    with pytest.raises(MethodError, match="finalize"):
        small.restore()
    inner.finalize()
    step(net, optimizer, IMAGE, 4)
    after = outputs(net, IMAGE)
    small.restore()
    assert apart_from(after, net) < EXACT
    step(net, optimizer, IMAGE, 5)
    left = sum(int(b.norms().count_nonzero()) for groups in method.penalties for b in groups)
    assert left <= 60


@exhaustive
def test_channels_last_stays() -> None:
    net = convolutions().to(memory_format=torch.channels_last)
    optimizer, _ = ended(net, IMAGE)

    def laid_out() -> bool:
        tensors = [net[3].weight, optimizer.state[net[3].weight]["exp_avg"]]
        return all(t.is_contiguous(memory_format=torch.channels_last) for t in tensors)

    with train_small(net, optimizer, IMAGE):
        assert laid_out()
        step(net, optimizer, IMAGE, 3)
    assert laid_out()


class Unreadable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if float(x.sum()) > 0 else self.net(-x)


def test_what_cannot_be_cut_is_refused_and_left_alone() -> None:
    def at_work(net: nn.Module) -> Optimizer:
        optimizer = Adam(net.parameters())
        proximal(optimizer, {lissom.weights(net): TopK(fraction=0.5)})
        return optimizer

    def factored(net: nn.Module) -> Optimizer:
        return ended(net, inputs(4), Adafactor, units=False)[0]

    def plain(net: nn.Module) -> Optimizer:
        return ended(net, inputs(4), units=False)[0]

    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3).double())
    two = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3)).double()
    for net, make, error, said in (
        (two, at_work, MethodError, "finalize"),
        (two, factored, OptimizerError, "Adafactor"),
        (Unreadable(), plain, GroupError, "torch.export"),
        (normed, lambda net: Adam(net.parameters()), LissomError, "remove_parametrizations"),
    ):
        optimizer = make(net)
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        with pytest.raises(error, match=said):
            train_small(net, optimizer, inputs(4))
        assert all(torch.equal(before[name], now) for name, now in net.state_dict().items())


@exhaustive
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("units", [False, True])
def test_random_networks(seed: int, units: bool) -> None:
    net, x = random_network(seed)
    given = (x,) if isinstance(x, Tensor) else x
    torch.manual_seed(seed)
    optimizer = RMSprop(net.parameters(), lr=1e-3, momentum=0.9)
    try:
        groups = lissom.units(net, given) if units else lissom.weights(net)
    except GroupError:
        pytest.skip("a network without units")
    method = proximal(optimizer, {groups: TopK(fraction=0.4 if units else 0.05)})

    def train(seed: int) -> None:
        net.train()
        answers = [y.abs().double() for y in leaves(net(*fresh(given, seed)))]
        optimizer.zero_grad()
        sum(y.square().mean() for y in answers if y.requires_grad).backward()
        optimizer.step()

    train(1)
    method.finalize()
    probe = fresh(given, 5)
    before = outputs(net, probe)
    small = train_small(net, optimizer, given)
    assert far(before, outputs(net, probe)) < EXACT
    for number in (2, 3):
        train(number)
    after = outputs(net, probe)
    with small.large():
        assert far(after, outputs(net, probe)) < EXACT
    assert far(after, outputs(net, probe)) == 0
    train(4)
    after = outputs(net, probe)
    small.restore()
    assert far(after, outputs(net, probe)) < EXACT
    train(5)


def far(a: list[Tensor], b: list[Tensor]) -> float:
    pairs = zip(a, b, strict=True)
    return max(float((x - y).abs().max() / x.abs().max().clamp(min=1e-12)) for x, y in pairs)
