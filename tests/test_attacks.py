"""Attacks: against closed forms for linear networks, and by looking at all that was tried."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from path_cases import EXAMPLE, made_up, make, path
from products import sampled
from torch import Tensor, nn

from lissom.attacks import Attack, Norm, adversarial_accuracy, fgsm, pgd
from lissom.curves import Curve
from lissom.errors import AttackError, PathError
from lissom.report import AdversarialCurve, adversarial_curve, per_radius

X = torch.rand(60, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def linear(classes: int = 2) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(5, classes).double()


def margins(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """By how much the logit of the class is above that of the other, of two."""
    logits = net(x).detach()
    return (logits[:, 1] - logits[:, 0]) * (2 * y - 1)


NET = linear()
with torch.no_grad():
    NET.bias[0] += (NET(X)[:, 1] - NET(X)[:, 0]).median()  # half of the inputs on either side
Y = NET(X).argmax(1)
Y[:10] = 1 - Y[:10]  # ten that are told wrong
SLOPE = (NET.weight[1] - NET.weight[0]).detach()


def curved(seed: int = 0) -> nn.Module:
    """A network of images [1, 2, 3] with three classes."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 3), nn.Hardtanh(-9, 9)
    )


IMAGES = torch.rand(30, 1, 2, 3, generator=torch.Generator().manual_seed(2))
CLASSES = torch.arange(30) % 3


def test_fgsm_of_a_linear_network_is_its_closed_form() -> None:
    changed = fgsm(NET, X, Y, 0.03, clip=None)
    away = -(2 * Y - 1)[:, None] * SLOPE.sign()
    torch.testing.assert_close(changed, X + 0.03 * away, rtol=0, atol=1e-15)
    drop = margins(NET, X, Y) - margins(NET, changed, Y)
    torch.testing.assert_close(drop, torch.full_like(drop, 0.03 * float(SLOPE.abs().sum())))


def test_fgsm_goes_along_the_gradient_of_each_example_alone() -> None:
    net = linear(classes=4)
    y = torch.arange(60) % 4
    error = net(X).softmax(1).detach() - F.one_hot(y, 4)  # ∂L/∂logits
    expected = X + 0.01 * (error @ net.weight.detach()).sign()
    for batch_size in (7, 2000):
        changed = fgsm(net, X, y, 0.01, clip=None, batch_size=batch_size)
        torch.testing.assert_close(changed, expected, rtol=0, atol=1e-15)


@sampled(1)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_needs_the_least_radius_of_a_linear_network(norm: Norm) -> None:
    # ‖x′ − x‖ at which the margin is 0: margin/‖slope‖ in the dual norm.
    dual = float(SLOPE.abs().sum() if norm == "linf" else SLOPE.norm())
    distances = margins(NET, X, Y) / dual
    for i in range(10, 30):
        least = float(distances[i])
        assert least > 0
        one, label = X[i : i + 1], Y[i : i + 1]
        far: dict[str, Any] = {"norm": norm, "clip": None, "steps": 20, "step": 5 * least}
        below = pgd(NET, one, label, 0.999 * least, **far)
        beyond = pgd(NET, one, label, 1.001 * least, **far)
        assert int(NET(below).argmax()) == int(label) != int(NET(beyond).argmax())
        drop = margins(NET, one, label) - margins(NET, below, label)
        assert float(drop) == pytest.approx(0.999 * least * dual, rel=1e-6)
        usual = pgd(NET, one, label, 1.02 * least, norm=norm, clip=None)
        assert int(NET(usual).argmax()) != int(label)


def test_pgd_of_a_linear_network_ends_where_fgsm_does() -> None:
    torch.testing.assert_close(pgd(NET, X, Y, 0.1), fgsm(NET, X, Y, 0.1))


