"""C steps: the nearest compressed weights, held against all there are, or an independent solver."""

import math
from itertools import combinations, pairwise, product

import numpy as np
import pytest
import torch
from devices import DEVICES
from hypothesis import given, settings
from hypothesis import strategies as st
from products import exhaustive, sampled
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor, nn

import lissom
from lissom import L0, L1, L2, L1Ball, TopK
from lissom.compressions import Compression, kmeans
from lissom.compressions.compressions import Additive, bound, compress, distance
from lissom.compressions.forms import Dense, Factors, Form, Quantized, form_of
from lissom.compressions.low_rank import LowRank, RankSelection
from lissom.compressions.quantization import (
    Binary,
    Codebook,
    ScaledBinary,
    ScaledTernary,
    index_dtype,
)
from lissom.errors import CompressionError
from lissom.models import lenet300

QUANTIZERS = (Codebook(1), Codebook(2), Codebook(5), Binary(), ScaledBinary(), ScaledTernary())
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

generator = torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def the_same_draws() -> None:
    """Whichever tests ran before."""
    generator.manual_seed(0)


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def error(compression: Compression, w: Tensor, d: Tensor | None = None, mu: float = 1.0) -> float:
    """Σ d (w − Δ(Θ))², after a look at what came."""
    [form] = compress(compression, [w], mu, None if d is None else [d])
    assert form.value().dtype == w.dtype
    return distance([w], [form.value()], None if d is None else [d]) ** 2


def scatter(x: np.ndarray, d: np.ndarray) -> float:
    """Σ d (x − mean)²: the least that one value costs."""
    if d.sum() == 0:
        return 0.0
    return float((d * (x - (d * x).sum() / d.sum()) ** 2).sum())


def all_partitions(x: np.ndarray, d: np.ndarray, k: int) -> float:
    """The least error of k values, over every way to cut the sorted numbers."""
    order = x.argsort()
    x, d, n = x[order], d[order], len(x)
    return min(
        sum(scatter(x[a:b], d[a:b]) for a, b in zip((0, *cuts), (*cuts, n), strict=True))
        for cuts in combinations(range(1, n), min(k, n) - 1)
    )


numbers = st.one_of(
    st.lists(st.floats(-5, 5), min_size=1, max_size=11),
    st.lists(st.integers(-2, 2).map(float), min_size=1, max_size=11),
    st.lists(st.floats(999, 1001), min_size=1, max_size=11),
)
heaviness = st.one_of(st.just(0.0), st.floats(0.01, 10), st.just(1.0))


@st.composite
def weighted(draw: st.DrawFn) -> tuple[Tensor, Tensor | None]:
    x = draw(numbers)
    d = draw(st.none() | st.lists(heaviness, min_size=len(x), max_size=len(x)))
    return torch.tensor(x).double(), None if d is None else torch.tensor(d).double()


