"""Groups: what is in them, their norms, scales and metrics, choosing layers, the exact prox."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from products import few, sampled
from scipy.optimize import minimize
from torch import Tensor, nn

from lissom import L0, L1, L2, TopK, kernels, weights
from lissom.errors import GroupError
from lissom.groups import Groups, Partition
from lissom.methods.overlaps import in_order
from lissom.penalties import Penalty

CONVOLUTIONS = {
    "Conv1d": (nn.Conv1d(4, 6, 3), (6, 4), 3),
    "Conv2d": (nn.Conv2d(4, 6, 3), (6, 4), 9),
    "Conv2d 1×1": (nn.Conv2d(4, 6, 1), (6, 4), 1),
    "Conv2d, grouped": (nn.Conv2d(4, 6, (3, 5), groups=2), (6, 2), 15),
    "Conv3d": (nn.Conv3d(2, 3, 2), (3, 2), 8),
    "ConvTranspose1d": (nn.ConvTranspose1d(4, 6, 3), (4, 6), 3),
    "ConvTranspose2d": (nn.ConvTranspose2d(4, 6, 3), (4, 6), 9),
}
every_convolution = pytest.mark.parametrize(
    ("layer", "shape", "each"), CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys()
)


class Small(nn.Module):
    """Convolutions in `features`, a classifier in `head`."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False)
        )
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(x).amax((2, 3)))
        return out


def names(groups: Groups) -> list[str]:
    return [block.name for block in groups]


def flat(tensors: list[Tensor]) -> list[float]:
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).tolist()


@pytest.mark.parametrize(
    ("layer", "taken", "biases"),
    [
        (nn.Linear(3, 2), ["weight"], ["bias"]),
        (nn.Linear(3, 2, bias=False), ["weight"], []),
        (nn.Conv1d(3, 2, 3), ["weight"], ["bias"]),
        (nn.Conv2d(3, 2, 3), ["weight"], ["bias"]),
        (nn.Conv3d(3, 2, 3), ["weight"], ["bias"]),
        (nn.ConvTranspose2d(3, 2, 3), ["weight"], ["bias"]),
        (nn.Embedding(5, 3), ["weight"], []),
        (nn.Bilinear(2, 3, 4), ["weight"], ["bias"]),
        (
            nn.LSTM(3, 2),
            ["weight_ih_l0", "weight_hh_l0"],
            ["bias_ih_l0", "bias_hh_l0"],
        ),
        (
            nn.MultiheadAttention(4, 2),
            ["in_proj_weight", "out_proj.weight"],
            ["in_proj_bias", "out_proj.bias"],
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_weights_are_the_parameters_of_two_dims_or_more(
    layer: nn.Module, taken: list[str], biases: list[str]
) -> None:
    assert names(weights(layer)) == taken
    assert sorted(names(weights(layer, biases=True))) == sorted(taken + biases)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4)])
def test_scales_of_normalisations_are_left_alone(layer: nn.Module) -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), layer)
    assert names(weights(net)) == ["0.weight"]
    assert names(kernels(net)) == ["0.weight"]
    with pytest.raises(GroupError, match="no weights to choose from"):
        weights(layer)


def test_every_weight_is_a_group() -> None:
    net = Small()
    groups = weights(net)
    assert groups.kind == "weights"
    assert names(groups) == ["features.0.weight", "features.3.weight", "head.weight"]
    assert [block.module for block in groups] == [net.features[0], net.features[3], net.head]
    assert all(block.parameters[0] is net.get_parameter(block.name) for block in groups)
    assert all(block.single for block in groups)
    assert len(groups) == 72 + 108 + 15
    assert [norms.shape for norms in groups.norms()] == [b.parameters[0].shape for b in groups]
    assert set(flat(groups.cost())) == {1}


@every_convolution
def test_every_kernel_is_a_group(layer: nn.Module, shape: tuple[int, int], each: int) -> None:
    net = nn.Sequential(nn.Linear(2, 2), layer, nn.BatchNorm2d(6))
    groups = kernels(net)
    assert groups.kind == "kernels"
    assert names(groups) == ["1.weight"]
    assert len(groups) == shape[0] * shape[1]
    [norms], [cost] = groups.norms(), groups.cost()
    assert norms.shape == cost.shape == shape
    assert set(flat([cost])) == {each}
    for i in range(shape[0]):
        for j in range(shape[1]):
            squares = layer.get_parameter("weight")[i, j].detach().double().square()
            assert norms[i, j].item() == pytest.approx(math.sqrt(squares.sum()), rel=1e-6)