@pytest.mark.pairwise
@pytest.mark.parametrize("clip", [None, (0.0, 1.0), (-0.1, 1.02)])
@pytest.mark.parametrize("radius", [0.0, 0.05, 3.0])
@pytest.mark.parametrize("norm", ["fgsm", "linf", "l2"])
def test_changes_stay_in_the_ball_and_within_clip(norm: Any, radius: float, clip: Any) -> None:
    if norm == "fgsm":
        changed = fgsm(curved(), IMAGES, CLASSES, radius, clip=clip)
    else:
        options = {"steps": 5, "step": 0.7 * radius or 1.0, "restarts": 2, "clip": clip}
        changed = pgd(curved(), IMAGES, CLASSES, radius, norm=norm, **options)
    assert changed.shape == IMAGES.shape and changed.dtype == IMAGES.dtype
    change = (changed - IMAGES).flatten(1)
    sizes = change.norm(dim=1) if norm == "l2" else change.abs().amax(1)
    assert float(sizes.max()) <= radius + 1e-6
    assert float(sizes.max()) >= 0.9 * radius or (clip is not None and radius == 3)  # it is used
    if clip is not None:
        low, high = torch.tensor(clip)
        assert low <= changed.min() and changed.max() <= high
        # A ball beyond the box is cut at its sides, and what is there can be attacked again.
        assert radius < 3 or bool(((changed == low) | (changed == high)).any())
        fgsm(curved(), changed, CLASSES, radius, clip=clip)


class Recorded(nn.Module):
    """A network that remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.asked = curved(), list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().clone())
        return self.net(x)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_returns_the_worst_of_all_it_looked_at(norm: Norm) -> None:
    net = Recorded()
    options = {"steps": 6, "step": 1.5, "restarts": 3, "clip": None}
    found = pgd(net, IMAGES, CLASSES, 1.5, norm=norm, **options)  # steps that overshoot
    assert len(net.asked) == 1 + 3 * 7 and torch.equal(net.asked[0], IMAGES)
    ends = 0
    for i, label in enumerate(CLASSES):
        tried = torch.stack([asked[i] for asked in net.asked])
        logits = net.net(tried).detach()
        others = [c for c in range(3) if c != int(label)]
        leads = [float(row[others].max() - row[label]) for row in logits]
        assert net.net(found[i : i + 1]).argmax(1) != label or max(leads) <= 0
        reached = leads[[torch.equal(found[i], one) for one in tried].index(True)]
        assert reached == pytest.approx(max(leads), abs=1e-6)  # sums of other batches round
        ends += max(leads) == leads[-1]
    assert ends < len(CLASSES) / 2


class Sides(nn.Module):
    """Right up to 0 with a large loss; wrong above it with a smaller one; never a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        right, wrong = torch.tensor([0.1, 0.0, 0.0]), torch.tensor([0.0, 0.4, -9.0])
        return torch.where(x > 0, wrong, right)


def test_a_wrong_answer_is_worse_than_a_great_loss() -> None:
    x, y = torch.zeros(8, 1), torch.zeros(8, dtype=torch.long)
    at = F.cross_entropy(Sides()(torch.tensor([[0.0], [1.0]])), y[:2], reduction="none")
    assert at[0] > at[1]
    found = pgd(Sides(), x, y, 1.0, restarts=20, steps=1, clip=None)
    assert bool((found > 0).all())


def test_more_steps_and_more_restarts_never_do_less() -> None:
    def right(**options: Any) -> Tensor:
        net = curved(3)
        found = pgd(net, IMAGES, CLASSES, 1.0, step=0.8, clip=None, **options)
        return net(found).argmax(1) == CLASSES

    by_steps = [right(steps=steps) for steps in (1, 2, 4, 8)]
    by_restarts = [right(steps=1, restarts=restarts) for restarts in (1, 2, 4, 8)]
    for series in (by_steps, by_restarts):
        for less, more in pairwise(series):
            assert not bool((more & ~less).any())
        assert int(series[0].sum()) > int(series[-1].sum())