@exhaustive
@settings(deadline=None, max_examples=150)
@given(weighted(), st.integers(1, 5))
def test_a_small_codebook_is_the_best_of_all(numbers, k):
    x, d = numbers
    plain = np.ones(len(x)) if d is None or not d.any() else d.numpy()
    found = error(Codebook(k), x, torch.from_numpy(plain))
    scale = float((plain * (x - x.mean()).numpy() ** 2).sum())
    assert found <= all_partitions(x.numpy(), plain, k) + 1e-12 * scale
    given_d = error(Codebook(k), x, d)
    assert d is None or not d.any() or given_d == found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("k", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("weighted", [False, True])
def test_both_ways_to_a_codebook_agree(monkeypatch, device, k, weighted):
    """Cells and Lloyd's algorithm against exact cuts, with many equal numbers."""
    x = torch.cat([normal(3000), torch.zeros(1000), normal(500).round()]).to(device)
    d = torch.rand(len(x), generator=generator, dtype=torch.float64).to(device)
    d = d * (d > 0.1) if weighted else None
    exact = error(Codebook(k), x, d)
    monkeypatch.setattr(kmeans, "MOST", 1024)
    near = error(Codebook(k), x, d)
    assert exact * (1 - 1e-12) <= near <= exact * (1 + 1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_single_precision_sorts_as_double_does(device):
    w, d = normal(3000, dtype=torch.float32), torch.rand(3000, generator=generator)
    w[:3] = torch.tensor([0.0, -0.0, 1e-40])
    for k in (2, 4):
        wide = error(Codebook(k), w.double(), d.double())
        single = error(Codebook(k), w.to(device), d.to(device))
        assert single == pytest.approx(wide, rel=1e-5)


def plus_plus(x: np.ndarray, k: int, rng: np.random.Generator) -> float:
    """The error of Lloyd's algorithm from seeds that k-means++ draws."""
    centers = rng.choice(x, 1)
    for _ in range(k - 1):
        chances = ((x[:, None] - centers) ** 2).min(1)
        centers = np.append(centers, rng.choice(x, p=chances / chances.sum()))
    nearest = np.zeros(0)
    for _ in range(200):
        before, nearest = nearest, np.abs(x[:, None] - np.sort(centers)).argmin(1)
        if np.array_equal(before, nearest):
            break
        centers = np.array([x[nearest == j].mean() for j in range(k) if (nearest == j).any()])
    return sum(scatter(x[nearest == j], np.ones((nearest == j).sum())) for j in range(k))


@sampled(1)
@pytest.mark.parametrize("k", [3, 8, 16])
def test_a_large_codebook_beats_twenty_random_starts(k):
    x = normal(6000)
    assert len(x) > kmeans.MOST
    rng = np.random.default_rng(0)
    best = min(plus_plus(x.numpy(), k, rng) for _ in range(20))
    assert error(Codebook(k), x) <= best * (1 + 1e-9)


def test_few_different_weights_are_kept_exactly():
    values = normal(5)
    w = values[torch.randint(5, (100_000,), generator=generator)].view(100, 1000)
    [form] = compress(Codebook(5), [w], 1.0, None)
    assert torch.equal(form.value(), w)
    assert isinstance(form, Quantized) and form.indices.dtype == torch.uint8
    [form] = compress(Codebook(300), [w], 1.0, None)
    assert torch.equal(form.value(), w) and len(form.codebook) == 5


def test_indices_are_as_small_as_they_can_be():
    w = normal(1000)
    for k, dtype in ((2, torch.uint8), (256, torch.uint8), (257, torch.int16)):
        [form] = compress(Codebook(k), [w], 1.0, None)
        assert isinstance(form, Quantized) and form.indices.dtype == dtype
        assert len(form.codebook) == k
    assert index_dtype(2**15) == torch.int16
    assert index_dtype(2**15 + 1) == torch.int32


def test_a_codebook_is_joint_or_of_each_layer():
    w = [normal(40, 3) - 5, normal(7) + 5]
    joint = compress(Codebook(2), w, 1.0, None)
    assert torch.equal(joint[0].codebook, joint[1].codebook)
    assert float(joint[0].codebook[0]) == pytest.approx(float(w[0].mean()))
    alone = compress(Codebook(2, per="layer"), w, 1.0, None)
    for x, form in zip(w, alone, strict=True):
        assert distance([x], [form.value()]) ** 2 == pytest.approx(error(Codebook(2), x))


def grid(w: Tensor, d: Tensor, allowed: list[list[float]]) -> float:
    """The least Σ d (w − c·s)² over s from `allowed` and c ≥ 0, by trying every s."""
    best = math.inf
    for signs in product(*allowed):
        s = torch.tensor(signs, dtype=torch.float64)
        weight = float((d * s * s).sum())
        c = max(0.0, float((d * s * w).sum()) / weight) if weight else 0.0
        best = min(best, float((d * (w - c * s) ** 2).sum()))
    return best


@exhaustive
@settings(deadline=None, max_examples=60)
@given(weighted())
def test_scaled_values_are_the_best_of_all(numbers):
    w, d = (None if x is None else x[:6] for x in numbers)
    plain = torch.ones_like(w) if d is None else d
    for compression, signs in ((ScaledBinary(), [-1.0, 1.0]), (ScaledTernary(), [-1.0, 0.0, 1.0])):
        best = grid(w, plain, [signs] * len(w))
        assert error(compression, w, d) * (d is None or bool(d.any())) == pytest.approx(
            best, abs=1e-9 * float((plain * w * w).sum()) + 1e-300
        )


@pytest.mark.parametrize("weighted", [False, True])
def test_scales_of_many_weights(weighted):
    w = normal(5000)
    d = torch.rand(5000, generator=generator, dtype=torch.float64) if weighted else None
    plain = torch.ones_like(w) if d is None else d

    def binary(c: float) -> float:
        return float((plain * (w - c * w.sign()) ** 2).sum())

    def ternary(c: float) -> float:
        return float((plain * torch.minimum(w.abs(), (w.abs() - c).abs()) ** 2).sum())

    for compression, loss in ((ScaledBinary(), binary), (ScaledTernary(), ternary)):
        best = min(minimize_scalar(loss, (c, c + 0.1)).fun for c in (0.5, 1.0, 1.5))
        assert error(compression, w, d) == pytest.approx(best, rel=1e-6)
        assert error(compression, w, d) <= best * (1 + 1e-12)


def test_signs():
    w = torch.tensor([[-2.0, -0.0, 0.0, 3.0]])
    [form] = compress(Binary(), [w], 1.0, None)
    assert form.value().tolist() == [[-1, 1, 1, 1]]
    [form] = compress(ScaledBinary(), [w], 1.0, None)
    assert form.value().tolist() == [[-1.25, 1.25, 1.25, 1.25]]
    [form] = compress(ScaledTernary(), [w], 1.0, None)
    assert form.value().tolist() == [[-2.5, 0, 0, 2.5]]


@pytest.mark.parametrize("compression", QUANTIZERS, ids=repr)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_quantizers_on_odd_weights(compression, dtype):
    for w in (torch.zeros(3, 2), torch.full((4,), -1.5), torch.ones(1), torch.empty(0, 3)):
        w = w.to(dtype)
        for d in (None, torch.zeros_like(w), torch.ones_like(w)):
            [form] = compress(compression, [w], 1.0, None if d is None else [d])
            value = form.value()
            assert value.dtype == dtype and value.shape == w.shape
            if not isinstance(compression, Binary):
                assert torch.equal(value, w)
    wide = normal(1000)
    w = wide.to(dtype)
    [form] = compress(compression, [w], 1.0, None)
    [exact] = compress(compression, [w.double()], 1.0, None)
    torch.testing.assert_close(form.value(), exact.value().to(dtype))


@pytest.mark.parametrize("compression", [*QUANTIZERS, LowRank(1), RankSelection(1.0)], ids=repr)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_diverged_network_is_refused(compression, bad):
    w = normal(4, 5)
    w[1, 2] = bad
    with pytest.raises(CompressionError, match=r"1 NaN or infinite .* of shape \[4, 5\]"):
        compress(compression, [w], 1.0, None)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_a_metric_that_is_none_is_refused(bad):
    with pytest.raises(CompressionError, match="metric d ≥ 0"):
        compress(Codebook(2), [normal(3)], 1.0, [torch.tensor([1.0, bad, 1.0])])
    with pytest.raises(CompressionError, match="shapes"):
        compress(Codebook(2), [normal(3)], 1.0, [torch.ones(2)])


def test_compressions_print_and_compare():
    assert repr(Codebook(2, per="layer")) == "Codebook(2, per='layer')"
    assert repr(ScaledTernary()) == "ScaledTernary()"
    assert repr(Binary()) == "Binary()"
    assert repr(LowRank(4)) == "LowRank(4)"
    assert repr(RankSelection(0.5, cost=4)) == "RankSelection(0.5, cost=4)"
    assert repr(TopK(5) + Codebook(2)) == "TopK(5) + Codebook(2)"
    assert Codebook(2) == Codebook(2) != Codebook(3)
    assert len({ScaledBinary(), ScaledBinary(), Binary()}) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: Codebook(0),
        lambda: Codebook(2.0),
        lambda: Codebook(True),
        lambda: LowRank(0),
        lambda: LowRank(1.5),
        lambda: RankSelection(-1),
        lambda: RankSelection(math.nan),
        lambda: RankSelection(1, cost="macs"),
    ],
)
def test_impossible_compressions_are_refused(make):
    with pytest.raises(CompressionError, match="got"):
        make()


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (4, 3, 3, 3)])
def test_low_rank_is_the_truncated_svd(shape):
    w = normal(*shape)
    matrix = w.flatten(1).numpy()
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    for rank in range(1, len(s) + 2):
        [form] = compress(LowRank(rank), [w], 1.0, None)
        expected = (u[:, :rank] * s[:rank]) @ v[:rank]
        np.testing.assert_allclose(form.value().flatten(1), expected, atol=1e-12)
        if rank < len(s):
            assert isinstance(form, Factors) and form.u.shape == (shape[0], rank)
            torch.testing.assert_close(form.u.square().sum(0), form.v.square().sum(1))
        else:
            assert torch.equal(form.value(), w)


