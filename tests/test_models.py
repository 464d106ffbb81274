"""The papers' networks: their published counts, names, shapes and initialisation."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lissom.errors import LissomError, RecipeError
from lissom.models import (
    build,
    cnn,
    ds_cnn,
    henrikson,
    lenet5,
    lenet300,
    mlp,
    resnet,
    vgg,
    wide_resnet,
)


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def count_weights(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters() if parameter.ndim > 1)


def names(net: nn.Module) -> list[str]:
    return [name for name, _ in net.named_children()]


@pytest.mark.parametrize(
    ("name", "weights", "parameters"),
    [
        ("henrikson", 54_912, 55_050),
        ("lenet300", 266_200, 266_610),
        ("lenet5", 430_500, 431_080),
        ("cnn", 8_712, 8_834),
        ("ds-cnn", 19_904, 21_066),
        ("resnet20", 268_336, 269_722),
        ("resnet56", 848_944, 853_018),
        ("vgg", 9_234_432, 9_242_730),
        ("wrn16-4", 2_745_264, 2_748_890),
        ("wrn28-10", 36_461_232, 36_479_194),
    ],
)
def test_published_counts(name: str, weights: int, parameters: int) -> None:
    net = build(name)
    assert count_weights(net) == weights
    assert count(net) == parameters


@pytest.mark.parametrize("name", ["cnn", "ds-cnn", "henrikson", "lenet300", "lenet5"])
@pytest.mark.parametrize("batch", [1, 3])
def test_mnist_images_give_logits(name: str, batch: int) -> None:
    assert build(name).eval()(torch.rand(batch, 1, 28, 28)).shape == (batch, 10)


@given(widths=st.lists(st.integers(1, 12), min_size=2, max_size=6), batch=st.integers(1, 4))
def test_mlp_of_any_widths(widths: list[int], batch: int) -> None:
    net = mlp(widths)
    layers = len(widths) - 1
    assert count(net) == sum((widths[i] + 1) * widths[i + 1] for i in range(layers))
    assert [name for name in names(net) if name.startswith("fc")] == [
        f"fc{number}" for number in range(1, layers + 1)
    ]
    assert sum(isinstance(layer, nn.ReLU) for layer in net) == layers - 1
    assert isinstance(net[-1], nn.Linear)
    assert net(torch.rand(batch, widths[0])).shape == (batch, widths[-1])


def test_mlp_names_its_children() -> None:
    assert names(mlp([4, 3, 2])) == ["flatten", "fc1", "act1", "fc2"]
    assert names(mlp((4, 3, 2), input_dropout=0.2)) == [
        "flatten",
        "input_dropout",
        "fc1",
        "act1",
        "fc2",
    ]


def test_input_dropout_is_off_in_evaluation() -> None:
    net = lenet300(input_dropout=0.2)
    dropout = net.get_submodule("input_dropout")
    assert isinstance(dropout, nn.Dropout) and dropout.p == 0.2
    x = torch.rand(2, 784)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_activation_is_the_callers_and_one_of_its_own_between_each_two_layers() -> None:
    net = lenet300(activation=nn.Tanh)
    assert names(net) == ["flatten", "fc1", "act1", "fc2", "act2", "fc3"]
    first, second = net.get_submodule("act1"), net.get_submodule("act2")
    assert isinstance(first, nn.Tanh) and isinstance(second, nn.Tanh)
    assert first is not second


def test_other_inputs_and_classes() -> None:
    assert henrikson(inputs=64, classes=3)(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    assert lenet300(inputs=64, classes=3)(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    assert lenet5(classes=3)(torch.rand(2, 1, 28, 28)).shape == (2, 3)


def test_henrikson_starts_as_keras_does() -> None:
    torch.manual_seed(0)
    for layer in henrikson():
        if isinstance(layer, nn.Linear):
            bound = math.sqrt(6 / (layer.in_features + layer.out_features))
            assert layer.weight.abs().max() <= bound
            assert layer.weight.abs().max() > 0.95 * bound
            assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
            assert layer.bias.count_nonzero() == 0


def test_lenet300_starts_as_torch_does() -> None:
    torch.manual_seed(0)
    net = lenet300()
    torch.manual_seed(0)
    first = nn.Linear(784, 300)
    assert torch.equal(net.get_parameter("fc1.weight"), first.weight)
    assert torch.equal(net.get_parameter("fc1.bias"), first.bias)


def test_lenet5_is_caffes_with_a_relu_after_each_convolution() -> None:
    net = lenet5()
    assert names(net) == [
        "conv1",
        "act1",
        "pool1",
        "conv2",
        "act2",
        "pool2",
        "flatten",
        "fc1",
        "act3",
        "fc2",
    ]
    assert net.get_parameter("conv1.weight").shape == (20, 1, 5, 5)
    assert net.get_parameter("conv2.weight").shape == (50, 20, 5, 5)
    assert net.get_parameter("fc1.weight").shape == (500, 800)
    assert net.get_parameter("fc2.weight").shape == (10, 500)
    assert net[:6](torch.rand(2, 1, 28, 28)).shape == (2, 50, 4, 4)


def test_vgg_is_formaneks() -> None:
    net = vgg()
    convolutions = [layer for layer in net if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [
        64, 128, 256, 256, 512, 512, 512, 512,
    ]  # fmt: skip
    assert all(
        layer.kernel_size == (3, 3) and layer.padding == (1, 1) and layer.bias is not None
        for layer in convolutions
    )
    kinds = "".join(type(layer).__name__[0] for layer in net)  # B: BatchNorm, R: ReLU, M: pooling
    assert kinds == "CBRM" + "CBRM" + "CBRCBRM" * 3 + "F" + "LRL"
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == 9_242_730
    assert (net.get_parameter("fc1.weight").shape, net.get_parameter("fc2.weight").shape) == (
        (32, 512),
        (10, 32),
    )
    assert net.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_vgg_starts_as_formaneks_does() -> None:
    torch.manual_seed(0)
    for layer in vgg(width=0.5, init="xavier"):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = math.sqrt(
                6 / ((layer.weight.shape[0] + layer.weight.shape[1]) * layer.weight[0, 0].numel())
            )
            assert 0.9 * bound < layer.weight.abs().max() <= bound
            assert layer.bias is not None and layer.bias.count_nonzero() == 0
    with pytest.raises(LissomError, match=r"init is 'torch' or 'xavier', got 'xaviar'"):
        build("vgg", init="xaviar")


@pytest.mark.parametrize("width", [0.001, 0.25, 0.5, 1, 1.5])
def test_vgg_at_any_width(width: float) -> None:
    net = vgg(classes=3, width=width, channels=1).eval()
    widths = [layer.out_channels for layer in net if isinstance(layer, nn.Conv2d)]
    assert widths == [max(1, round(width * n)) for n in (64, 128, 256, 256, 512, 512, 512, 512)]
    assert names(net) == names(vgg())
    with torch.no_grad():
        assert net(torch.rand(1, 1, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize("width", [0, -1, math.nan, math.inf, "half"])
def test_an_impossible_width_of_vgg_is_quoted(width: object) -> None:
    with pytest.raises(LissomError, match=r"vgg needs a width > 0") as caught:
        build("vgg", width=width)
    assert repr(width) in str(caught.value)


@pytest.mark.parametrize("side", [8, 9, 28])
def test_cnn_takes_images_of_digits_and_mnist(side: int) -> None:
    net = cnn((2, side, side), classes=3)
    assert names(net)[:5] == ["conv1", "norm1", "act1", "pool1", "conv2"]
    assert names(net)[-2:] == ["flatten", "fc"]
    assert net.get_parameter("fc.weight").shape == (3, 32 * (side // 8) ** 2)
    assert net(torch.rand(2, 2, side, side)).shape == (2, 3)
    assert cnn((1, 8, 5), widths=[4, 3]).eval()(torch.rand(2, 1, 8, 5)).shape == (2, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": (64,)}, r"such as \(1, 28, 28\), .*; got \(64,\)"),
        ({"inputs": (1, 7, 8)}, r"with 8 pixels a side or more for 3 poolings; got \(1, 7, 8\)"),
        ({"inputs": (1, 8, 0)}, r"inputs as whole numbers ≥ 1, got \(1, 8, 0\)"),
        ({"inputs": 28}, r"inputs as whole numbers ≥ 1, got 28"),
        ({"widths": []}, r"widths as whole numbers ≥ 1, got \[\]"),
        ({"widths": [8, 1.5]}, r"widths as whole numbers ≥ 1, got \[8, 1\.5\]"),
        ({"classes": 0}, r"classes as a whole number ≥ 1, got 0"),
    ],
)
def test_cnn_explains_what_it_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(LissomError, match=message):
        build("cnn", **options)


def test_ds_cnn_takes_spectrograms() -> None:
    net = ds_cnn((1, 49, 10), classes=12, width=8, blocks=2).eval()
    assert net(torch.rand(3, 1, 49, 10)).shape == (3, 12)
    assert [name for name in names(net) if name.startswith("block")] == ["block1", "block2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": (28, 28)}, r"channels × height × width.*got \(28, 28\)"),
        ({"width": 0}, r"whole numbers ≥ 1, got \{'width': 0\}"),
        ({"blocks": 2.5}, r"blocks"),
    ],
)
def test_ds_cnn_explains_what_it_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(LissomError, match=message):
        build("ds-cnn", **options)


@pytest.mark.parametrize("option", ["classes", "channels"])
def test_impossible_sizes_of_vgg_are_quoted(option: str) -> None:
    with pytest.raises(LissomError, match=rf"vgg needs {option} as a whole number ≥ 1, got 0\.5"):
        build("vgg", **{option: 0.5})


@pytest.mark.parametrize("widths", [[], [784], [784, 0, 10], [784, 2.5], ["784", 10], 784, "784"])
def test_impossible_widths_are_quoted(widths: object) -> None:
    with pytest.raises(LissomError, match="at least two widths") as caught:
        mlp(widths)  # type: ignore[arg-type]
    assert repr(widths) in str(caught.value)
    assert "[784, 300, 100, 10]" in str(caught.value)


@pytest.mark.parametrize("p", [-0.1, 1.0, 1, float("nan"), "0.2"])
def test_impossible_dropout_is_quoted(p: float) -> None:
    with pytest.raises(LissomError, match=r"0 ≤ p < 1, got ") as caught:
        mlp([4, 2], input_dropout=p)
    assert repr(p) in str(caught.value)


def test_an_activation_is_named_or_made() -> None:
    assert isinstance(build("lenet300", activation="tanh").get_submodule("act1"), nn.Tanh)
    with pytest.raises(LissomError, match=r"relu, tanh, got 'tanhh'\. Did you mean 'tanh'"):
        build("lenet300", activation="tanhh")
    with pytest.raises(LissomError, match=r"such as nn.ReLU, got 3"):
        build("lenet300", activation=3)


@pytest.mark.parametrize("classes", [0, -1, 2.5, "10"])
def test_impossible_classes_are_quoted(classes: object) -> None:
    with pytest.raises(LissomError, match="got") as caught:
        build("lenet5", classes=classes)
    assert repr(classes) in str(caught.value)


def test_build_passes_options_on() -> None:
    net = build("mlp", widths=[6, 5, 4], input_dropout=0.1)
    assert names(net) == ["flatten", "input_dropout", "fc1", "act1", "fc2"]
    assert count(net) == 7 * 5 + 6 * 4


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lenet-5", {}, r"no model 'lenet-5'\. Did you mean 'lenet5'"),
        ("resnet18", {}, r"no model 'resnet18'\."),
        (
            "xyz",
            {},
            r"Known: ahmed-modrec, cnn, ds-cnn, henrikson, .*, vgg, vt-cnn2, wrn16-4, wrn28-10\.",
        ),
        ("lenet5", {"clases": 10}, r"'lenet5' has no clases\. Did you mean 'classes'\?"),
        ("lenet5", {"name": "x"}, r"'lenet5' has no name\."),
        (
            "lenet5",
            {"input_dropout": 0.2},
            r"'lenet5' has no input_dropout; only 'henrikson' and 'lenet300' and 'mlp' have",
        ),
        ("mlp", {}, r"'mlp' needs the option 'widths'"),
    ],
)
def test_build_explains_what_it_cannot_build(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        build(name, **options)


def test_residual_networks_halve_the_side_without_weights() -> None:
    net = resnet(depth=8, width=0.5, classes=7, channels=1).eval()
    assert [len(net.get_submodule(f"stage{i}")) for i in (1, 2, 3)] == [1, 1, 1]  # type: ignore[arg-type]
    assert net(torch.rand(2, 1, 32, 32)).shape == (2, 7)
    block = net.get_submodule("stage2")[0]  # type: ignore[index]
    nn.init.zeros_(block.norm2.weight)
    x = torch.rand(2, 8, 6, 6)
    found = block(x)
    assert found.shape == (2, 16, 3, 3)
    assert torch.equal(found[:, 4:12], x[:, :, ::2, ::2]), "the shortcut is every second pixel"
    assert not found[:, :4].any() and not found[:, 12:].any(), "between channels of zeros"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 21}, r"depth of 8, 14, 20, 26, …, got 21"),
        ({"depth": "20"}, r"got '20'"),
        ({"width": 0}, r"resnet needs a width > 0, such as 0\.5, got 0"),
        ({"classes": 0}, r"resnet needs classes as a whole number ≥ 1, got 0"),
        ({"channels": 1.5}, r"resnet needs channels as a whole number ≥ 1, got 1\.5"),
    ],
)
def test_resnet_explains_what_it_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(LissomError, match=message):
        build("resnet20", **options)


def test_wide_residual_networks_are_made_of_pre_activated_blocks() -> None:
    net = wide_resnet(depth=16, widen=1, classes=7, channels=1)
    assert [len(net.get_submodule(f"stage{i}")) for i in (1, 2, 3)] == [2, 2, 2]  # type: ignore[arg-type]
    assert net(torch.rand(2, 1, 32, 32)).shape == (2, 7)
    stages = [net.get_submodule(f"stage{i}") for i in (1, 2, 3)]
    sides, x = [], net.get_submodule("conv")(torch.rand(2, 1, 32, 32))
    for stage in stages:
        x = stage(x)
        sides.append(tuple(x.shape[1:]))
    assert sides == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    block = stages[0][0]  # type: ignore[index]
    assert block.shortcut is None and stages[1][0].shortcut is not None  # type: ignore[index]
    block.eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(block(x), x), "nothing but the blocks' branches acts on the sum"


def test_a_wide_residual_network_can_normalise_its_pixels() -> None:
    mean, std = [0.1, 0.2, 0.3], [0.5, 1.0, 2.0]
    torch.manual_seed(0)
    plain = wide_resnet(10, 1).eval()
    torch.manual_seed(0)
    net = wide_resnet(10, 1, mean=mean, std=std).eval()
    assert names(net) == ["normalize", *names(plain)] and count(net) == count(plain)
    assert net.state_dict().keys() - plain.state_dict().keys() == {
        "normalize.mean",
        "normalize.std",
    }
    x = torch.rand(2, 3, 8, 8)
    by_hand = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], 1)
    torch.testing.assert_close(net(x), plain(by_hand))
    assert not torch.allclose(net(x), plain(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 27}, r"depth of 10, 16, 22, 28, …, got 27"),
        ({"depth": 4}, r"got 4"),
        ({"mean": [0.5] * 3}, r"normalised by both: give std as well"),
        ({"std": [0.5] * 3}, r"normalised by both: give mean as well"),
        ({"mean": [0.5] * 3, "std": [1.0]}, r"each channel are needed, got 3 and 1: "),
        (
            {"mean": [0.5], "std": [1.0], "channels": 3},
            r"images of 3 channels are normalised by 3 means",
        ),
        ({"mean": [0.5] * 3, "std": [1, 0, 1]}, r"stds above 0.*got \[0\.5.*\[1, 0, 1\]"),
        ({"mean": [0, math.nan, 0], "std": [1] * 3}, r"means are finite .* nan"),
        ({"widen": 0}, r"widen as a whole number ≥ 1, got 0"),
        ({"classes": 0}, r"classes as a whole number"),
        ({"dropout": 1.0}, r"0 ≤ p < 1, got 1\.0"),
    ],
)
def test_impossible_wide_residual_networks_are_refused(options: Any, message: str) -> None:
    with pytest.raises(LissomError, match=message):
        wide_resnet(**options)
