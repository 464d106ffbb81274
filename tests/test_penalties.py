"""Every prox minimises its own objective, ½ Σ d (x − r)² + t·P(x), by brute force; then invariants.

The objectives are written out here in NumPy, so that `value` is tested and not believed.
"""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from products import pairwise, sampled
from scipy.optimize import minimize
from torch import Tensor

from lissom import L0, L1, L2, MCP, L1Ball, Lq, NonNegative, Threshold, TopK
from lissom.errors import PenaltyError
from lissom.penalties import Part, Penalty
from lissom.schedules import Schedule, cosine, cubic, linear

Array = np.ndarray
Strengths = tuple[float, float, float]  # λ₀, λ₁, λ₂
Kappa = Callable[[int], int]

ELASTIC: list[tuple[Penalty, Strengths]] = [
    (L0(0.3), (0.3, 0, 0)),
    (L1(0.4), (0, 0.4, 0)),
    (L2(0.5), (0, 0, 0.5)),
    (L0(0.3) + L1(0.2), (0.3, 0.2, 0)),
    (L0(0.3) + L2(0.5), (0.3, 0, 0.5)),
    (L1(0.4) + L2(0.5), (0, 0.4, 0.5)),
    (L0(0.3) + L1(0.2) + L2(0.5), (0.3, 0.2, 0.5)),
]
TOPK: list[tuple[Penalty, Strengths, Kappa]] = [
    (TopK(3), (0, 0, 0), lambda n: min(n, 3)),
    (TopK(fraction=0.4), (0, 0, 0), lambda n: int(0.4 * n + 0.5)),
    (TopK(3) + L2(0.5), (0, 0, 0.5), lambda n: min(n, 3)),
    (TopK(3) + L1(0.4), (0, 0.4, 0), lambda n: min(n, 3)),
    (TopK(3) + L0(0.3), (0.3, 0, 0), lambda n: min(n, 3)),
    (L0(0.1) + L1(0.2) + L2(0.3) + TopK(2), (0.1, 0.2, 0.3), lambda n: min(n, 2)),
]
SEPARABLE = [penalty for penalty, _ in ELASTIC]
COUNTED = [penalty for penalty, _, _ in TOPK]
NONCONVEX = [MCP(0.4), MCP(0.3, gamma=0.5), Lq(0.4), Lq(0.4, q=2 / 3), MCP(0.4) + L1(0.1) + L2(0.5)]
WITH_METRIC = [*SEPARABLE, *COUNTED, L1Ball(1.5), L1Ball(1.5) + L1(0.1) + L2(0.5), *NONCONVEX]
PENALTIES = [*WITH_METRIC, Threshold(0.7)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

GENERATOR = torch.Generator().manual_seed(0)
NORMS = {
    "random": torch.rand(40, generator=GENERATOR, dtype=torch.float64) * 3,
    "matrix": torch.rand(5, 8, generator=GENERATOR, dtype=torch.float64) * 3,
    "zeros": torch.zeros(9, dtype=torch.float64),
    "half zeros": torch.randn(40, generator=GENERATOR, dtype=torch.float64).clamp(min=0),
    "all equal": torch.full((20,), 0.3, dtype=torch.float64),
    "ties": torch.tensor([1.0, 2, 1, 2, 0, 1, 2, 0, 1], dtype=torch.float64),
    "one": torch.tensor([1.3], dtype=torch.float64),
    "no dimension": torch.tensor(1.3, dtype=torch.float64),
    "empty": torch.zeros(0, 3, dtype=torch.float64),
    "huge": torch.tensor([1e200, 2e200, 3e200, 3e200, 1.0], dtype=torch.float64),
    "tiny": torch.tensor([1e-200, 3e-200, 2e-200, 3e-200, 0.0], dtype=torch.float64),
}

every_sum = pytest.mark.parametrize(
    ("penalty", "strengths"), [pytest.param(*row, id=str(row[0])) for row in ELASTIC]
)
every_topk = pytest.mark.parametrize(
    ("penalty", "strengths", "kappa"), [pytest.param(*row, id=str(row[0])) for row in TOPK]
)
every_penalty = pytest.mark.parametrize("penalty", PENALTIES, ids=str)
every_input = pytest.mark.parametrize("norms", NORMS.values(), ids=NORMS.keys())
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
euclidean_and_adaptive = pytest.mark.parametrize("adaptive", [False, True])

vectors = st.lists(
    st.sampled_from([0.0, 0.5, 1.0, 2.0]) | st.floats(0, 4), min_size=1, max_size=7
).map(np.array)
steps = st.floats(0, 3)


def metrics(like: Array) -> st.SearchStrategy[Array | None]:
    """A metric for each norm, often with equal numbers, or None."""
    one = st.sampled_from([1.0, 2.0]) | st.floats(0.1, 5)
    return st.none() | st.lists(one, min_size=len(like), max_size=len(like)).map(np.array)


def metric_like(norms: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(norms.shape, generator=generator) * 3 + 0.1).to(norms.dtype)


def prox(penalty: Penalty, r: Array, t: float = 1.0, d: Array | None = None) -> Array:
    metric = None if d is None else torch.tensor(d)
    x: Array = penalty.prox(torch.tensor(r), t, metric).numpy()
    return x


def penalty_of(x: Array, strengths: Strengths) -> Array:
    l0, l1, l2 = strengths
    return l0 * (x != 0) + l1 * x + l2 * x**2


def costs(x: Array, r: Array, t: float, d: Array | float, strengths: Strengths) -> Array:
    """½d(x − r)² + t·P(x), element by element."""
    return d * (x - r) ** 2 / 2 + t * penalty_of(x, strengths)


def least_alive(r: Array, t: float, d: Array | float, strengths: Strengths) -> Array:
    """The least cost of each norm at an x > 0: on a dense grid, and where the slope is 0."""
    grid = np.linspace(0, 1.5, 1501)[1:, None] * np.maximum(r, 1e-3)
    flat = np.maximum(d * r - t * strengths[1], 0) / (d + 2 * t * strengths[2])
    candidates = np.vstack([grid, np.maximum(flat, 1e-12)])
    return costs(candidates, r, t, d, strengths).min(axis=0)


@sampled(2)
@every_sum
@settings(deadline=None)
@given(r=vectors, t=steps, data=st.data())
def test_sums_of_l0_l1_l2_minimise(
    penalty: Penalty, strengths: Strengths, r: Array, t: float, data: st.DataObject
) -> None:
    d = data.draw(metrics(r))
    x = prox(penalty, r, t, d)
    weight = 1.0 if d is None else d
    dead, alive = costs(0 * r, r, t, weight, strengths), least_alive(r, t, weight, strengths)
    assert np.all(costs(x, r, t, weight, strengths) <= np.minimum(dead, alive) + 1e-9)


@sampled(2)
@every_topk
@settings(deadline=None)
@given(r=vectors, t=steps, data=st.data())
def test_topk_and_its_sums_minimise_over_all_supports(
    penalty: Penalty, strengths: Strengths, kappa: Kappa, r: Array, t: float, data: st.DataObject
) -> None:
    d, n = data.draw(metrics(r)), len(r)
    x = prox(penalty, r, t, d)
    weight = 1.0 if d is None else d
    dead, alive = costs(0 * r, r, t, weight, strengths), least_alive(r, t, weight, strengths)
    least = min(
        np.where(np.isin(range(n), support), np.minimum(dead, alive), dead).sum()
        for support in itertools.combinations(range(n), kappa(n))
    )
    assert np.count_nonzero(x) <= kappa(n)
    assert costs(x, r, t, weight, strengths).sum() <= least + 1e-9


@settings(deadline=None)
@given(r=vectors, threshold=st.floats(0, 3), t=steps)
def test_threshold_minimises_with_t_held_at_1(r: Array, threshold: float, t: float) -> None:
    x = prox(Threshold(threshold), r, t)
    strengths = (threshold**2 / 2, 0, 0)
    least = np.minimum(costs(0 * r, r, 1, 1, strengths), least_alive(r, 1, 1, strengths))
    assert np.all(costs(x, r, 1, 1, strengths) <= least + 1e-9)
    assert np.array_equal(x, np.where(r >= threshold, r, 0))


@settings(deadline=None)
@given(r=vectors, radius=st.floats(0, 10), data=st.data())
def test_l1_ball_meets_the_conditions_of_karush_kuhn_and_tucker(
    r: Array, radius: float, data: st.DataObject
) -> None:
    d = data.draw(metrics(r))
    x = prox(L1Ball(radius), r, 1.0, d)
    if r.sum() <= radius:
        assert np.array_equal(x, r)
        return
    assert np.all(x >= 0)
    assert x.sum() == pytest.approx(radius, abs=1e-9)
    pull = (1.0 if d is None else d) * (r - x)  # τ where x > 0, and no more than τ elsewhere
    assert np.all(np.abs(pull - pull.max())[x > 0] <= 1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_l1_ball_is_what_a_general_solver_finds(seed: int) -> None:
    random = np.random.default_rng(seed)
    r, d = random.exponential(size=6), random.uniform(0.2, 3, size=6)
    found = minimize(
        lambda x: (d * (x - r) ** 2).sum() / 2,
        x0=np.full(6, 0.1),
        jac=lambda x: d * (x - r),
        bounds=[(0, None)] * 6,
        constraints={"type": "ineq", "fun": lambda x: 1.5 - x.sum()},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    np.testing.assert_allclose(prox(L1Ball(1.5), r, 1.0, d), found.x, atol=1e-6)


def test_c_step_of_idelbayev_and_carreira_perpinan() -> None:
    # Eq. 5–6: with ‖·‖₀ ≤ κ and λ‖·‖²₂ the survivors are scaled by μ/(μ + 2λ), μ = 1/t.
    x = prox(TopK(2) + L2(0.5), np.array([3.0, 1.0, 2.0]), t=1 / 4)
    assert x.tolist() == pytest.approx([3 * 4 / 5, 0, 2 * 4 / 5])


@sampled(3)
@every_sum
@settings(deadline=None)
@given(r=vectors)
def test_value_is_the_penalty(penalty: Penalty, strengths: Strengths, r: Array) -> None:
    value = penalty.value(torch.tensor(r))
    assert value.ndim == 0
    assert value.item() == pytest.approx(penalty_of(r, strengths).sum())


@sampled(3)
@every_topk
@settings(deadline=None)
@given(r=vectors)
def test_value_is_infinite_beyond_the_count(
    penalty: Penalty, strengths: Strengths, kappa: Kappa, r: Array
) -> None:
    met = np.count_nonzero(r) <= kappa(len(r))
    expected = penalty_of(r, strengths).sum() if met else math.inf
    assert penalty.value(torch.tensor(r)).item() == pytest.approx(expected)


def test_value_of_a_threshold_and_of_a_ball() -> None:
    norms = torch.tensor([0.0, 0.5, 1.0])
    assert Threshold(2.0).value(norms).item() == 4.0
    assert L1Ball(1.5).value(norms).item() == 0
    assert L1Ball(1.49).value(norms).item() == math.inf


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("penalty", [*COUNTED, L1Ball(1.5), L1Ball(1e-3)], ids=str)
def test_a_budget_is_met_whatever_the_rounding(penalty: Penalty, dtype: torch.dtype) -> None:
    for seed in range(5):
        norms = 100 * torch.rand(500, generator=torch.Generator().manual_seed(seed)).to(dtype)
        assert penalty.value(penalty.prox(norms)).isfinite()
        assert penalty.value(penalty.prox(norms, 0.1, metric_like(norms))).isfinite()


def test_the_gradient_says_something_where_nothing_is_counted() -> None:
    useful = [L1(0.1), L2(0.1), L1(0.1) + L2(0.1), L1(linear(0, 1, 10)), MCP(0.1) + L2(1)]
    useless = [L0(0.1), L0(linear(0, 1, 10)), L0(0.1) + L1(0.1), TopK(3), Threshold(1), L1Ball(1)]
    useless += [Lq(0.1), NonNegative(), L1(0.1) + NonNegative()]
    assert all(penalty.differentiable for penalty in useful)
    assert not any(penalty.differentiable for penalty in useless)


@pairwise
@every_input
@every_penalty
@euclidean_and_adaptive
def test_the_result_is_between_zero_and_the_norm(
    penalty: Penalty, norms: Tensor, adaptive: bool
) -> None:
    before = norms.clone()
    metric = metric_like(norms) if adaptive and penalty.has_metric else None
    for t in (0.0, 1e-3, 1.0, 100.0):
        x = penalty.prox(norms, t, metric)
        assert x.shape == norms.shape
        assert ((x >= 0) & (x <= norms)).all()
        x.add_(1)
        assert torch.equal(norms, before), "the norms are the caller's"


@pairwise
@every_dtype
@every_input
@every_penalty
def test_dtype_and_shape_are_kept(penalty: Penalty, norms: Tensor, dtype: torch.dtype) -> None:
    norms = norms.clamp(max=1e4).to(dtype)
    x = penalty.prox(norms, 0.1)
    assert x.dtype == dtype
    assert x.shape == norms.shape
    assert ((x >= 0) & (x <= norms)).all()


@sampled(55)
@pairwise
@every_input
@pytest.mark.parametrize("penalty", WITH_METRIC, ids=str)
@euclidean_and_adaptive
def test_no_point_nearby_is_better(penalty: Penalty, norms: Tensor, adaptive: bool) -> None:
    norms = norms.clamp(max=1e100)  # whose square is finite
    metric = metric_like(norms) if adaptive else torch.ones_like(norms)

    def objective(x: Tensor) -> float:
        return float((metric * (x - norms) ** 2).sum() / 2 + 0.4 * penalty.value(x))

    x = penalty.prox(norms, 0.4, metric if adaptive else None)
    assert math.isfinite(objective(x))
    generator = torch.Generator().manual_seed(2)
    for size in (1e-3, 1e-1, 1.0):
        for _ in range(10):
            noise = size * torch.randn(norms.shape, generator=generator, dtype=norms.dtype)
            kept = torch.rand(norms.shape, generator=generator) < 0.8
            for y in (x * noise.exp(), x + norms * noise.abs(), x + noise.abs()):
                assert objective(x) <= objective(y * kept) * (1 + 1e-12) + 1e-12


@pairwise
@every_input
@every_penalty
@euclidean_and_adaptive
def test_nan_stays_nan(penalty: Penalty, norms: Tensor, adaptive: bool) -> None:
    damaged = norms.clone()
    damaged.view(-1)[::3] = math.nan
    metric = metric_like(norms) if adaptive and penalty.has_metric else None
    x = penalty.prox(damaged, 0.1, metric)
    assert torch.equal(x.isnan(), damaged.isnan())


FREE = [L0(0), L1(0), L2(0), L0(0) + L1(0) + L2(0), TopK(1000), TopK(fraction=1), L1Ball(1e300)]


@every_input
@pytest.mark.parametrize("penalty", [*FREE, Threshold(0)], ids=str)
def test_what_costs_nothing_changes_nothing(penalty: Penalty, norms: Tensor) -> None:
    before = norms.clone()
    x = penalty.prox(norms)
    assert torch.equal(x, norms)
    x.add_(1)
    assert torch.equal(norms, before), "the norms are the caller's"
    if penalty.has_metric:
        assert torch.equal(penalty.prox(norms, 2.0, metric_like(norms)), norms)


@every_input
@pytest.mark.parametrize("penalty", SEPARABLE, ids=str)
def test_a_step_of_0_changes_nothing(penalty: Penalty, norms: Tensor) -> None:
    assert torch.equal(penalty.prox(norms, 0.0), norms)
    assert torch.equal(penalty.prox(norms, 0.0, metric_like(norms)), norms)
    assert torch.equal(penalty.prox(norms, torch.zeros_like(norms)), norms)


@every_input
@pytest.mark.parametrize(
    "penalty", [TopK(0), TopK(fraction=0), TopK(0) + L2(1), L1Ball(0)], ids=str
)
def test_a_budget_of_0_leaves_nothing(penalty: Penalty, norms: Tensor) -> None:
    assert penalty.prox(norms).count_nonzero() == 0
    for seed in range(20):
        metric = 0.1 + torch.rand(norms.shape, generator=torch.Generator().manual_seed(seed))
        assert penalty.prox(norms, 1.0, metric).count_nonzero() == 0


@every_input
@pytest.mark.parametrize("kappa", [0, 1, 2, 5, 8, 9, 40, 41])
def test_topk_keeps_the_kappa_largest_untouched(norms: Tensor, kappa: int) -> None:
    x = TopK(kappa).prox(norms)
    largest = norms.flatten().sort(descending=True).values[:kappa]
    assert x.count_nonzero() == min(kappa, int(norms.count_nonzero()))
    assert torch.equal(x[x != 0].sort(descending=True).values, largest[largest != 0])
    assert ((x == norms) | (x == 0)).all()


@euclidean_and_adaptive
@pytest.mark.parametrize("penalty", [L0(0.5), L0(0.125) + L1(0.5)], ids=str)
def test_at_equal_cost_a_group_dies(penalty: Penalty, adaptive: bool) -> None:
    one = torch.ones(1)  # where the cost of x = 1 (or 0.5) and of x = 0 is ½
    metric = torch.ones(1) if adaptive else None
    assert penalty.prox(one, 1.0, metric).tolist() == [0]
    penalty.prox_([Part(one, 1.0, metric.clone if metric is not None else None)])
    assert one.tolist() == [0]


def test_topk_keeps_the_first_of_equals() -> None:
    assert TopK(4).prox(NORMS["ties"]).tolist() == [1, 2, 0, 2, 0, 0, 2, 0, 0]


@pytest.mark.parametrize(
    ("fraction", "n", "kappa"),
    [(0.0, 7, 0), (1.0, 7, 7), (0.5, 7, 4), (0.1, 4, 0), (0.02, 266_200, 5324), (0.7, 0, 0)],
)
def test_a_fraction_is_rounded_to_the_nearest_count(fraction: float, n: int, kappa: int) -> None:
    assert TopK(fraction=fraction).kappa(n) == kappa
    assert TopK(5).kappa(n) == min(n, 5)


@every_input
@settings(deadline=None, max_examples=20)
@given(c=st.floats(1e-3, 1e3))
def test_norms_and_strengths_scale_together(norms: Tensor, c: float) -> None:
    pairs = [
        (L0(0.3 * c**2), L0(0.3)),
        (L1(0.4 * c), L1(0.4)),
        (L2(0.5), L2(0.5)),
        (L0(0.3 * c**2) + L1(0.4 * c) + L2(0.5), L0(0.3) + L1(0.4) + L2(0.5)),
        (Threshold(0.7 * c), Threshold(0.7)),
        (TopK(3) + L1(0.4 * c), TopK(3) + L1(0.4)),
        (L1Ball(1.5 * c), L1Ball(1.5)),
    ]
    for scaled, penalty in pairs:
        torch.testing.assert_close(
            scaled.prox(c * norms), c * penalty.prox(norms), rtol=1e-6, atol=0
        )


@every_sum
def test_step_strength_and_metric_are_one_number(penalty: Penalty, strengths: Strengths) -> None:
    norms, (l0, l1, l2) = NORMS["random"], strengths
    cheaper = L0(0.2 * l0) + L1(0.2 * l1) + L2(0.2 * l2)
    metric = metric_like(norms)
    torch.testing.assert_close(penalty.prox(norms, 0.2), cheaper.prox(norms, 1.0))
    torch.testing.assert_close(penalty.prox(norms, 0.2, metric), penalty.prox(norms, 0.2 / metric))


@pytest.mark.parametrize("penalty", [*SEPARABLE, *COUNTED[:4]], ids=str)
def test_each_group_may_have_a_step_of_its_own(penalty: Penalty) -> None:
    norms = NORMS["random"]
    assert torch.equal(penalty.prox(norms, torch.full_like(norms, 0.3)), penalty.prox(norms, 0.3))
    if penalty in SEPARABLE:
        halves = [penalty.prox(norms[:20], 0.3), penalty.prox(norms[20:], 2.0)]
        steps = torch.tensor([0.3, 2.0], dtype=norms.dtype).repeat_interleave(20)
        torch.testing.assert_close(penalty.prox(norms, steps), torch.cat(halves))


@pytest.mark.parametrize("penalty", [*WITH_METRIC, L1Ball(50.0)], ids=str)
def test_a_metric_of_0_is_as_good_as_a_tiny_one(penalty: Penalty) -> None:
    # D of a weight that never had a gradient, in an optimizer with ε = 0.
    norms = NORMS["random"]
    zero, tiny = metric_like(norms), metric_like(norms)
    zero[::3], tiny[::3] = 0, 1e-25
    torch.testing.assert_close(penalty.prox(norms, 0.1, zero), penalty.prox(norms, 0.1, tiny))


def test_float64_is_not_rounded_to_float32() -> None:
    cut = math.sqrt(2 * 0.1)
    norms = torch.tensor([cut * (1 - 1e-9), cut * (1 + 1e-9)], dtype=torch.float64)
    assert L0(0.1).prox(norms).tolist() == [0, norms[1].item()]
    assert L0(0.1).prox(norms, torch.ones_like(norms)).tolist() == [0, norms[1].item()]


@euclidean_and_adaptive
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("penalty", [L0(1e-2), L1(1.0), L0(1e-2) + L2(1.0)], ids=str)
def test_half_precision_does_not_lose_a_step_of_1e_7(
    penalty: Penalty, dtype: torch.dtype, adaptive: bool
) -> None:
    # In float16 itself, 2tλ = 2e-9 would be 0.
    norms = torch.logspace(-7.2, -3, 200).to(dtype)
    metric = torch.full_like(norms, 0.5) if adaptive else None
    x = penalty.prox(norms, 1e-7, metric)
    wide = penalty.prox(norms.float(), 1e-7, None if metric is None else metric.float())
    assert torch.equal(x, wide.to(dtype))
    assert 0 < x.count_nonzero() < len(x)

    fused = norms.clone()
    penalty.prox_([Part(fused, 1e-7, metric.float().clone if metric is not None else None)])
    assert torch.equal(fused, x)


def in_schedule(schedule: Schedule) -> list[tuple[Penalty, Penalty]]:
    """Penalties with a schedule, and the same with its value at step 5."""
    now = schedule(5)
    return [
        (L0(schedule), L0(now)),
        (L1(schedule), L1(now)),
        (L2(schedule), L2(now)),
        (L0(schedule) + L2(0.5), L0(now) + L2(0.5)),
        (L0(0) + L0(schedule), L0(now)),
        (L0(schedule) + L0(0), L0(now)),
        (Threshold(schedule), Threshold(now)),
        (TopK(fraction=schedule), TopK(fraction=now)),
        (TopK(fraction=schedule, per="layer"), TopK(fraction=now, per="layer")),
        (TopK(3) + L2(schedule), TopK(3) + L2(now)),
        (TopK(fraction=schedule) + L1(schedule), TopK(fraction=now) + L1(now)),
        (L1Ball(schedule, per="layer"), L1Ball(now, per="layer")),
    ]


SCHEDULED = [pytest.param(*pair, id=str(pair[0])) for pair in in_schedule(cubic(0, 0.8, 10))]


@pytest.mark.parametrize(("penalty", "now"), SCHEDULED)
def test_at_a_step_a_schedule_is_its_value(penalty: Penalty, now: Penalty) -> None:
    assert penalty.at(5) == now
    assert penalty.at(5).at(9) == now
    assert type(penalty.at(5)) is type(now)


@pytest.mark.parametrize(("penalty", "now"), SCHEDULED)
def test_a_schedule_is_not_used_before_it_has_a_value(penalty: Penalty, now: Penalty) -> None:
    norms = torch.ones(2)
    for use in (
        lambda: penalty.value(norms),
        lambda: penalty.prox(norms),
        lambda: penalty.prox_([Part(norms, 0.1)]),
    ):
        with pytest.raises(PenaltyError, match=r"follows a schedule: take penalty\.at\(step\)"):
            use()
    assert torch.equal(norms, torch.ones(2))


@every_penalty
def test_without_a_schedule_every_step_is_the_same(penalty: Penalty) -> None:
    assert penalty.at(0) == penalty.at(10**6) == penalty


def test_a_scheduled_count_is_rounded() -> None:
    assert TopK(linear(10, 0, 4)).at(1) == TopK(8)  # 7.5, to even
    assert TopK(linear(10, 0, 4)).at(3) == TopK(2)  # 2.5, to even
    assert TopK(cosine(9, 1, 3)).at(1) == TopK(7)


def test_a_schedule_that_leaves_the_range_between_its_ends_is_refused_at_that_step() -> None:
    """What a shape of somebody's own gives is not known before."""
    penalty = L0(Schedule(1, 0, 10, lambda x: 2 * x))
    assert penalty.at(5) == L0(0)
    with pytest.raises(PenaltyError, match=r"L0 needs a finite strength λ ≥ 0, got -0\.8"):
        penalty.at(9)
    with pytest.raises(PenaltyError, match=r"a fraction from 0 to 1, got 1\.8\b"):
        TopK(fraction=Schedule(0, 1, 10, lambda x: 2 * x)).at(9)


def test_what_is_joint_and_what_holds_per_layer() -> None:
    assert all(penalty.per == "all" for penalty in PENALTIES)
    budgets = [TopK(3, per="layer"), L2(0.1) + TopK(3, per="layer"), L1Ball(3, per="layer")]
    assert all(budget.per == budget.at(4).per == "layer" for budget in budgets)
    assert [p for p in PENALTIES if not p.joint] == [*SEPARABLE, *NONCONVEX, Threshold(0.7)]
    with pytest.raises(PenaltyError, match="per is 'all' or 'layer', got 'row'"):
        L1Ball(3, per="row")  # type: ignore[arg-type]


def test_sums_do_not_depend_on_their_order() -> None:
    assert L0(1) + L1(2) + L2(3) == L2(3) + (L1(2) + L0(1))
    assert L0(1) + L0(2) == L0(3)
    assert TopK(5) + L1(2) + L2(3) == L2(3) + TopK(5) + L1(2) == L2(3) + (L1(2) + TopK(5))


@pytest.mark.parametrize(
    ("penalty", "text"),
    [
        (L0(2e-4), "L0(0.0002)"),
        (L2(0.5) + L0(0.25), "L0(0.25) + L2(0.5)"),
        (L0(0), "L0(0)"),
        (L1(0), "L1(0)"),
        (L2(0.0), "L2(0.0)"),
        (L0(0) + L1(0), "L0(0) + L1(0)"),
        (L1(linear(0, 2e-4, 1000)), "L1(0→0.0002 over 1000 steps)"),
        (L1(linear(0, 2e-4, 1000)).at(0) + L2(0.1), "L1(0.0) + L2(0.1)"),
        (L2(0.1) + L0(linear(0, 1, 10)), "L0(0→1 over 10 steps) + L2(0.1)"),
        (TopK(5) + L1(0.0), "TopK(5) + L1(0.0)"),
        (TopK(5), "TopK(5)"),
        (TopK(fraction=0.02, per="layer"), "TopK(fraction=0.02, per='layer')"),
        (L2(1e-4) + TopK(fraction=0.02), "TopK(fraction=0.02) + L2(0.0001)"),
        (Threshold(0.5), "Threshold(0.5)"),
        (L1Ball(2), "L1Ball(2)"),
        (L1Ball(2, per="layer"), "L1Ball(2, per='layer')"),
    ],
)
def test_repr_is_what_the_user_wrote(penalty: Penalty, text: str) -> None:
    assert repr(penalty) == str(penalty) == text


@pytest.mark.parametrize("bad", [-1, -1e-9, math.inf, math.nan])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (L0, "L0 needs a finite strength λ ≥ 0"),
        (L1, "L1 needs a finite strength λ ≥ 0"),
        (MCP, "MCP needs a finite strength λ ≥ 0"),
        (lambda bad: MCP(1.0, gamma=bad), "MCP needs a finite γ > 0"),
        (Lq, "Lq needs a finite strength λ ≥ 0"),
        (L2, "L2 needs a finite strength λ ≥ 0"),
        (Threshold, "Threshold needs a finite norm θ ≥ 0"),
        (L1Ball, "L1Ball needs a finite radius ν ≥ 0"),
        (lambda bad: TopK(fraction=bad), "TopK needs a fraction from 0 to 1"),
    ],
)
def test_impossible_numbers_are_quoted(
    make: Callable[[float], Penalty], message: str, bad: float
) -> None:
    with pytest.raises(PenaltyError) as caught:
        make(bad)
    assert str(caught.value) == f"{message}, got {bad!r}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "a count or a fraction: .* got count=None, fraction=None"),
        ({"count": 3, "fraction": 0.5}, "a count or a fraction: .* got count=3, fraction=0.5"),
        ({"count": -1}, "TopK needs a count ≥ 0, got -1"),
        ({"count": -1.0}, r"TopK needs a count ≥ 0, got -1\.0"),
        ({"count": 0.02}, r"counts whole groups, got 0\.02; .* TopK\(fraction=0\.02\)"),
        ({"count": np.float32(0.02)}, r"counts whole groups, got .*0\.02"),
        ({"count": np.float16(2.5)}, r"counts whole groups, got .*2\.5"),
        ({"count": Fraction(1, 2)}, r"counts whole groups, got Fraction\(1, 2\)"),
        ({"count": math.inf}, "TopK needs a count ≥ 0, got inf"),
        ({"count": math.nan}, "TopK needs a count ≥ 0, got nan"),
        ({"fraction": 1.5}, r"a fraction from 0 to 1, got 1\.5"),
        ({"fraction": cubic(1, -0.2, 9)}, r"a fraction from 0 to 1 at every step, got 1→-0\.2"),
        ({"fraction": linear(2, 0.1, 9)}, r"a fraction from 0 to 1, got 2→0\.1 over 9 steps"),
        ({"count": linear(9, 1, 3).then(linear(1, -1, 3))}, "a count ≥ 0 at every step, got 9→1"),
    ],
)
def test_impossible_counts_are_quoted(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(PenaltyError, match=message):
        TopK(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (TopK(5), TopK(6)),
        (TopK(5), L1Ball(1)),
        (TopK(5), Threshold(1)),
        (Threshold(1), L2(1)),
        (L2(1), Threshold(1)),
        (Threshold(1), Threshold(2)),
        (L0(1) + L1(1), L1Ball(1)),
        (L1Ball(1), L1Ball(2)),
    ],
)
def test_sums_without_a_closed_form_are_refused(one: Penalty, other: Penalty) -> None:
    with pytest.raises(PenaltyError) as caught:
        one + other
    assert str(caught.value) == (
        f"{one} + {other} has no prox in closed form; L1, L2 and NonNegative may be added to one "
        "another and to any other penalty (L1 and L2 not to Threshold), and L0 to TopK"
    )


@pytest.mark.parametrize("base", [L1(0), TopK(3)], ids=str)
def test_a_schedule_is_not_added_to_another_strength(base: Penalty) -> None:
    ramp = linear(0, 1, 10)
    for one, other in ((ramp, ramp), (ramp, 0.5), (0.5, ramp)):
        with pytest.raises(PenaltyError, match="write the sum as one schedule") as e:
            base + L0(one) + L0(other)
        assert str(e.value).startswith(f"L0({one}) + L0({other}) ")


@pytest.mark.parametrize("fused", [False, True])
def test_a_threshold_knows_no_metric(fused: bool) -> None:
    norms = torch.ones(3)
    message = (
        r"as L0 does, .* √\(2tλ/d\); got Threshold\(0\.5\), which knows no metric: use metric="
    )
    with pytest.raises(PenaltyError, match=message):
        if fused:
            Threshold(0.5).prox_([Part(norms, 1.0, norms.clone)])
        else:
            Threshold(0.5).prox(norms, 1.0, norms)