@settings(deadline=None, max_examples=40)
@given(st.floats(0, 3), st.floats(0.01, 100), st.floats(0.1, 3))
def test_the_selected_rank_is_the_best_of_all(alpha, mu, cost):
    w = normal(5, 8)
    s2 = np.linalg.svd(w.numpy(), compute_uv=False) ** 2
    objective = [alpha * cost * r * 13 + mu / 2 * s2[r:].sum() for r in range(6)]
    [form] = compress(RankSelection(alpha, cost), [w], mu, None)
    rank = form.u.shape[1] if isinstance(form, Factors) else 5
    assert objective[rank] <= min(objective) + 1e-12
    found = alpha * cost * rank * 13 + mu / 2 * distance([w], [form.value()]) ** 2
    assert found == pytest.approx(objective[rank])


def test_rank_zero_is_zero_and_free_ranks_are_all_kept():
    w = normal(5, 8)
    [form] = compress(RankSelection(1e9), [w], 1.0, None)
    assert isinstance(form, Factors) and form.u.shape == (5, 0) and not form.value().any()
    assert form.bits() == 0
    [form] = compress(RankSelection(0), [w], 1.0, None)
    assert torch.equal(form.value(), w)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_low_rank_keeps_the_dtype(dtype):
    w = normal(8, 2).to(dtype) @ normal(2, 8).to(dtype)
    [form] = compress(LowRank(2), [w], 1.0, None)
    torch.testing.assert_close(form.value(), w, rtol=0.05, atol=0.05)