def test_seeds_repeat_whatever_the_batches() -> None:
    for norm in ("linf", "l2"):
        options = {"steps": 1, "norm": norm, "clip": None}
        found = pgd(curved(), IMAGES, CLASSES, 0.5, seed=4, **options)
        torch.manual_seed(9)
        before = torch.get_rng_state()
        again = pgd(curved(), IMAGES, CLASSES, 0.5, seed=4, batch_size=7, **options)
        torch.testing.assert_close(found, again)
        other = pgd(curved(), IMAGES, CLASSES, 0.5, seed=5, **options)
        assert not torch.allclose(found, other)
        torch.manual_seed(9)
        assert torch.equal(before, torch.get_rng_state())


def test_the_first_places_are_uniform_in_the_ball() -> None:
    asked: list[Tensor] = []

    class Flat(nn.Module):  # no gradient: it stays where it begins
        def forward(self, x: Tensor) -> Tensor:
            asked.append(x)
            return torch.zeros(len(x), 2)

    x, y = torch.zeros(4000, 3), torch.zeros(4000, dtype=torch.long)
    pgd(Flat(), x, y, 2.0, norm="l2", steps=1, clip=None)
    within = [float((asked[-1].norm(dim=1) <= r).double().mean()) for r in (0.5, 1.0, 1.5, 2.0001)]
    assert within == pytest.approx([(r / 2) ** 3 for r in (0.5, 1, 1.5, 2)], abs=0.03)
    pgd(Flat(), x, y, 2.0, steps=1, clip=None)
    assert asked[-1].std(0).tolist() == pytest.approx([2 / math.sqrt(3)] * 3, rel=0.05)


@pytest.mark.parametrize("scale", [500.0, 1e-30])
def test_neither_sure_networks_nor_flat_ones_hide(scale: float) -> None:
    """Of the one ∇L is 0 to rounding, and of the other the squares in ‖∇L‖ are."""
    net = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(scale * torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]))
    x, y = torch.ones(3, 4), torch.zeros(3, dtype=torch.long)
    found = pgd(net, x, y, 0.5, norm="l2", clip=None, steps=20, step=1.0)
    torch.testing.assert_close(found[:, 0], torch.full((3,), 0.5), atol=1e-4, rtol=0)
    assert fgsm(net, x, y, 0.5).tolist() == [[0.5, 1, 1, 1]] * 3


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
@pytest.mark.parametrize("grad", [True, False])
def test_the_network_is_left_as_it_was(attack: Attack, grad: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)
    )
    net[2].eval()
    net[1].weight.requires_grad_(False)
    net[4].bias.grad = torch.ones(3)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    x = IMAGES.clone().requires_grad_()
    with torch.set_grad_enabled(grad):
        run = fgsm if attack == "fgsm" else pgd
        first = run(net, x, CLASSES, 0.1)
        adversarial_accuracy(net, x, CLASSES, (0, 0.1), attack)
        assert torch.is_grad_enabled() == grad
    assert [part.training for part in net] == [True, True, False, True, True] and net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert torch.equal(net[4].bias.grad, torch.ones(3))
    assert all(p.grad is None for p in net.parameters() if p is not net[4].bias)
    assert not net[1].weight.requires_grad and net[1].bias.requires_grad
    assert x.requires_grad and x.grad is None and not first.requires_grad
    net.eval()
    torch.testing.assert_close(first, run(net, x, CLASSES, 0.1))  # dropout was off


def test_accuracies_of_a_linear_network_are_known() -> None:
    distances = margins(NET, X, Y)
    radii = [0.2, 0.0, 0.05, 0.1]
    for attack, options, dual in (
        ("fgsm", {}, SLOPE.abs().sum()),
        ("pgd", {"norm": "linf"}, SLOPE.abs().sum()),
        ("pgd", {"norm": "l2"}, SLOPE.norm()),
    ):
        found = adversarial_accuracy(NET, X, Y, radii, attack, clip=None, batch_size=9, **options)
        assert list(found) == radii
        expected = [float((distances > r * float(dual)).double().mean()) for r in radii]
        assert list(found.values()) == pytest.approx(expected)
        assert found[0] == pytest.approx(50 / 60) and len(set(found.values())) > 2


