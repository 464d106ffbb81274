"""`prox_`, in place on signed parts, gives what the plain `prox` gives, to the same zeros."""

import math
from collections.abc import Sequence
from itertools import permutations

import pytest
import torch
from products import pairwise
from torch import Tensor

from lissom import L0, L1, L2, MCP, L1Ball, Lq, Threshold, TopK
from lissom.penalties import Part, Penalty, widen

SEPARABLE = [
    L0(0.3),
    L1(0.4),
    L2(0.5),
    L0(0.3) + L1(0.2),
    L0(0.3) + L2(0.5),
    L1(0.4) + L2(0.5),
    L0(0.3) + L1(0.2) + L2(0.5),
    MCP(0.4) + L1(0.1) + L2(0.5),
    Lq(0.2),
    Threshold(0.7),
]
BUDGETS = [
    TopK(7),
    TopK(fraction=0.4),
    TopK(fraction=0.4) + L0(0.3),
    TopK(fraction=0.4) + L1(0.4),
    TopK(fraction=0.4) + L2(0.5),
    TopK(fraction=0.4) + (L0(0.3) + L1(0.2) + L2(0.5)),
    L1Ball(20.0),
    L1Ball(20.0) + L1(0.1),
]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

every_penalty = pytest.mark.parametrize("penalty", [*SEPARABLE, *BUDGETS], ids=str)
euclidean_and_adaptive = pytest.mark.parametrize("adaptive", [False, True])