def test_kernels_need_a_convolution() -> None:
    with pytest.raises(GroupError, match="no kernels to choose from: the model has no parameter"):
        kernels(nn.Sequential(nn.Linear(3, 3), nn.Bilinear(2, 3, 4)))


def test_biases_are_groups_of_one_weight() -> None:
    groups = weights(Small(), biases=True)
    assert names(groups.only("*.bias")) == ["features.0.bias", "features.1.bias", "head.bias"]
    assert len(groups) == 195 + 4 + 4 + 5
    assert all(block.single for block in groups)


def test_tied_parameters_are_taken_once() -> None:
    net = nn.ModuleDict({"embed": nn.Embedding(7, 3), "out": nn.Linear(3, 7)})
    net["out"].weight = net["embed"].weight
    assert names(weights(net)) == ["embed.weight"]
    layer = nn.Linear(3, 3)
    assert names(weights(nn.Sequential(layer, nn.ReLU(), layer))) == ["0.weight"]


def test_a_compiled_model_has_the_names_and_parameters_of_the_users() -> None:
    net = Small()
    compiled = torch.compile(net)
    for kind in (weights, kernels):
        mine, theirs = kind(net), kind(compiled)
        assert names(theirs) == names(mine)
        assert [b.parameters[0] for b in theirs] == [b.parameters[0] for b in mine]
    part = nn.Sequential(nn.Linear(2, 2), torch.compile(nn.Sequential(nn.Linear(2, 2))))
    assert names(weights(part)) == ["0.weight", "1.0.weight"]


def test_layers_within_layers() -> None:
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2)
    of_a_layer = ["self_attn.in_proj_weight", "self_attn.out_proj.weight"]
    of_a_layer += ["linear1.weight", "linear2.weight"]
    assert names(weights(net)) == [f"layers.{i}.{name}" for i in range(2) for name in of_a_layer]


LAYOUTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "contiguous": lambda net: net,
    "channels_last": lambda net: net.to(memory_format=torch.channels_last),
    "float64": lambda net: net.double(),
    "bfloat16": lambda net: net.bfloat16(),
    "float16": lambda net: net.half(),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
both_kinds = pytest.mark.parametrize("kind", [weights, kernels])


@every_layout
@both_kinds
def test_norms_of_every_layout_and_precision(
    kind: Callable[[nn.Module], Groups], layout: Callable[[nn.Module], nn.Module]
) -> None:
    for block in kind(layout(Small())):
        wide = block.parameters[0].detach().double()
        inner = tuple(d for d in range(wide.ndim) if d not in block.members[0].dims)
        expected = wide.square().sum(inner).sqrt() if inner else wide.abs()
        norms = block.norms()
        half = block.parameters[0].itemsize == 2
        assert norms.dtype == (torch.float32 if half else block.parameters[0].dtype)
        torch.testing.assert_close(norms.double(), expected, rtol=1e-6, atol=0)


def test_norms_of_half_precision_do_not_overflow() -> None:
    layer = nn.Conv2d(1, 1, 3, dtype=torch.float16)
    nn.init.constant_(layer.weight, 60_000)
    assert kernels(layer).norms()[0].item() == pytest.approx(180_000)


@both_kinds
def test_norms_have_a_gradient_and_at_zero_it_is_zero(kind: Callable[[nn.Module], Groups]) -> None:
    net = Small()
    with torch.no_grad():
        net.features[0].weight[1] = 0
    torch.stack([norms.sum() for norms in kind(net).norms()]).sum().backward()
    gradient = net.features[0].weight.grad
    assert gradient is not None and gradient.isfinite().all()
    assert gradient[1].count_nonzero() == 0
    assert gradient[0].count_nonzero() == gradient[0].numel()


@every_layout
@both_kinds
def test_scales_multiply_every_weight_of_a_group(
    kind: Callable[[nn.Module], Groups], layout: Callable[[nn.Module], nn.Module]
) -> None:
    net = layout(Small())
    groups = kind(net)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    scales = [torch.rand(block.shape).round(decimals=1) for block in groups]
    scales[0][0] = 0
    scales[0][1] = 1
    groups.scale_(scales)
    for block, scale in zip(groups, scales, strict=True):
        old, new = before.pop(block.name), block.parameters[0].detach()
        assert new.dtype == old.dtype and new.stride() == old.stride()
        for index in np.ndindex(*block.shape):
            expected = (old[index] * scale[index]).to(old.dtype)
            torch.testing.assert_close(new[index], expected)
    first = groups.blocks[0].parameters[0]
    assert first[0].count_nonzero() == 0
    assert torch.equal(first[1], net.state_dict()["features.0.weight"][1])
    for name, old in before.items():
        assert torch.equal(net.get_parameter(name), old), "no group of ours"