class Waves(nn.Module):
    """Class 0 where cos x > 0."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.cos(), torch.zeros_like(x)], dim=1)


def test_what_is_wrong_stays_wrong() -> None:
    x, y = torch.tensor([[1.0], [2.0]]), torch.zeros(2, dtype=torch.long)
    changed = fgsm(Waves(), x, y, 3.0, clip=None)
    told = Waves()(changed).argmax(1) == y
    assert told.tolist() == [False, True]  # the second was wrong and is made right
    assert adversarial_accuracy(Waves(), x, y, (0, 3.0), clip=None) == {0: 0.5, 3: 0}


def test_pgd_does_not_rise_with_the_radius_where_fgsm_does() -> None:
    x, y = torch.tensor([[0.5]]), torch.zeros(1, dtype=torch.long)
    radii = (0, 2, 5)  # 0.5 + 2 is wrong, 0.5 + 5 is right again
    assert list(adversarial_accuracy(Waves(), x, y, radii, clip=None).values()) == [1, 0, 1]
    # No step to speak of: what is found at the seed's place of a ball may be missed in a larger.
    radii = tuple(range(1, 9))
    options: dict[str, Any] = {"steps": 1, "step": 1e-9, "seed": 19, "clip": None}
    alone = [
        int((Waves()(pgd(Waves(), x, y, radius, **options)).argmax(1) == y).sum())
        for radius in radii
    ]
    assert alone != sorted(alone, reverse=True)
    found = list(adversarial_accuracy(Waves(), x, y, radii, "pgd", **options).values())
    assert found == [min(alone[: i + 1]) for i in range(len(alone))]


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_an_empty_network_cannot_be_misled(attack: Attack) -> None:
    for net in (nn.Linear(5, 2).double(), Sides()):
        for p in net.parameters():
            p.data.zero_()
            p.requires_grad_(False)
        x, y = (X, torch.zeros(60).long()) if isinstance(net, nn.Linear) else (-X[:, :1] - 1, Y * 0)
        found = adversarial_accuracy(net, x, y, (0, 0.5), attack, clip=None)
        assert found == {0: 1, 0.5: 1}
    constant: Any = nn.Sequential(nn.Flatten(), nn.Linear(5, 2))
    constant.forward = lambda x: torch.tensor([[0.0, 1.0]], requires_grad=True).expand(len(x), 2)
    assert torch.equal(fgsm(constant, X, Y, 0.1), X)


def test_nothing_right_is_nothing_left() -> None:
    assert adversarial_accuracy(NET, X[:10], Y[:10], (0, 0.1), "pgd") == {0: 0, 0.1: 0}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"x": X.int()}, r"floating-point numbers, got \[60, 5\] of torch.int32"),
        ({"x": X[:0], "y": Y[:0]}, "n ≥ 1 inputs"),
        ({"x": X[:, 0]}, r"got \[60\] of torch.float64"),
        ({"y": Y[:5]}, r"int64 \[60\], got \[5\] of torch.int64"),
        ({"y": Y.double()}, "of torch.float64"),
        ({"y": Y - 1}, "a class ≥ 0"),
        ({"y": Y + 1}, r"3 classes take logits \[n, 3\] or more, and the network gives \[60, 2\]"),
        ({"radius": -0.1}, r"a radius is a number ≥ 0 in the units of x, got -0\.1"),
        ({"radius": math.nan}, "got nan"),
        ({"radius": "0.1"}, "got '0.1'"),
        ({"x": X - 0.5}, r"not within clip=\(0\.0, 1\.0\): give the range of the data, or None"),
        ({"clip": (1.0, 0.0)}, r"clip=\(1\.0, 0\.0\)"),
        ({"batch_size": 0}, "batch_size is a whole number ≥ 1, got 0"),
        ({"network": nn.Flatten(0)}, r"gives logits \[60, classes\] here, and gave \[300\]"),
        ({"network": linear(1), "y": Y * 0}, r"2 classes take .* the network gives \[60, 1\]"),
        ({"network": nn.LSTM(5, 2).double()}, "and gave tuple"),
        ({"norm": "l1"}, 'norm is "linf" or "l2", got \'l1\''),
        ({"steps": 0}, "steps is a whole number ≥ 1, got 0"),
        ({"restarts": 1.5}, r"restarts is a whole number ≥ 1, got 1\.5"),
        ({"step": 0}, "step is a number > 0 in the units of x, got 0"),
    ],
)
def test_impossible_attacks(changed: dict[str, Any], told: str) -> None:
    given: dict[str, Any] = {"network": NET, "x": X, "y": Y, "radius": 0.1, **changed}
    with pytest.raises(AttackError, match=told):
        pgd(**given)
    if not changed.keys() & {"norm", "steps", "restarts", "step"}:
        with pytest.raises(AttackError, match=told):
            fgsm(**given)


def test_impossible_accuracies() -> None:
    with pytest.raises(AttackError, match=r"no attack 'pdg'\. Did you mean 'pgd'"):
        adversarial_accuracy(NET, X, Y, (0,), "pdg")  # type: ignore[arg-type]
    with pytest.raises(AttackError, match="radii holds at least one number"):
        adversarial_accuracy(NET, X, Y, ())
    with pytest.raises(AttackError, match="got -1"):
        adversarial_accuracy(NET, X, Y, (0, -1))


def test_every_point_of_a_curve_is_attacked(tmp_path: Path) -> None:
    curve = path((1e-3, 1e-1), points=3, out=tmp_path)
    y = torch.tensor([0, 1, 2, 0])
    options: dict[str, Any] = {"clip": None, "norm": "l2", "steps": 3}
    found = adversarial_curve(curve, EXAMPLE, y, (0, 0.3), "pgd", **options)
    assert found.radii == (0, 0.3) and len(found.points) == len(curve.points)
    for point in curve.points:
        net = curve.network(point)
        expected = adversarial_accuracy(net, EXAMPLE, y, (0, 0.3), "pgd", **options)
        assert found.of(point) == tuple(expected.values())
    loaded = Curve.load(curve.out)
    assert adversarial_curve(loaded, EXAMPLE, y, (0, 0.3), "pgd", make, **options) == found
    with pytest.raises(PathError, match="needs the function that makes an untrained one"):
        adversarial_curve(loaded, EXAMPLE, y, (0,), clip=None)
    with pytest.raises(AttackError, match=r"not within clip"):
        adversarial_curve(curve, EXAMPLE, y, (0,))


def test_the_figure_has_a_line_for_each_radius(tmp_path: Path) -> None:
    sizes = (1024.0, 256.0, 32.0)
    strengths = (None, 1.0, 2.0)
    rows = [(p, [s, s], [0.1, 0.1]) for p, s in zip(strengths, sizes, strict=True)]
    curve = made_up(tmp_path, rows, [1.0, 2.0])
    points = {
        f"seed{p.seed}/{p.folder.name}": (0.9, 0.5 - 0.1 * p.number + 0.02 * p.seed)
        for p in curve.points
    }
    figure = per_radius(curve, AdversarialCurve((0.0, 0.25), points))
    [axes] = figure.axes
    lines = {str(line.get_label()): line for line in axes.lines}
    assert list(lines) == ["no attack", "radius 0.25"]
    for name, expected in (("no attack", [90, 90, 90]), ("radius 0.25", [51, 41, 31])):
        x, y = (np.asarray(data) for data in lines[name].get_data())
        np.testing.assert_allclose(x, [0, 2, 5])  # log₂(1024/size)
        np.testing.assert_allclose(y, expected)
    assert lines["no attack"].get_color() != lines["radius 0.25"].get_color()
    assert axes.get_xlabel() == "non-zero weights removed" and axes.get_ylabel() == "accuracy, %"
    with pytest.raises(PathError, match="of another curve"):
        per_radius(curve, AdversarialCurve((0.0,), {"seed0/x": (1.0,)}))