def test_low_rank_refuses_vectors_and_metrics():
    with pytest.raises(CompressionError, match=r"shape \[3\]"):
        compress(LowRank(1), [normal(3)], 1.0, None)
    with pytest.raises(CompressionError, match="euclidean"):
        LowRank(1).project([normal(3, 3)], 1.0, [torch.ones(3, 3)])


class Toy(nn.Module):
    """A few weights in two tensors."""

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__()
        self.weights = nn.ParameterList(tensors)


def by_penalty(penalty, *tensors: Tensor, mu: float, metric=None) -> Tensor:
    """The C step of a penalty on all weights, as one vector; the weights stay as they were."""
    toy = Toy(*tensors)
    before = [p.detach().clone() for p in toy.weights]
    with torch.no_grad():
        forms = compress(
            bound(penalty, lissom.weights(toy)), [p.detach() for p in toy.weights], mu, metric
        )
    assert all(torch.equal(p, x) for p, x in zip(toy.weights, before, strict=True))
    return torch.cat([form.value().flatten() for form in forms])


@pytest.mark.parametrize("weighted", [False, True])
def test_the_l1_ball_against_a_solver(weighted):
    a, b = normal(2, 3), normal(3, 2)
    w = torch.cat([a.flatten(), b.flatten()]).numpy()
    d = np.random.default_rng(0).uniform(0.2, 3, 12) if weighted else np.ones(12)
    metric = [
        torch.from_numpy(part).view(x.shape) for part, x in zip(np.split(d, 2), (a, b), strict=True)
    ]
    found = by_penalty(L1Ball(2.5), a, b, mu=7.0, metric=metric if weighted else None).numpy()
    assert np.abs(found).sum() == pytest.approx(2.5)
    # with θ = p − q and p, q ≥ 0 the problem is smooth
    solved = minimize(
        lambda pq: (d * (w - pq[:12] + pq[12:]) ** 2).sum(),
        np.full(24, 0.01),
        jac=lambda pq: np.concatenate([g := -2 * d * (w - pq[:12] + pq[12:]), -g]),
        bounds=[(0, None)] * 24,
        constraints={"type": "ineq", "fun": lambda pq: 2.5 - pq.sum()},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    np.testing.assert_allclose(found, solved.x[:12] - solved.x[12:], atol=1e-5)


@pytest.mark.parametrize("mu", [0.5, 3.0])
def test_l0_constraint_and_penalty_against_all_supports(mu):
    a, b = normal(2, 2), normal(4, 1)
    w, decay, lam, kappa = torch.cat([a.flatten(), b.flatten()]), 0.3, 0.4, 3
    shrink = mu / (mu + 2 * decay)
    constrained, penalized = [], []
    for keep in product([0.0, 1.0], repeat=8):
        theta = w * torch.tensor(keep, dtype=torch.float64) * shrink
        fit = mu / 2 * float((w - theta).square().sum()) + decay * float(theta.square().sum())
        if sum(keep) <= kappa:
            constrained.append((fit, theta))
        penalized.append((fit + lam * sum(keep), theta))
    best = min(constrained, key=lambda pair: pair[0])[1]
    torch.testing.assert_close(by_penalty(TopK(kappa) + L2(decay), a, b, mu=mu), best)
    best = min(penalized, key=lambda pair: pair[0])[1]
    torch.testing.assert_close(by_penalty(L0(lam) + L2(decay), a, b, mu=mu), best)


def test_the_metric_of_an_l0_constraint():
    a, b = normal(3, 3), normal(2, 4)
    d = [torch.rand_like(a), torch.rand_like(b)]
    flat = torch.cat([a.flatten(), b.flatten()])
    gains = torch.cat([d[0].flatten(), d[1].flatten()]) * flat.square()
    expected = torch.where(gains >= gains.topk(5).values[-1], flat, 0)
    assert torch.equal(by_penalty(TopK(5), a, b, mu=1.0, metric=d), expected)
    assert (by_penalty(TopK(5), a, b, mu=1.0) != 0).sum() == 5


def test_a_count_that_is_asked_for_is_met_exactly():
    net = lenet300()
    groups = lissom.weights(net)
    w = [p.detach() for block in groups for p in block.parameters]
    for penalty in (TopK(fraction=0.02) + L2(1e-4), TopK(5324)):
        forms = compress(bound(penalty, groups), w, 1e-4, None)
        assert sum(int(form.value().count_nonzero()) for form in forms) == 5324


def test_channels_are_rescaled_as_one():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 3))
    groups = lissom.kernels(net).only("0")
    [block] = groups
    w = block.parameters[0].detach()
    [form] = compress(bound(TopK(4) + L1(0.05), groups), [w], 2.0, None)
    norms = w.flatten(2).norm(dim=2)
    new = form.value().flatten(2).norm(dim=2)
    expected = torch.where(norms >= norms.flatten().topk(4).values[-1], norms - 0.025, 0)
    torch.testing.assert_close(new, expected.clamp(min=0))


