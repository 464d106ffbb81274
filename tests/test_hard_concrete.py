"""The hard-concrete law against draws, quadrature, finite differences and the paper's formulas."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from products import sampled
from torch import Tensor

from lissom import hard_concrete
from lissom.errors import LissomError
from lissom.hard_concrete import TEST_GATES, HardConcrete, logistic

LAWS = [
    HardConcrete(),
    HardConcrete(beta=0.5, gamma=-0.05, zeta=1.5),
    HardConcrete(beta=1.0, gamma=-1.0, zeta=2.0),
    HardConcrete(beta=0.1, gamma=-0.1, zeta=1.01),
]
LOG_ALPHA = (-6.0, -3.0, -1.0, -0.3, 0.0, 0.5, 2.0, 4.0, 6.0)
GRID = torch.tensor(LOG_ALPHA, dtype=torch.float64)
DRAWS = 1_000_000
SIGMAS = 5.5  # of 36 cases with some 200 comparisons, one in 100 000 runs would fail by chance

each_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: f"{law.beta:.2g}")


def by_hand(u: Tensor, log_alpha: float, law: HardConcrete) -> Tensor:
    """Eq. 10–11, in the paper's letters."""
    s = 1 / (1 + torch.exp(-(torch.log(u) - torch.log(1 - u) + log_alpha) / law.beta))
    return torch.minimum(
        torch.ones(()), torch.maximum(torch.zeros(()), s * (law.zeta - law.gamma) + law.gamma)
    )


def drawn(log_alpha: float, law: HardConcrete) -> Tensor:
    generator = torch.Generator().manual_seed(int(100 * log_alpha) + 1000)
    at = torch.full((DRAWS,), log_alpha)
    return law.sample(at, logistic(at, generator))


def near(count: float, p: float, of: int = DRAWS) -> bool:
    """Whether a binomial count is likely."""
    return abs(count - p * of) <= SIGMAS * math.sqrt(p * (1 - p) * of) + 3


@sampled(12)
@pytest.mark.parametrize("log_alpha", LOG_ALPHA)
@each_law
def test_a_million_draws(law: HardConcrete, log_alpha: float) -> None:
    """Atoms, mean and, by Kolmogorov and Smirnov, the whole law."""
    z = drawn(log_alpha, law)
    at = torch.tensor(log_alpha, dtype=torch.float64)
    assert z.min() >= 0 and z.max() <= 1
    p, one = float(law.p_nonzero(at)), float(law.p_one(at))
    assert near(int((z != 0).sum()), p) and near(int((z == 1).sum()), one)
    assert near(int((z <= 0.5).sum()), float(law.cdf(0.5, at)))
    error = float(z.double().std()) / math.sqrt(DRAWS)
    assert abs(float(z.double().mean()) - float(law.mean(at))) <= SIGMAS * error + 1e-6
    inside = z[(z > 0) & (z < 1)].double().sort().values
    if len(inside) < 100:
        return
    below = (law.cdf(inside, at) - (1 - p)) / (p - one)  # given that it is inside
    steps = torch.arange(len(inside) + 1, dtype=torch.float64) / len(inside)
    distance = torch.maximum((below - steps[:-1]).abs().max(), (below - steps[1:]).abs().max())
    assert distance <= 2.7 / math.sqrt(len(inside))  # P < 1e-6


@each_law
def test_draws_are_the_papers(law: HardConcrete) -> None:
    u = torch.rand(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for log_alpha in LOG_ALPHA:
        expected = by_hand(u, log_alpha, law)
        at = torch.full_like(u, log_alpha)
        torch.testing.assert_close(law.sample(at, torch.logit(u)), expected)
        torch.testing.assert_close(law.quantile(u, at), expected)


def test_the_default_is_the_papers() -> None:
    law = HardConcrete()
    assert (law.beta, law.gamma, law.zeta) == (2 / 3, -0.1, 1.1)
    p = law.p_nonzero(torch.zeros((), dtype=torch.float64))
    assert float(p) == pytest.approx(1 / (1 + (0.1 / 1.1) ** (2 / 3)), abs=1e-12)


@each_law
def test_atoms_in_closed_form(law: HardConcrete) -> None:
    """z = 0 where s ≤ −γ/(ζ − γ), z = 1 where s ≥ (1 − γ)/(ζ − γ)."""

    def above(s: float) -> Tensor:
        return torch.sigmoid(GRID - law.beta * math.log(s / (1 - s)))

    width = law.zeta - law.gamma
    torch.testing.assert_close(law.p_nonzero(GRID), above(-law.gamma / width))
    torch.testing.assert_close(law.p_one(GRID), above((1 - law.gamma) / width))


@each_law
def test_cdf_at_its_ends(law: HardConcrete) -> None:
    assert not law.cdf(-1e-9, GRID).any()
    torch.testing.assert_close(law.cdf(0.0, GRID), 1 - law.p_nonzero(GRID))
    torch.testing.assert_close(law.cdf(1 - 1e-12, GRID), 1 - law.p_one(GRID))
    assert (law.cdf(1.0, GRID) == 1).all() and (law.cdf(7.0, GRID) == 1).all()
    x = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert (law.cdf(x[:, None], GRID).diff(dim=0) >= 0).all()


@each_law
def test_quantile_is_the_inverse_of_cdf(law: HardConcrete) -> None:
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)[:, None]
    z = law.quantile(u, GRID)
    inside = (z > 0) & (z < 1)
    assert inside.any()
    at = law.cdf(z, GRID)
    torch.testing.assert_close(at[inside], u.expand_as(z)[inside], rtol=0, atol=1e-9)
    assert (at >= u - 1e-12).all()  # the smallest z with P(≤ z) ≥ u
    assert ((law.cdf(z - 1e-6, GRID) < u) | (z == 0)).all()


