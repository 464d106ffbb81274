"""What keeps a width is named: the operator, the module that calls it, and the dim."""

import pytest
import torch
from shrink_cases import drawn, inputs, report, zero_
from torch import Tensor, nn

import lissom
from lissom.coupling import Pin, couple, pins, trace
from lissom.errors import GroupError


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(6, 8), nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).softmax(-1)
        return self.norm(torch.fft.rfft(self.b(x), dim=-1).abs().repeat(1, 1, 2)[..., :8])


def network() -> nn.Module:
    return nn.Sequential(Block(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).double()


def found(net: nn.Module, x: Tensor) -> list[Pin]:
    return pins(couple(trace(net, x)))


def test_what_keeps_a_width() -> None:
    softmax, fft, output = found(network(), inputs(5, 6))
    assert softmax == Pin("aten.softmax", "0", 2, 8, "", ("0.a.weight",))
    assert (fft.operator, fft.module, fft.dim, fft.width) == ("aten.fft_rfft", "0", 2, 8)
    assert fft.tensors == ("0.b.weight",)
    assert str(softmax) == "aten.softmax at 0 pins dim 2 (8 wide)"
    assert (output.operator, output.tensors) == ("output", ("3.weight",))
    assert str(output) == "the output pins dim 2 (3 wide)"


def test_a_reason_of_a_record_is_told() -> None:
    class Inverse(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.pinv(x).mT

    net = nn.Sequential(nn.Linear(6, 8), nn.Sequential(Inverse()), nn.Linear(8, 3)).double()
    first, _ = found(net, inputs(5, 6))
    assert str(first) == "aten.linalg_pinv at 1.0 pins dim 2 (8 wide): it needs whole matrices"


@pytest.mark.parametrize(
    "f, said",
    [
        (lambda x: x * torch.tensor([[1.0] * 8] * 5), "aten.mul pins dim 2 (8 wide)"),
        (lambda x: x.flatten(1).softmax(1).view(-1, 5, 8), "aten.softmax pins dim 1 (40 wide)"),
        (lambda x: x.as_strided(x.shape, x.stride()), "aten.as_strided pins dim 2 (8 wide): "),
        (lambda x: x - x.mean(-1, True), "aten.mean pins dim 2 (8 wide)"),
    ],
)
def test_a_model_without_units(f: object, said: str) -> None:
    class Rigid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.LazyLinear(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(f(self.a(x)))  # type: ignore[operator]

    net, x = Rigid(), inputs(5, 6).float()
    net(x)
    assert any(str(pin).startswith(said) for pin in found(net, x))
    with pytest.raises(GroupError, match="no units can be removed") as error:
        lissom.coupling.units(net, x)
    assert said in str(error.value)


def test_a_pin_is_found_beside_units_that_are_none_of_it() -> None:
    class Warp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.where, self.b = (nn.Conv2d(n, m, 1) for n, m in ((3, 8), (8, 2), (8, 2)))

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            grid = self.where(x).permute(0, 2, 3, 1)
            return self.b(nn.functional.grid_sample(x, grid, align_corners=False))

    first, _ = found(Warp(), inputs(3, 4, 4).float())
    assert str(first) == "aten.grid_sampler pins dim 3 (2 wide)"


def test_a_message_has_an_end() -> None:
    layers = [m for _ in range(9) for m in (nn.Linear(6, 6), nn.Softmax(-1))]
    with pytest.raises(GroupError, match=r"aten.softmax at 1 pins dim 1 \(6 wide\); .*and 4 more"):
        lissom.neurons(nn.Sequential(*layers), torch.randn(2, 6))


def test_what_reads_a_unit_that_stays_is_named() -> None:
    net = drawn(nn.Sequential(nn.Linear(6, 8), nn.Sequential(nn.Sigmoid(), nn.Linear(8, 3, False))))
    zero_(net[0].weight[:2], net[0].bias[:2])
    small = lissom.shrink(net, inputs(6), fold=False)
    [kept] = report(small).kept
    assert "aten.linear at 1.1 (dim 1)" in kept.reason
