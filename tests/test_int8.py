"""ONNX in int8: close to the network, a quarter of its size, and said to be slower where it is."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from products import exhaustive
from torch import Tensor, nn

import lissom
from lissom import LissomError
from lissom.exporting import int8
from lissom.exporting.checking import Written
from lissom.exporting.runtime import Opened, opened
from lissom.measuring import Latency
from lissom.models import lenet5, mlp
from lissom.running import Inputs

WIDE, TALL = 64, 32


@pytest.fixture
def net() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(WIDE, TALL).eval()


@pytest.fixture
def file(net: nn.Linear, tmp_path: Path) -> Path:
    """The network as ONNX, written without torch's exporter, which takes seconds."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make, arrays = onnx.helper, onnx.numpy_helper
    info = partial(make.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT)
    graph = make.make_graph(
        [make.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        "it",
        [info("x", shape=["n", WIDE])],
        [info("y", shape=["n", TALL])],
        [
            arrays.from_array(p.detach().numpy(), n)
            for n, p in zip("wb", net.parameters(), strict=True)
        ],
    )
    model = make.make_model(graph, ir_version=9, opset_imports=[make.make_opsetid("", 18)])
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def in_int8(net: nn.Module, file: Path, calibration: Tensor, batch: int | None = None) -> Written:
    x = Inputs((torch.rand(batch or 1, WIDE),))
    float32 = Written(lambda: opened(file), dynamic=batch is None, notes=("a note",))
    with torch.no_grad():
        return int8.in_int8(net, x, file, Inputs((calibration,)), float32)


@pytest.mark.parametrize("batch", [None, 3])
def test_a_file_becomes_one_of_integers(net: nn.Linear, file: Path, batch: int | None) -> None:
    before, calibration = file.stat().st_size, torch.rand(50, WIDE)
    written = in_int8(net, file, calibration, batch)
    assert file.stat().st_size < 0.5 * before
    assert written.difference is not None and 1e-4 < written.difference < 0.03
    assert written.notes[0] == "a note" and written.notes[1].startswith("int8 takes ")
    x = torch.rand(batch or 7, WIDE)
    [found] = written.load()(Inputs((x,)))
    assert not torch.equal(found, net(x))
    torch.testing.assert_close(found, net(x), atol=0.03, rtol=0)


@pytest.mark.parametrize(("ratio", "told"), [(0.5, False), (1.0, True), (2.6, True)])
def test_a_slower_file_is_said_to_be(
    net: nn.Linear, file: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, told: bool
) -> None:
    def in_turns(calls: dict[str, Any], **options: Any) -> dict[str, Latency]:
        for call in calls.values():
            call()
        one = Latency(1e-4, (1e-4, 1e-4), 1.0, 1, 1, "cpu", 1)
        return {"float32": one, "int8": replace(one, seconds=ratio * 1e-4, ratio=ratio)}

    monkeypatch.setattr(int8, "in_turns", in_turns)
    [_, note] = in_int8(net, file, torch.rand(50, WIDE)).notes
    assert f"int8 takes {ratio:.2f} × the time of float32 here ({100 * ratio:.0f} µs again" in note
    assert note.endswith(": use the float32 file") is told


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (torch.rand(9, WIDE - 1), r"int8 is more inputs like \[1, 64\] .* got \[9, 63\]"),
        (torch.ones(9, WIDE, dtype=torch.int32), r"got \[9, 64\] \(torch.int32"),
        (torch.full((9, WIDE), torch.nan), "ONNX Runtime cannot quantize the network: "),
    ],
)
def test_what_cannot_be_calibrated_on(
    net: nn.Linear, file: Path, calibration: Tensor, message: str
) -> None:
    with pytest.raises(LissomError, match=message):
        in_int8(net, file, calibration)


def test_another_network_is_told_before_it_is_quantized(file: Path) -> None:
    with pytest.raises(LissomError, match=r"net\.onnx differs from the network"):
        in_int8(nn.Linear(WIDE, TALL).eval(), file, torch.rand(9, WIDE))


def test_weights_that_are_not_finite_are_named(file: Path) -> None:
    broken = nn.Linear(WIDE, TALL)
    nn.init.constant_(broken.bias, torch.nan)
    with pytest.raises(LissomError, match=r"^int8 is for finite weights, and some of bias are NaN"):
        in_int8(broken, file, torch.rand(9, WIDE))


def selecting() -> nn.Module:
    """A perceptron that reads a few of its pixels, through a Gather."""
    net = mlp([784, 32, 10]).eval()
    with torch.no_grad():
        net.fc1.weight[:, ::2] = net.fc1.weight[:20] = net.fc1.bias[:20] = 0
    return lissom.shrink(net, torch.rand(2, 1, 28, 28), inputs=True)


@exhaustive
def test_networks_are_exported_in_int8(tmp_path: Path) -> None:
    for needed in ("onnxscript", "onnxruntime"):
        pytest.importorskip(needed)
    torch.manual_seed(0)
    x, images = torch.rand(1, 1, 28, 28), torch.rand(64, 1, 28, 28)
    path = tmp_path / "net.onnx"
    for net, batch in ((lenet5().eval(), None), (selecting(), 2)):
        found = lissom.export(net, x, path, batch=batch, int8=images, pad=False)
        size = sum(p.nbytes for p in net.parameters())
        assert found.bytes == path.stat().st_size < 0.3 * size + 12_000  # its graph
        assert found.dynamic is (batch is None)
        assert found.difference is not None and 1e-4 < found.difference < 0.05
        assert "int8 takes" in str(found)
        file = Opened(path, net, torch.rand(2, 1, 28, 28), dynamic=found.dynamic)
        with torch.no_grad():  # three examples, which a file of two takes in two calls
            torch.testing.assert_close(file(images[:3]), net(images[:3]), atol=0.05, rtol=0)
    before = path.read_bytes()
    with pytest.raises(LissomError, match=r"net\.onnx differs from the network in int8"):
        lissom.export(net, x, path, int8=images, tolerance=1e-5)
    assert path.read_bytes() == before
    with pytest.raises(LissomError, match=r"\.pt2 takes no int8, which is for \.onnx"):
        lissom.export(net, x, tmp_path / "net.pt2", int8=images)


class Drowned(nn.Module):
    """Two outputs, the second of which has the scale of the first in integers, and none in all."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        large = 1e6 * self.large(x)
        return large, torch.cat([large, self.small(x)], dim=1)[:, 4:]


@exhaustive
def test_each_output_is_compared_with_its_own_size(tmp_path: Path) -> None:
    for needed in ("onnxscript", "onnxruntime"):
        pytest.importorskip(needed)
    images = torch.rand(64, 8)
    with pytest.raises(LissomError, match=r"differs from the network in int8.* by up to 1 of the"):
        lissom.export(Drowned(), images[:1], tmp_path / "net.onnx", int8=images)
