"""Weights that are computed: by torch's norms, old and new, by orthogonal maps, and by users."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from products import few
from shrink_cases import EXACT, apart
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import spectral_norm as old_spectral
from torch.nn.utils import weight_norm as old_weight

import lissom
from lissom.errors import GateError, GroupError, LissomError, MethodError
from lissom.parametrized import plain

X = torch.randn(4, 3, 20, generator=torch.Generator().manual_seed(0)).double()
Made = Callable[[nn.Module], nn.Module]


class Doubled(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return 2 * w


class Softplus(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return nn.functional.softplus(w)


def own(kind: type[nn.Module]) -> Made:
    def made(module: nn.Module) -> nn.Module:
        parametrize.register_parametrization(module, "weight", kind())
        return module

    return made


def silently(make: Made) -> Made:
    def made(module: nn.Module) -> nn.Module:
        with warnings.catch_warnings(action="ignore"):
            return make(module)

    return made


# How a weight is made, whether zero rows of a parameter make zero rows of it, whether single zeros.
KINDS: dict[str, tuple[Made, bool, bool]] = {
    "weight_norm": (parametrizations.weight_norm, True, False),
    "old weight_norm": (silently(old_weight), True, False),
    "spectral_norm": (parametrizations.spectral_norm, True, False),
    "old spectral_norm": (silently(old_spectral), True, False),
    "orthogonal": (parametrizations.orthogonal, False, False),
    "doubled": (own(Doubled), True, True),
    "softplus": (own(Softplus), False, False),
}


def net(kind: str) -> nn.Module:
    torch.manual_seed(0)
    make, _, _ = KINDS[kind]
    first, second = nn.Conv1d(3, 8, 3), nn.Conv1d(8, 12, 3)
    layers = [make(first), nn.ReLU(), make(second), nn.ReLU(), nn.Conv1d(12, 2, 1)]
    return nn.Sequential(*layers).double().eval()


@pytest.mark.parametrize("kind", few(KINDS, ["weight_norm", "old spectral_norm"]))
def test_units_through_computed_weights(kind: str, tmp_path: Path) -> None:
    """Zeros of what is stepped are zeros of the weight, are found, and are cut out exactly."""
    model = net(kind)
    names = [name for name, _ in model.named_parameters()]
    before = model(X)
    if not KINDS[kind][1]:
        if kind == "orthogonal":
            with pytest.raises(GroupError):
                lissom.channels(model, X)
        assert apart(model, lissom.shrink(model, X), X) < EXACT
        return
    groups = lissom.channels(model, X)
    assert len(groups) == 20
    own = {id(p) for p in model.parameters()}
    assert all(id(p) in own for block in groups for p in block.parameters)
    rows = plain(model)[0].weight.flatten(1).norm(dim=1)
    if "weight_norm" in kind:
        assert torch.allclose(groups.norms()[0], rows)
    with torch.no_grad():
        groups.scale_([torch.arange(len(block.norms())) % 2.0 for block in groups])
    for biases in (m for m in model.modules() if isinstance(m, nn.Conv1d)):
        biases.bias.data[::2] *= 0 if biases.out_channels > 2 else 1
    now = model(X)
    assert now.isfinite().all() and not torch.equal(now, before)
    small = lissom.shrink(model, X)
    assert small.shrinkage.removed == 10 and apart(model, small, X) < EXACT
    assert (type(small[0]) is nn.Conv1d) == ("norm" in kind) and small[0].weight.shape[0] <= 4
    assert [name for name, _ in model.named_parameters()] == names
    assert torch.equal(model(X), now)
    lissom.save(small, tmp_path / "small.safetensors")
    back = lissom.load(tmp_path / "small.safetensors", lambda: net(kind))
    assert apart(small, back, X) == 0
    measured = lissom.measure(model, X[:1])
    assert measured.weights == 8 * 9 + 8 + 12 * 24 + 12 + 26
    assert not measured.uncounted or "norm" not in kind
    assert measured.shrunk_weights == sum(p.numel() for p in small.parameters())
    if "norm" not in kind:
        assert lissom.shrink(model, X, in_place=True) is model
        return
    with pytest.raises(LissomError, match="remove_parametrizations"):
        lissom.shrink(model, X, in_place=True)
    opt = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(GateError, match="remove_parametrizations"):
        lissom.gate(opt, model, {groups: lissom.L0(1e-3)})


@pytest.mark.parametrize("kind", few(KINDS, ["weight_norm"]))
@pytest.mark.parametrize("metric", ["euclidean", "adaptive"])
def test_a_penalty_makes_zeros_and_no_nan(kind: str, metric: str) -> None:
    """Directions are groups, gains are not; what zeros would break is refused when made."""
    model = net(kind).train()
    weights = lissom.weights(model)
    assert len(weights) == 72 + 288 + 24
    assert len(lissom.kernels(model)) == 24 + 96 + 24
    chosen = [weights]
    if kind != "orthogonal":
        chosen.append(lissom.channels(model, X))
    for groups in chosen:
        opt = torch.optim.Adam(model.parameters(), 1e-2)
        refused = not KINDS[kind][2] and (groups is weights or "weight_norm" not in kind)
        if refused:
            for method in (lissom.proximal, lissom.subgradient):
                with pytest.raises(MethodError, match=r"remove_\w+\(layer, 'weight'\).*without"):
                    method(opt, {groups: lissom.L1(1e-2)})
            with pytest.raises(MethodError, match="computed from it"):
                lissom.lc(opt, {groups: lissom.TopK(5)}, every=2)
            left = groups.without("0", "2") if groups is weights else None
            if left is not None:
                lissom.proximal(opt, {left: lissom.L1(1e-2)}).remove()
            continue
        method = lissom.proximal(
            opt, {groups: lissom.L1(3.0 if metric == "euclidean" else 0.3)}, metric=metric
        )
        for _ in range(40):
            loss = model(X).square().mean() + method.penalty()
            opt.zero_grad()
            loss.backward()
            opt.step()
            assert loss.isfinite()
        method.finalize()
        assert all((norms == 0).any() for norms in groups.norms()[:2])
        assert plain(model.eval())(X).isfinite().all()


def test_gains_along_other_dims() -> None:
    """One gain for all: only columns are followed; along dim 1 the rows have none."""
    for dim in (None, 1):
        layer = parametrizations.weight_norm(nn.Linear(4, 6), dim=dim)
        model = nn.Sequential(layer, nn.ReLU(), nn.Linear(6, 2)).double()
        x = torch.randn(3, 4).double()
        with pytest.raises(GroupError, match="weights are computed from"):
            lissom.neurons(model, x)
        assert len(lissom.weights(model)) == 24 + 12
        assert apart(model, lissom.shrink(model, x), x) < EXACT


def test_a_recurrence_with_a_weight_norm() -> None:
    """The order of parameters is that of the class, and the fused weights follow."""
    layer = parametrizations.weight_norm(nn.LSTM(3, 5, batch_first=True), "weight_hh_l0").double()
    x = torch.randn(2, 7, 3).double()
    small = plain(layer)
    assert type(small) is nn.LSTM and type(layer) is not nn.LSTM
    assert set(dict(small.named_parameters())) == set(dict(nn.LSTM(3, 5).named_parameters()))
    assert torch.allclose(small(x)[0], layer(x)[0])
    assert plain(small) is small