@each_law
def test_mean_by_quadrature(law: HardConcrete) -> None:
    u = (torch.arange(200_000, dtype=torch.float64)[:, None] + 0.5) / 200_000
    torch.testing.assert_close(
        law.mean(GRID), law.quantile(u, GRID).mean(0), rtol=0, atol=3e-6
    )  # midpoints
    assert (law.mean(GRID) > 0).all() and (law.mean(GRID) < 1).all()


@each_law
def test_deterministic_gates_are_what_they_say(law: HardConcrete) -> None:
    for log_alpha in LOG_ALPHA:
        at = torch.tensor([log_alpha], dtype=torch.float64)
        z = drawn(log_alpha, law).double()
        median = float(law.median(at))
        assert near(max(int((z < median).sum()), DRAWS // 2), 0.5)
        assert near(min(int((z <= median).sum()), DRAWS // 2), 0.5)
        zeros, ones = int((z == 0).sum()), int((z == 1).sum())
        if abs(zeros - ones) > 10 * DRAWS**0.5:
            assert float(law.mode(at)) == (ones > zeros)
        sigma = 1 / (1 + math.exp(-log_alpha))  # eq. 13
        eq13 = min(1.0, max(0.0, sigma * (law.zeta - law.gamma) + law.gamma))
        assert float(law.published(at)) == pytest.approx(eq13, abs=1e-12)
    for kind in TEST_GATES:
        assert torch.equal(law.test_gate(GRID, kind), getattr(law, kind)(GRID))


def test_where_deterministic_gates_close() -> None:
    """At P(z ≠ 0) of ½ and, as the docstring says, 0.31."""
    law = HardConcrete()
    fine = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    p = law.p_nonzero(fine)
    assert float(p[law.median(fine) == 0].max()) == pytest.approx(0.5, abs=1e-4)
    assert float(p[law.published(fine) == 0].max()) == pytest.approx(0.31, abs=5e-3)
    assert float(law.mean(fine).min()) > 0


@each_law
def test_gradients_against_finite_differences(law: HardConcrete) -> None:
    at = GRID.clone().requires_grad_()
    for of in (law.p_nonzero, law.p_one, law.mean):
        assert torch.autograd.gradcheck(of, (at,))
    inside = GRID.clamp(-1, 1).requires_grad_()
    noise = torch.logit(torch.linspace(0.3, 0.7, len(GRID), dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda x: law.cdf(0.3, x), (inside,))
    assert torch.autograd.gradcheck(lambda x: law.sample(x, noise), (inside,))


@pytest.mark.parametrize("log_alpha", [-3.0, -0.5, 0.0, 1.0, 3.0])
@each_law
def test_the_reparametrised_gradient(law: HardConcrete, log_alpha: float) -> None:
    """d/dlog α of E[f(z)] for a bent f.

    By quadrature f(0) + ∫ f'(x) P(z > x) dx, whose derivative is ∫ f'(x) dP(z > x)/dlog α dx; and
    by finite differences of the mean over the same noise.
    """

    def f(z: Tensor) -> Tensor:
        return torch.sin(2 * z) + (z - 0.3).square()

    n = 100_000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n  # stratified
    noise = torch.logit(u)

    def expectation(at: Tensor) -> Tensor:
        return f(law.sample(at.expand(n), noise)).mean()

    at = torch.tensor(log_alpha, dtype=torch.float64, requires_grad=True)
    [found] = torch.autograd.grad(expectation(at), at)

    x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    slope = 2 * torch.cos(2 * x) + 2 * (x - 0.3)
    below = law.cdf(x, at.detach())
    assert float(found) == pytest.approx(float((slope * below * (1 - below)).mean()), abs=2e-4)

    h = 1e-3
    with torch.no_grad():
        difference = (expectation(at + h) - expectation(at - h)) / (2 * h)
    assert float(found) == pytest.approx(float(difference), abs=2e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@each_law
def test_lower_precision(law: HardConcrete, dtype: torch.dtype) -> None:
    """The same as in float64 within the precision of the answer; all gradients finite."""
    grid = torch.cat([torch.linspace(-60, 60, 1201), torch.linspace(-0.05, 0.05, 101)])
    narrow = grid.to(dtype).requires_grad_()
    wide = narrow.detach().double()
    noise = torch.logit(torch.linspace(0.01, 0.99, len(grid), dtype=torch.float64))
    cases = {
        "sample": (law.sample(narrow, noise.float()), law.sample(wide, noise.float().double())),
        "cdf": (law.cdf(0.3, narrow), law.cdf(0.3, wide)),
        "quantile": (law.quantile(0.7, narrow), law.quantile(0.7, wide)),
    }
    for kind in ("p_nonzero", "p_one", "mean", "median", "mode", "published"):
        cases[kind] = getattr(law, kind)(narrow), getattr(law, kind)(wide)
    # float32 rounds log α/β, up to 600 here, and with it z
    eps = max(torch.finfo(dtype).eps, 60 / law.beta * torch.finfo(torch.float32).eps)
    tie = (law.p_one(wide) + law.p_nonzero(wide) - 1).abs() < 1e-6
    for name, (found, expected) in cases.items():
        assert found.dtype == dtype, name
        if name == "mode":  # away from the tie
            expected[tie], found = 0, found.detach().masked_fill(tie, 0)
        torch.testing.assert_close(found.double(), expected, rtol=eps, atol=eps, msg=name)
        assert found.isfinite().all() and found.min() >= 0 and found.max() <= 1
        if name != "mode":
            [gradient] = torch.autograd.grad(found.sum(), narrow)
            assert gradient.isfinite().all(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_law
def test_extreme_noise(law: HardConcrete, dtype: torch.dtype) -> None:
    """u = 0, the largest u below 1, and infinite noise: the ends, and a gradient of 0."""
    below_one = 1 - torch.finfo(dtype).eps / 2
    for log_alpha in (-10.0, 0.0, 10.0):
        at = torch.tensor(log_alpha, dtype=dtype, requires_grad=True)
        for u, end in ((0.0, 0), (1.0, 1)):
            for z in (law.quantile(u, at), law.sample(at, torch.logit(torch.tensor(u)))):
                [gradient] = torch.autograd.grad(z, at)
                assert z.item() == end and gradient.item() == 0
        [gradient] = torch.autograd.grad(law.quantile(below_one, at), at)
        assert gradient.isfinite()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_noise_is_logistic_finite_and_wide(dtype: torch.dtype) -> None:
    like = torch.zeros(1_000_000, dtype=dtype)
    noise = logistic(like, torch.Generator().manual_seed(0))
    assert noise.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert noise.isfinite().all() and noise.unique().numel() > 900_000
    assert abs(float(noise.mean())) < 0.01
    assert float(noise.var()) == pytest.approx(math.pi**2 / 3, rel=0.01)
    again = logistic(like, torch.Generator().manual_seed(0))
    assert torch.equal(noise, again)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_where_the_generator_gives_zero(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    ends = torch.tensor([0.0, 1 - torch.finfo(dtype).eps / 2], dtype=dtype)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: ends.clone())
    noise = logistic(torch.zeros(2, dtype=dtype))
    assert noise.isfinite().all() and noise[0] < -80 and noise[1] > 15


def test_noise_where_many_numbers_have_the_ends_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits that stand for the smallest u and for the largest."""
    bits = np.full(hard_concrete.MANY // 2, 0x7FFFFFFF_80000000, dtype=np.uint64)

    class Ends:
        def __init__(self, seed: int) -> None: ...
        def random_raw(self, n: int) -> Any:
            return bits[:n]

    monkeypatch.setattr(np.random, "SFC64", Ends)
    noise = logistic(torch.zeros(hard_concrete.MANY))
    assert noise.isfinite().all() and noise.unique().numel() == 2
    assert float(noise.min()) == pytest.approx(-16.6, abs=0.1)
    assert float(noise.max()) == pytest.approx(16.6, abs=0.1)


def test_without_noise_it_draws_from_the_global_generator() -> None:
    at = torch.zeros(100)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(HardConcrete().sample(at))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 4)])
def test_shapes(shape: tuple[int, ...]) -> None:
    at = torch.zeros(shape, dtype=torch.float64)
    law = HardConcrete()
    for z in (law.sample(at), law.mean(at), law.mode(at), law.cdf(0.5, at), law.quantile(0.5, at)):
        assert z.shape == at.shape and z.dtype == at.dtype


@pytest.mark.parametrize(
    "bad",
    [
        {"beta": 0.0},
        {"beta": -1.0},
        {"gamma": 0.0},
        {"gamma": 0.1},
        {"zeta": 1.0},
        {"zeta": 0.5},
        {"beta": math.nan},
        {"gamma": math.nan},
        {"zeta": math.nan},
        {"beta": math.inf},
        {"gamma": -math.inf},
        {"zeta": math.inf},
    ],
    ids=str,
)
def test_impossible_parameters(bad: dict[str, float]) -> None:
    [(name, value)] = bad.items()
    with pytest.raises(LissomError, match=f"{name}={value!r}"):
        HardConcrete(**bad)