def weights_of_many_layouts(dtype: torch.dtype) -> list[Tensor]:
    """Signed weights, some zero, and many of equal size in half precision."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(7, 5), (3, 4, 5, 6), (11,), (1,), (0, 3), (12, 20), (30, 9), ()]
    parts = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    parts[0].view(-1)[::4] = 0
    parts[1] = parts[1].to(memory_format=torch.channels_last)
    parts[5] = parts[5].T
    parts[6] = parts[6][::2]
    return parts


def metrics_of(parts: Sequence[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    wide = torch.float64 if parts[0].dtype == torch.float64 else torch.float32
    return [0.2 + 2 * torch.rand(p.shape, generator=generator, dtype=wide) for p in parts]


def joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


def check(penalty: Penalty, parts: list[Tensor], rates: list[float], adaptive: bool) -> Tensor:
    """`prox_` against `prox`; returns the result, in one vector."""
    metrics = metrics_of(parts)
    before = joined(parts)
    t = joined([torch.full_like(d, rate) for d, rate in zip(metrics, rates, strict=True)])
    x = penalty.prox(before.abs(), t, joined(metrics) if adaptive else None) * before.sign()
    penalty.prox_(
        [
            Part(part, rate, d.clone if adaptive else None)
            for part, rate, d in zip(parts, rates, metrics, strict=True)
        ]
    )
    after = joined(parts)
    assert torch.equal(after == 0, x == 0)
    torch.testing.assert_close(after, x, equal_nan=True)
    return after


@pairwise
@every_penalty
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@euclidean_and_adaptive
def test_same_as_the_plain_prox(penalty: Penalty, dtype: torch.dtype, adaptive: bool) -> None:
    parts = weights_of_many_layouts(dtype)
    alive = joined(parts).count_nonzero()
    rates = [0.1 + (i % 3) / 2 for i in range(len(parts))]  # as in several parameter groups
    after = check(penalty, parts, rates, adaptive and penalty.has_metric)
    assert (0 < after.count_nonzero() < alive) or penalty == L2(0.5)


@pairwise
@every_penalty
@pytest.mark.parametrize("dtypes", list(permutations(DTYPES, 2)), ids=str)
@euclidean_and_adaptive
def test_layers_of_several_dtypes_come_together(
    penalty: Penalty, dtypes: tuple[torch.dtype, torch.dtype], adaptive: bool
) -> None:
    """As if all were as wide as the widest."""
    several = [x.to(dtypes[i % 2]) for i, x in enumerate(weights_of_many_layouts(torch.float32))]
    wide = torch.promote_types(torch.promote_types(*dtypes), torch.float32)
    alike = [x.to(wide, copy=True) for x in several]
    metrics = metrics_of([x.float() for x in several])
    some = adaptive and penalty.has_metric
    for parts in (several, alike):
        asked = zip(parts, metrics, strict=True)
        penalty.prox_(
            [Part(x, 0.1, d.to(widen(x).dtype).clone if some else None) for x, d in asked]
        )
    assert torch.equal(joined(several) != 0, joined(alike) != 0)
    torch.testing.assert_close(joined(several).to(wide), joined(alike), rtol=1e-2, atol=1e-2)


@pairwise
@pytest.mark.parametrize("plus", [L1(0), L0(0.3), L1(0.2), L2(0.5)], ids=str)
@euclidean_and_adaptive
def test_equals_stay_in_order_of_index(plus: Penalty, adaptive: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    values = 2.0 * torch.randint(-2, 3, (200,), generator=generator)
    for kappa in (0, 1, 20, 60, 100, 150, 180, 199, 200, 201):
        expected = (TopK(kappa) + plus).prox(values.abs(), 0.1) * values.sign()
        actual = values.clone()
        parts = actual.split([90, 1, 0, 7, 102])
        (TopK(kappa) + plus).prox_(
            [Part(p, 0.1, torch.ones_like(p).clone if adaptive else None) for p in parts]
        )
        assert torch.equal(actual, expected)


@pairwise
@every_penalty
@euclidean_and_adaptive
@pytest.mark.parametrize(
    "values",
    [
        [torch.zeros(5), torch.zeros(2, 3)],
        [torch.zeros(0)],
        [torch.tensor([-1.3])],
        [torch.tensor([0.0, -0.0, 2.0]), torch.tensor([-2.0, 2.0, -2.0])],
        [torch.tensor([1e25, -2e25]), torch.tensor([3.0])],
        [torch.tensor([1e-15, -2e-15]), torch.tensor([0.0])],
    ],
    ids=["zeros", "empty", "one", "ties", "huge", "tiny"],
)
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_edges(penalty: Penalty, adaptive: bool, values: list[Tensor], rate: float) -> None:
    parts = [part.clone() for part in values]
    check(penalty, parts, [rate] * len(parts), adaptive and penalty.has_metric)


@pairwise
@pytest.mark.parametrize(
    "penalty", [L0(0), L1(0), L2(0), TopK(10**6), TopK(fraction=1), L1Ball(1e9)], ids=str
)
@euclidean_and_adaptive
def test_what_costs_nothing_changes_nothing(penalty: Penalty, adaptive: bool) -> None:
    parts = weights_of_many_layouts(torch.float32)
    before = joined(parts)
    assert torch.equal(check(penalty, parts, [0.3] * len(parts), adaptive), before)


@pytest.mark.parametrize("penalty", [TopK(0), TopK(fraction=0.0) + L1(0.1), L1Ball(0)], ids=str)
@euclidean_and_adaptive
def test_a_budget_of_0_leaves_nothing(penalty: Penalty, adaptive: bool) -> None:
    parts = weights_of_many_layouts(torch.float32)
    assert check(penalty, parts, [0.3] * len(parts), adaptive).count_nonzero() == 0


@pairwise
@pytest.mark.parametrize("penalty", [*SEPARABLE, *BUDGETS, TopK(0), L1Ball(0)], ids=str)
@euclidean_and_adaptive
def test_nan_stays_nan(penalty: Penalty, adaptive: bool) -> None:
    parts = weights_of_many_layouts(torch.float32)
    parts[0][1], parts[1][:, 2, 3] = math.nan, math.nan
    nan = joined(parts).isnan()
    after = check(penalty, parts, [0.3] * len(parts), adaptive and penalty.has_metric)
    assert torch.equal(after.isnan(), nan)


@pytest.mark.parametrize("penalty", [*SEPARABLE[:-1], *BUDGETS, L1Ball(40.0)], ids=str)
def test_a_metric_of_0_is_as_good_as_a_tiny_one(penalty: Penalty) -> None:
    values = torch.randn(60, generator=torch.Generator().manual_seed(6))
    [d] = metrics_of([values])
    results = []
    for tiny in (0, 1e-25):
        d[::3] = tiny
        part = values.clone()
        penalty.prox_([Part(part, 0.1, d.clone)])
        results.append(part)
    torch.testing.assert_close(*results)


def test_a_ball_whose_boundary_is_lost_in_rounding() -> None:
    # τ of both numbers rounds to the smaller one, which dies; τ of the other lets it live again.
    values = torch.tensor([1.25, 0.75])
    L1Ball(0.5 + 0.8 * 2**-24).prox_([Part(values, 1.0)])
    torch.testing.assert_close(values, torch.tensor([0.5, 0.0]))


@euclidean_and_adaptive
@pytest.mark.parametrize("radius", [1e-3, 1e-1, 10.0, 1e4])
def test_a_ball_is_met_however_little_it_leaves(adaptive: bool, radius: float) -> None:
    # All of one size, v − τ is far below what rounding v in float32 leaves of it.
    values = torch.full([5000], 3.0)
    values[::7] *= -1
    d = torch.rand(5000, generator=torch.Generator().manual_seed(8)) + 1
    ball = L1Ball(radius)
    ball.prox_([Part(values, 1.0, d.clone if adaptive else None)])
    assert ball.value(values.abs()) == 0
    assert values.abs().sum(dtype=torch.float64).item() == pytest.approx(radius, rel=1e-6)


def test_the_metric_is_asked_for_anew_and_stays_the_owners() -> None:
    d = torch.tensor([0.5, 2.0, 1.0])
    for penalty in (*SEPARABLE[:-1], *BUDGETS):
        penalty.prox_([Part(torch.tensor([1.0, -1.0, 2.0]), 0.1, d.clone)])
    assert d.tolist() == [0.5, 2.0, 1.0]