def planted(k: int = 2, spikes: int = 12) -> Tensor:
    w = normal(k)[torch.randint(k, (30, 20), generator=generator)]
    places = torch.randperm(600, generator=generator)[:spikes]
    w.view(-1)[places] += 10 + normal(spikes)
    return w


def additive(first: object, second: object, w: Tensor) -> Additive:
    made = bound(first + second, lissom.weights(Toy(w)))  # type: ignore[operator]
    assert isinstance(made, Additive)
    return made


@pytest.mark.parametrize("swapped", [False, True])
def test_a_planted_sum_is_found(swapped):
    w = planted()
    terms = (TopK(12), Codebook(2))
    made = additive(*(terms[::-1] if swapped else terms), w)
    [form] = compress(made, [w], 1.0, None)
    assert distance([w], [form.value()]) <= 1e-12 * float(w.norm())
    sparse, coarse = form.parts[::-1] if swapped else form.parts
    assert isinstance(sparse, Dense) and int(sparse.value().count_nonzero()) == 12
    assert isinstance(coarse, Quantized) and len(coarse.codebook) == 2


@pytest.mark.parametrize(
    "terms",
    [
        (TopK(20), Codebook(2)),
        (LowRank(2), TopK(30)),
        (ScaledBinary(), LowRank(1)),
        (Binary(), L1Ball(9)),
    ],
    ids=repr,
)
def test_sums_are_no_worse_than_their_terms_and_never_rise(monkeypatch, terms):
    w = normal(30, 20)
    made = additive(*terms, w)
    [form] = compress(made, [w], 1.0, None)
    found = distance([w], [form.value()])
    for part in made.parts:
        [alone] = compress(part, [w], 1.0, None)
        assert found <= distance([w], [alone.value()]) * (1 + 1e-12)
    from lissom.compressions import compressions

    ends = []
    for rounds in range(1, 6):
        monkeypatch.setattr(compressions, "ROUNDS", rounds)
        [form] = compress(made, [w], 1.0, None)
        ends.append(distance([w], [form.value()]))
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(ends))
    assert ends[-1] < ends[0] or ends[0] == found