def test_scales_come_for_every_block() -> None:
    groups = weights(Small())
    with pytest.raises(ValueError):
        groups.scale_([torch.ones(4, 2, 3, 3)])


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), dead=st.integers(0, 11))
def test_the_metric_of_a_group_is_exact_for_every_scale(seed: int, dead: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Conv2d(3, 4, 3, dtype=torch.float64)
    [block] = kernels(layer)
    w = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64)
    w.view(12, 9)[dead] = 0
    layer.weight.data = w
    d = torch.rand(w.shape, generator=generator, dtype=torch.float64)
    s = torch.rand(block.shape, generator=generator, dtype=torch.float64)

    of_weights = (d * (s[..., None, None] * w - w) ** 2).sum((2, 3)) / 2
    r = block.norms().detach()
    of_groups = block.weighted(d) * (s * r - r) ** 2 / 2
    torch.testing.assert_close(of_groups, of_weights)
    assert block.weighted(d).view(-1)[dead].item() == pytest.approx(d.view(12, 9)[dead].mean())


@every_layout
def test_the_metric_of_every_layout_and_precision(
    layout: Callable[[nn.Module], nn.Module],
) -> None:
    for block in kernels(layout(Small())):
        wide = block.norms().dtype
        same = torch.full(block.parameters[0].shape, 0.25, dtype=wide)
        torch.testing.assert_close(block.weighted(same), same[..., 0, 0])
        assert not block.weighted(same).requires_grad


def test_the_metric_of_single_weights_is_their_own() -> None:
    [block] = weights(nn.Linear(3, 2))
    d = torch.rand(2, 3)
    assert torch.equal(block.weighted(d), d)


def test_iterates_over_its_blocks() -> None:
    groups = weights(Small())
    assert list(groups) == list(groups.blocks)
    assert len(list(groups)) == 3
    assert all(isinstance(block, Partition) for block in groups)


def test_prints_as_a_table() -> None:
    net = Small()
    nn.init.zeros_(net.features[0].weight[0, 0])
    assert str(kernels(net)).splitlines() == [
        "  parameter           module   shape     weights each   kernels   non-zero",
        " ──────────────────────────────────────────────────────────────────────────",
        "  features.0.weight   Conv2d   4×2×3×3              9         8          7",
        "  features.3.weight   Conv2d   3×4×3×3              9        12         12",
        "",
        "  total                                                      20         19",
    ]
    assert repr(kernels(net)) == "<20 kernels in 2 blocks>"
    assert repr(weights(nn.Linear(100, 20))) == "<2,000 weights in 1 blocks>"


F0, F3, HEAD = "features.0.weight", "features.3.weight", "head.weight"


@pytest.mark.parametrize(
    ("choices", "chosen"),
    [
        (["features"], [F0, F3]),
        (["features.*"], [F0, F3]),
        (["features.3"], [F3]),
        (["features.3.weight"], [F3]),
        (["f*.[12345]"], [F3]),
        (["head"], [HEAD]),
        (["*"], [F0, F3, HEAD]),
        (["head", "features.0"], [F0, HEAD]),
        (["features", "features.0"], [F0, F3]),
        ([nn.Conv2d], [F0, F3]),
        ([nn.Linear, "features.0"], [F0, HEAD]),
        ([nn.Module], [F0, F3, HEAD]),
        ([lambda block: block.parameters[0].numel() > 100], [F3]),
    ],
)
def test_layers_are_chosen_by_pattern_class_or_function(
    choices: list[str], chosen: list[str]
) -> None:
    groups = weights(Small())
    assert names(groups.only(*choices)) == chosen
    assert groups.only(*choices).kind == "weights"
    left = [name for name in (F0, F3, HEAD) if name not in chosen]
    if left:
        assert names(groups.without(*choices)) == left
    else:
        with pytest.raises(GroupError, match=r"without\(.*\) leaves no weights at all"):
            groups.without(*choices)
    assert names(groups) == [F0, F3, HEAD], "the choice is a new one"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("heed", r"'heed' matches none of the weights\. Did you mean 'head'"),
        ("feature.0", r"Did you mean 'features\.0'"),
        ("xyz", r"Known: features, features\.0, features\.0\.weight, .*, head, head\.weight\."),
        ("Head", r"'Head' matches none of the weights\. Did you mean 'head'"),
        ("eatures", r"Did you mean 'features'"),
        (nn.LSTM, r"LSTM matches none of the weights\. Among:\n"),
        (lambda block: False, r"<lambda> matches none of the weights\. Among:\n(.*\n)*.*head"),
    ],
)
@pytest.mark.parametrize("method", ["only", "without"])
def test_a_choice_that_matches_nothing_is_explained(method: str, choice: str, message: str) -> None:
    with pytest.raises(GroupError, match=message):
        getattr(weights(Small()), method)("head", choice)


