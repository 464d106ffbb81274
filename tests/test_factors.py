"""Layers of low rank as two layers each: the same outputs from fewer weights."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lissom.compressions.compressions import compress
from lissom.compressions.factors import factorize, two_layers
from lissom.compressions.forms import Dense, Factors, Form, Sum
from lissom.compressions.low_rank import LowRank, RankSelection
from lissom.errors import CompressionError


def compressed(net: nn.Module, compression=None, names=None) -> dict[str, Form]:
    """Forms of all weights with two or more dims, which the model then has."""
    forms = {}
    with torch.no_grad():
        for name, p in net.named_parameters():
            if p.ndim > 1 and (names is None or name in names):
                [forms[name]] = compress(compression or LowRank(2), [p], 1.0, None)
                p.copy_(forms[name].value())
    return forms


def same(net: nn.Module, made: nn.Module, *shape: int) -> None:
    """Equal outputs in float64, and equal gradients of the input and of the biases."""
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    outputs = [model(x) for model in (net, made)]
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad(out.square().sum(), x)[0] for out in outputs]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


def size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.fixture(autouse=True)
def doubles():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_linear_layers():
    net = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 10, bias=False))
    forms = compressed(net)
    made = factorize(net, forms)
    same(net, made, 5, 20)
    same(net, made, 5, 3, 20)
    assert size(made) == 2 * (20 + 30) + 30 + 2 * (30 + 10)
    assert [type(layer) for layer in made[0]] == [nn.Linear, nn.Linear]
    assert (made[0][0].out_features, made[0][0].bias, made[2][1].bias) == (2, None, None)
    assert type(net[0]) is nn.Linear
    made[0][1].bias.data.zero_()
    assert net[0].bias.any(), "the copy shares no memory with the model"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stride": 2, "padding": 1, "bias": False},
        {"padding": 2, "dilation": 2, "padding_mode": "circular"},
        {"padding": "same", "padding_mode": "reflect"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dims", [1, 2])
def test_convolutions(dims, settings):
    kind = (nn.Conv1d, nn.Conv2d)[dims - 1]
    net = nn.Sequential(kind(6, 8, 3, **settings), nn.ReLU(), kind(8, 9, (3, 1)[:dims]))
    made = factorize(net, compressed(net))
    same(net, made, 2, 6, *(11, 9)[:dims])
    assert size(made) < size(net)
    assert made[0][0].weight.shape == (2, 6, *[3] * dims)
    assert made[0][1].weight.shape == (8, 2, *[1] * dims)


@pytest.mark.parametrize("layer", [nn.Linear(7, 8), nn.Conv1d(7, 8, 3), nn.Conv2d(7, 8, 3)])
def test_rank_zero_yields_the_bias(layer):
    layer = copy.deepcopy(layer).double()
    net = nn.Sequential(layer)
    forms = compressed(net, RankSelection(1e9))
    assert forms["0.weight"].u.shape == (8, 0)
    made = factorize(net, forms)
    shape = (2, 7) if isinstance(layer, nn.Linear) else (2, 7, *[5] * (layer.weight.ndim - 2))
    same(net, made, *shape)
    out = made(torch.randn(shape))
    assert torch.equal(out, layer.bias.view(-1, *[1] * (out.ndim - 2)).expand_as(out))
    assert size(made) < size(net)


def test_what_is_left_as_it_is():
    class Odd(nn.Linear):
        pass

    cases: dict[str, nn.Module] = {
        "too large": nn.Linear(4, 4),
        "grouped": nn.Conv2d(8, 8, 3, groups=2),
        "transposed": nn.ConvTranspose2d(9, 8, 3),
        "subclass": Odd(20, 20),
        "embedding": nn.Embedding(20, 20),
        "parametrized": parametrizations.weight_norm(nn.Linear(20, 20)),
    }
    hooked = cases["hooked"] = nn.Linear(20, 20)
    hooked.register_forward_pre_hook(lambda module, args: None)
    for what, layer in cases.items():
        net = nn.ModuleList([layer])
        before = copy.deepcopy(net.state_dict())
        forms = compressed(copy.deepcopy(net))
        made = factorize(net, forms)
        assert type(made[0]) is type(layer), what
        after = made.state_dict()
        for name, form in forms.items():
            assert torch.equal(after[name], form.value()), what
        assert all(torch.equal(x, before[n]) for n, x in net.state_dict().items()), what


def test_other_forms_are_written_into_the_weights():
    net = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 20))
    forms = compressed(copy.deepcopy(net))
    forms["0.weight"] = Sum([forms["0.weight"], Dense(torch.ones(30, 20))])
    made = factorize(net, forms)
    assert type(made[0]) is nn.Linear and torch.equal(
        made[0].weight, forms["0.weight"].value().to(made[0].weight)
    )
    assert type(made[1]) is nn.Sequential


def test_tied_weights_stay_tied():
    net = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 20))
    net[1].weight = net[0].weight
    made = factorize(net, compressed(net))
    assert made[0].weight is made[1].weight
    assert type(made[2]) is nn.Sequential
    same(net, made, 3, 20)


def test_a_shared_module_stays_shared():
    layer = nn.Linear(20, 20)
    net = nn.Sequential(layer, nn.ReLU(), layer)
    made = factorize(net, compressed(net))
    assert made[0] is made[2] and type(made[0]) is nn.Sequential
    same(net, made, 3, 20)


def test_attention_goes_on():
    net = nn.Sequential(
        nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), nn.Linear(16, 16)
    )
    made = factorize(net, compressed(net))
    for mode in (True, False):
        same(net.train(mode), made.train(mode), 2, 5, 16)
    with torch.no_grad():  # the fast path reads the weights of linear1
        x = torch.randn(2, 5, 16)
        torch.testing.assert_close(made(x), net(x), rtol=1e-12, atol=1e-12)
    assert type(made[1]) is nn.Sequential


def test_a_model_that_is_one_layer():
    net = nn.Linear(20, 20).eval()
    made = factorize(net, compressed(net))
    assert type(made) is nn.Sequential and not made.training and not made[0].training
    same(net, made, 3, 20)


def test_what_the_layers_take_over():
    net = nn.Sequential(nn.Linear(20, 20, dtype=torch.float32)).eval()
    net[0].weight.requires_grad_(False)
    before = torch.get_rng_state()
    made = factorize(net, compressed(net))
    assert torch.equal(torch.get_rng_state(), before)
    assert not made[0].training and not made[0][0].weight.requires_grad
    assert made[0][1].bias.requires_grad
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    made[0][1].bias.square().sum().backward()


def test_wrong_names_and_shapes_are_refused():
    net = nn.Sequential(nn.Linear(20, 20))
    forms = compressed(net)
    with pytest.raises(CompressionError, match=r"Did you mean '0.weight'"):
        factorize(net, {"0.weigth": forms["0.weight"]})
    with pytest.raises(CompressionError, match=r"\[20, 20\], its form \[2, 2\]"):
        factorize(net, {"0.weight": Dense(torch.ones(2, 2))})


def test_a_layer_of_the_users_own():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(20, 20)), None

        def forward(self, x: Tensor) -> Tensor:
            return 3 * x @ self.weight.T

    @two_layers.register
    def _(layer: Scaled, u: Tensor, v: Tensor):
        first, second = nn.Linear(20, 2, bias=False), nn.Linear(2, 20, bias=False)
        first.weight, second.weight = nn.Parameter(v), nn.Parameter(3 * u)
        return first, second

    net = nn.Sequential(Scaled())
    forms = compressed(net)
    assert isinstance(forms["0.weight"], Factors)
    made = factorize(net, forms)
    assert size(made) == 80
    same(net, made, 3, 20)