def test_a_compression_of_the_users_own():
    class Rounded(Compression):
        def project(self, w, mu, metric=None):
            return [x.round() for x in w]

    w = [normal(3, 4), normal(5)]
    forms: list[Form] = compress(Rounded(), w, 1.0, None)
    assert [form.value().tolist() for form in forms] == [x.round().tolist() for x in w]
    [form] = compress(Rounded() + Codebook(2), w[:1], 1.0, None)
    assert distance(w[:1], [form.value()]) < distance(w[:1], [w[0].round()])


def test_weights_of_another_shape_are_refused():
    class Flat(Compression):
        def project(self, w, mu, metric=None):
            return [x.flatten() for x in w]

    with pytest.raises(CompressionError, match=r"\[\[2, 2\]\] and gave \[\[4\]\]"):
        compress(Flat(), [normal(2, 2)], 1.0, None)


@pytest.mark.parametrize("given", [None, [None], [np.ones((2, 2))], 3.0])
def test_what_is_no_form_is_refused(given):
    class Odd(Compression):
        def project(self, w, mu, metric=None):
            return given

    with pytest.raises(CompressionError, match=r"and gave .*(NoneType|ndarray|float).*: project r"):
        compress(Odd(), [normal(2, 2)], 1.0, None)


def test_what_is_already_of_the_form_does_not_change_with_the_weights():
    class Any(Compression):
        def project(self, w, mu, metric=None):
            return w

    w = normal(2, 2)
    [form] = compress(Any(), [w], 1.0, None)
    before = w.clone()
    w.zero_()
    assert torch.equal(form.value(), before)


@pytest.mark.parametrize(
    "compression", [Codebook(3), LowRank(2), TopK(4) + Codebook(2), LowRank(1) + ScaledTernary()]
)
def test_forms_can_be_kept_in_a_checkpoint(tmp_path, compression):
    w = normal(6, 7)
    [form] = compress(bound(compression, lissom.weights(Toy(w))), [w], 1.0, None)
    torch.save(form.state(), tmp_path / "form")
    again = form_of(torch.load(tmp_path / "form", weights_only=True), torch.device("cpu"))
    assert type(again) is type(form) and torch.equal(again.value(), form.value())
    assert again.bits() == form.bits()