@pytest.mark.parametrize("method", ["only", "without"])
def test_a_choice_of_nothing_is_refused(method: str) -> None:
    with pytest.raises(GroupError, match="name at least one layer: a pattern, a module class"):
        getattr(weights(Small()), method)()


def test_disjoint_groups_may_be_penalised() -> None:
    net = Small()
    in_order({weights(net): L0(1)}, nests=False)
    in_order({kernels(net): L0(1), weights(net).only("head"): L1(1)}, nests=False)
    in_order({weights(net).only(F0): L0(1), weights(net).without(F0): TopK(3)}, nests=False)
    in_order({weights(net): L0(1), weights(copy.deepcopy(net)): L0(1)}, nests=False)


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_penalised_twice_is_named(compiled: bool) -> None:
    net = Small()
    again = torch.compile(net) if compiled else net
    message = (
        rf"{F0}, {F3} is penalised twice; add the penalties with \+ .*"
        r"or choose disjoint layers with \.only\(\) and \.without\(\)\. L1 of single weights"
    )
    with pytest.raises(GroupError, match=message):
        in_order({weights(net): L0(1), kernels(again): L1(1)}, nests=False)


@pytest.mark.parametrize("penalties", [{}, None, L0(1), [(1, 2)]])
def test_penalties_are_a_mapping(penalties: object) -> None:
    with pytest.raises(GroupError, match=r"penalties are a mapping \{groups: penalty\}, got ") as e:
        in_order(penalties, nests=False)  # type: ignore[arg-type]
    assert str(e.value).endswith(repr(penalties))


def test_keys_are_groups() -> None:
    groups = weights(nn.Linear(3, 2))
    for penalties, given_ in (
        ({"fc1": L0(1)}, r"'fc1': L0\(1\)"),
        ({L0(1): groups}, r"L0\(1\): <6 weights in 1 blocks>"),
    ):
        message = rf"penalties are a mapping .*, as \{{weights\(net\): .*; got {given_}$"
        with pytest.raises(GroupError, match=message):
            in_order(penalties, nests=False)  # type: ignore[arg-type]


def minimum_over_kernels(w: np.ndarray, t: float, penalty: Penalty) -> np.ndarray:
    """argmin over θ in R⁹ of ½‖θ − w‖² + t·P(‖θ‖), by a general solver from several starts."""

    def objective(theta: np.ndarray) -> float:
        norm = torch.tensor([np.linalg.norm(theta)])
        return float(((theta - w) ** 2).sum() / 2 + t * penalty.value(norm))

    random = np.random.default_rng(0)
    starts = [w, 0.5 * w, 0.1 * w, w + 0.1 * random.normal(size=w.shape)]
    options = {"gtol": 1e-9}
    found = [minimize(objective, start, method="BFGS", options=options).x for start in starts]
    return min([*found, np.zeros_like(w)], key=objective)


@sampled(2)
@pytest.mark.parametrize(
    "penalty", [L0(0.3), L1(0.4), L2(0.5), L0(0.3) + L1(0.2) + L2(0.5)], ids=str
)
@pytest.mark.parametrize("t", few([0.1, 1.0, 3.0], [1.0]))
def test_scaling_by_the_prox_of_the_norms_is_the_prox_on_the_weights(
    penalty: Penalty, t: float
) -> None:
    # The prox of P(‖w_g‖) moves w_g along itself alone: all of R⁹ offers nothing better.
    random = np.random.default_rng(7)
    layer = nn.Conv2d(2, 2, 3, dtype=torch.float64)
    sizes = np.array([0.05, 0.2, 0.5, 1.0])[:, None]
    w = random.normal(size=(4, 9)) * sizes
    layer.weight.data = torch.tensor(w).view(2, 2, 3, 3)
    groups = kernels(layer)
    [r] = groups.norms()
    with torch.no_grad():
        groups.scale_([penalty.prox(r, t) / r])
    for scaled, kernel in zip(layer.weight.detach().view(4, 9).numpy(), w, strict=True):
        expected = minimum_over_kernels(kernel, t, penalty)
        np.testing.assert_allclose(scaled, expected, atol=1e-4)
        assert np.any(scaled) == np.any(expected)
