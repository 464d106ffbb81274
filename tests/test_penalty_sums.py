"""MCP, Lq, sums with L1 and L2, signs and numbers for each group: each prox by brute force.

The objectives are written out here in NumPy; a fine grid and the prox's own answer compete.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from products import sampled
from scipy.optimize import minimize
from torch import Tensor

from lissom import L0, L1, L2, MCP, L1Ball, Lq, NonNegative, Threshold, TopK
from lissom.errors import PenaltyError
from lissom.penalties import Part, Penalty
from lissom.schedules import linear

Array = np.ndarray
Value = Callable[[Array], Array]


def mcp(x: Array, strength: float, gamma: float) -> Array:
    near = strength * x - x**2 / (2 * gamma)
    return np.where(x <= gamma * strength, near, gamma * strength**2 / 2)


CASES: dict[str, tuple[Penalty, Value]] = {
    "mcp": (MCP(0.4), lambda x: mcp(x, 0.4, 3.0)),
    "mcp, short": (MCP(0.8, gamma=0.5), lambda x: mcp(x, 0.8, 0.5)),
    "half": (Lq(0.5), lambda x: 0.5 * x**0.5),
    "two thirds": (Lq(0.5, q=2 / 3), lambda x: 0.5 * x ** (2 / 3)),
    "mcp + l2": (MCP(0.4) + L2(0.3), lambda x: mcp(x, 0.4, 3.0) + 0.3 * x**2),
    "mcp + l1 + l2": (
        L1(0.2) + MCP(0.4, 1.5) + L2(0.3),
        lambda x: mcp(x, 0.4, 1.5) + 0.2 * x + 0.3 * x**2,
    ),
    "half + l1 + l2": (Lq(0.5) + L1(0.2) + L2(0.3), lambda x: 0.5 * x**0.5 + 0.2 * x + 0.3 * x**2),
    "l0 + l1 + l2": (L0(0.3) + L1(0.2) + L2(0.3), lambda x: 0.3 * (x > 0) + 0.2 * x + 0.3 * x**2),
}
# Where √x falls to 0 the grid has to be fine.
GRID = np.concatenate([[0], np.logspace(-6, 0, 3000)])

every_case = pytest.mark.parametrize(("penalty", "value"), CASES.values(), ids=CASES.keys())
norms = st.lists(st.floats(0, 4), min_size=1, max_size=6).map(np.array)
steps = st.floats(0, 5)


def metric_for(r: Array, data: st.DataObject) -> Array | None:
    one = st.floats(0.1, 5)
    return data.draw(st.none() | st.lists(one, min_size=len(r), max_size=len(r)).map(np.array))


@sampled(4)
@every_case
@settings(deadline=None, max_examples=60)
@given(r=norms, t=steps, data=st.data())
def test_no_point_of_a_grid_is_better(
    penalty: Penalty, value: Value, r: Array, t: float, data: st.DataObject
) -> None:
    d = metric_for(r, data)
    x = penalty.prox(torch.tensor(r), t, None if d is None else torch.tensor(d)).numpy()
    weight = 1.0 if d is None else d
    least = (weight * (GRID[:, None] * r - r) ** 2 / 2 + t * value(GRID[:, None] * r)).min(axis=0)
    assert np.all(weight * (x - r) ** 2 / 2 + t * value(x) <= least + 1e-9)
    assert np.all((x >= 0) & (x <= r))


@every_case
@pytest.mark.parametrize("t", [0.3, 2.0])
def test_at_the_threshold_zero_costs_what_the_least_that_lives_does(
    penalty: Penalty, value: Value, t: float
) -> None:
    """A threshold that is off by little costs too little to be seen at random norms."""
    dead, alive = torch.tensor([[0.0], [4.0]], dtype=torch.float64)
    for _ in range(50):
        middle = (dead + alive) / 2
        lives = bool(penalty.prox(middle, t) > 0)
        dead, alive = (dead, middle) if lives else (middle, alive)
    x, r = penalty.prox(alive, t).numpy(), alive.numpy()
    assert (x - r) ** 2 / 2 + t * value(x) == pytest.approx(r**2 / 2, abs=1e-9)


@every_case
@settings(deadline=None, max_examples=30)
@given(r=norms)
def test_value_is_the_penalty(penalty: Penalty, value: Value, r: Array) -> None:
    assert penalty.value(torch.tensor(r)).item() == pytest.approx(value(r).sum(), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@every_case
def test_in_place_it_is_the_same(penalty: Penalty, value: Value, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    signed = [torch.randn(shape, generator=generator).to(dtype) for shape in ((5, 4), (7,), (0, 2))]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    metric = [torch.rand(x.shape, generator=generator).to(wide) + 0.2 for x in signed]
    for d in ([None] * 3, metric):
        expected = [
            penalty.prox(x.abs(), 0.7, m) * x.sign() for x, m in zip(signed, d, strict=True)
        ]
        values = [x.clone() for x in signed]
        penalty.prox_([
            Part(x, 0.7, None if m is None else m.clone) for x, m in zip(values, d, strict=True)
        ])  # fmt: skip
        for x, y in zip(values, expected, strict=True):
            torch.testing.assert_close(x, y)
            assert torch.equal(x == 0, y == 0)


@pytest.mark.parametrize("seed", range(6))
def test_a_ball_with_l1_and_l2_is_what_a_general_solver_finds(seed: int) -> None:
    random = np.random.default_rng(seed)
    r, d, t = random.exponential(size=6), random.uniform(0.2, 3, size=6), 0.4
    found = minimize(
        lambda x: (d * (x - r) ** 2).sum() / 2 + t * (0.3 * x.sum() + 0.5 * (x**2).sum()),
        x0=np.full(6, 0.1),
        jac=lambda x: d * (x - r) + t * (0.3 + x),
        bounds=[(0, None)] * 6,
        constraints={"type": "ineq", "fun": lambda x: 1.2 - x.sum()},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    x = (L1Ball(1.2) + L1(0.3) + L2(0.5)).prox(torch.tensor(r), t, torch.tensor(d))
    np.testing.assert_allclose(x, found.x, atol=1e-6)


BASES = [L0(0.3), L1(0.4), L2(0.5), MCP(0.4), Lq(0.3), TopK(3), L1Ball(1.5), TopK(3) + L2(0.5)]


@sampled(10)
@pytest.mark.parametrize("base", [*BASES, L0(0.3) + L1(0.2) + L2(0.5), Threshold(0.5)], ids=str)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("adaptive", [False, True])
def test_without_negative_weights(base: Penalty, fused: bool, adaptive: bool) -> None:
    """At x < 0 the cost is ∞; at x ≥ 0 that of the base, which is best at the positive weights."""
    if adaptive and not base.has_metric:
        return
    penalty = base + NonNegative()
    generator = torch.Generator().manual_seed(2)
    w = torch.randn(12, generator=generator, dtype=torch.float64)
    d = torch.rand(12, generator=generator, dtype=torch.float64) + 0.3 if adaptive else None
    x = penalty.prox(w, 0.6, d)
    if fused:
        parts = [Part(w.clone(), 0.6, None if d is None else d.clone)]
        penalty.prox_(parts)
        torch.testing.assert_close(parts[0].values, x)
    weight = torch.ones_like(w) if d is None else d

    def cost(y: Tensor) -> float:
        t = 1 if isinstance(base, Threshold) else 0.6
        return float((weight * (y - w).square()).sum() / 2 + t * penalty.value(y))

    assert x.count_nonzero() > 0 or base == L2(0.5)
    assert cost(x) < float("inf") == cost(w)
    for _ in range(300):
        y = x + torch.randn(12, generator=generator, dtype=torch.float64) * 0.3
        kept = torch.rand(12, generator=generator) < 0.7
        assert cost(x) <= cost(y.clamp(min=0) * kept) + 1e-9
    assert repr(penalty) == f"{base} + NonNegative()"


def test_signs_alone() -> None:
    w = torch.tensor([-1.0, 0.0, 2.0])
    assert NonNegative().prox(w).tolist() == [0, 0, 2]
    part = Part(w.clone(), 1.0)
    NonNegative().prox_([part])
    assert part.values.tolist() == [0, 0, 2]
    assert NonNegative().value(w) == torch.inf and NonNegative().value(w.clamp(min=0)) == 0
    assert NonNegative() + NonNegative() == NonNegative()


SEPARABLE: dict[str, Callable[[float | Tensor], Penalty]] = {
    "l0": L0,
    "l1": L1,
    "l2": L2,
    "mcp": MCP,
    "half": Lq,
    "l0 + l1 + l2": lambda s: L0(s) + L1(0.5 * s) + L2(0.1) + L2(s),
    "mcp + l2": lambda s: MCP(s) + L2(0.5),
}


@pytest.mark.parametrize("make", SEPARABLE.values(), ids=SEPARABLE.keys())
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_number_for_each_group(make: Callable[..., Penalty], adaptive: bool) -> None:
    """Is the penalty with each number, at its group; some of them 0, where d may be 0 too."""
    r = torch.tensor([0.0, 0.2, 0.6, 1.1, 1.7, 2.5, 1.0, 1.0], dtype=torch.float64)
    strengths = torch.tensor([0.1, 0.0, 0.3, 0.5, 2.0, 0.0, 0.2, 0.0], dtype=torch.float64)
    d = torch.linspace(0.3, 2, 8, dtype=torch.float64) if adaptive else None
    if d is not None:
        d[1] = 0
    expected = torch.stack([
        make(float(s)).prox(r[i], 0.7, None if d is None else d[i]) for i, s in enumerate(strengths)
    ])  # fmt: skip
    penalty = make(strengths)
    torch.testing.assert_close(penalty.prox(r, 0.7, d), expected)
    part = Part(-r, 0.7, None if d is None else d.clone)
    penalty.prox_([part])
    torch.testing.assert_close(part.values, -expected)
    value = sum(make(float(s)).value(r[i]) for i, s in enumerate(strengths))
    torch.testing.assert_close(penalty.value(r), value)


def test_tensors_of_blocks_add_up_and_print() -> None:
    lists = [torch.ones(2), torch.full((3,), 2.0)]
    one = L1(torch.ones(2)) + L1([torch.ones(2)])
    assert torch.equal(one.of(0).strength, torch.full((2,), 2.0))  # type: ignore[attr-defined]
    total = L1(lists) + L1(0.5)
    assert torch.equal(total.of(1).strength, torch.full((3,), 2.5))  # type: ignore[attr-defined]
    both = L1(lists) + L1([torch.ones(2), torch.ones(3)])
    assert torch.equal(both.of(0).strength, torch.full((2,), 2.0))  # type: ignore[attr-defined]
    assert repr(L0(0.1) + L1(lists)) == "L0(0.1) + L1([tensor[2], tensor[3]])"
    with pytest.raises(PenaltyError, match="write the sum as one schedule"):
        L1(lists) + L1(linear(0, 1, 5))
    with pytest.raises(PenaltyError, match=r"take penalty\.of\(i\) for the block"):
        L1(lists).prox(torch.ones(2))


@pytest.mark.parametrize("bad", [-1.0, torch.nan, torch.inf])
def test_impossible_numbers_for_groups_are_refused(bad: float) -> None:
    tensors = [torch.ones(2), torch.tensor([0.0, bad])]
    with pytest.raises(PenaltyError, match=r"L1 needs .* tensor 2 of 2, of shape \[2\], has negat"):
        L1(tensors)


@pytest.mark.parametrize("bad", [-1, "a", None, True, [], [0.1], {}])
def test_strengths_are_numbers(bad: object) -> None:
    with pytest.raises(PenaltyError, match="L1 needs a finite strength λ ≥ 0, got"):
        L1(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("q", [0.4, 0.0, 1.0, -1, "half"])
def test_other_powers_are_refused(q: object) -> None:
    with pytest.raises(PenaltyError, match=r"Lq .*q = 0\.5 .* q = 2/3, got"):
        Lq(1.0, q)  # type: ignore[arg-type]


def test_no_curve_at_all_is_refused() -> None:
    with pytest.raises(PenaltyError, match="MCP needs a finite γ > 0, got 0"):
        MCP(1.0, gamma=0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (MCP(1), MCP(1)),
        (MCP(1), L0(1)),
        (MCP(1), TopK(3)),
        (Lq(1), L1Ball(1)),
        (L1Ball(1), L0(1)),
        (TopK(3), L0(torch.ones(4))),
        (TopK(3) + L0(1), MCP(1)),
    ],
)
def test_sums_that_are_refused(one: Penalty, other: Penalty) -> None:
    for pair in ((one, other), (other, one)):
        with pytest.raises(PenaltyError, match=r"has no prox in closed form; L1, L2 and NonNegat"):
            pair[0] + pair[1]


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize(
    "other", [None, L0(0.3), MCP(0.3), TopK(4, per="block"), L1Ball(9.0)], ids=str
)
def test_no_step_moves_nothing_also_where_the_metric_is_0(other: Any, tensors: bool) -> None:
    strength = torch.full((4,), 0.2) if tensors else 0.2
    small = torch.tensor([1.0, -1e-25, 0.0, 2.0])
    d = torch.tensor([0.0, 1.0, 0.0, 1e-8])
    for term in (L1(strength), L2(strength), L1(strength) + L2(strength), L0(strength)):
        if other is not None and isinstance(term, L0):
            continue
        penalty = term if other is None else term + other
        torch.testing.assert_close(penalty.prox(small.abs(), 0.0, d), small.abs(), rtol=0, atol=0)
        values = small.clone()
        penalty.prox_([Part(values, 0.0, d.clone)])
        assert torch.equal(values, small), penalty


@pytest.mark.parametrize(
    "penalty", [MCP(0.4), Lq(0.4), TopK(3) + L0(0.1) + L2(0.4), L1Ball(1.0) + L2(0.4)], ids=str
)
def test_a_step_has_the_digits_of_the_weights(penalty: Penalty) -> None:
    norms = torch.linspace(0, 2, 9, dtype=torch.float64)
    values = norms.clone()
    penalty.prox_([Part(values, 0.1)])
    exact = penalty.prox(norms, torch.full_like(norms, 0.1))
    torch.testing.assert_close(values, exact, rtol=1e-13, atol=1e-15)


def test_every_number_of_mcp_may_be_a_schedule_and_q_none() -> None:
    penalty = MCP(linear(0, 0.4, 4), gamma=linear(1, 3, 4))
    norms = torch.linspace(0, 2, 9)
    assert torch.equal(penalty.at(4).prox(norms), MCP(0.4, gamma=3.0).prox(norms))
    with pytest.raises(PenaltyError, match="follows a schedule"):
        MCP(0.4, gamma=linear(1, 3, 4)).prox(norms)
    with pytest.raises(PenaltyError, match=r"closed form for q = 0\.5 and q = 2/3, got 0→1"):
        Lq(0.4, q=linear(0, 1, 4))  # type: ignore[arg-type]
