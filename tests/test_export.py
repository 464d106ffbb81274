"""One file for other programs: it computes what the network computes, or it is not written."""

import math
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from devices import DEVICES
from products import exhaustive, few, sampled
from torch import Tensor, nn

from lissom import LissomError, export
from lissom.exporting import onnx as onnx_file
from lissom.exporting.checking import Runner, allowed, compare, difference_of
from lissom.models import lenet5, lenet300
from lissom.running import Inputs, answers

FORMATS = ["onnx", "pt2"]
NAN = math.nan


def computes(path: Path, *inputs: Tensor) -> list[Any]:
    """The outputs of a file, by a program that knows nothing of lissom."""
    if path.suffix == ".pt2":
        loaded = torch.export.load(path).module()
        return [x.detach().numpy() for x in torch.utils._pytree.tree_leaves(loaded(*inputs))]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))  # type: ignore[no-any-return]


class Many(nn.Module):
    """Several inputs, one of them not used, and nested outputs of several dtypes."""

    def forward(self, x: Tensor, unused: Tensor, y: Tensor) -> dict[str, Any]:
        return {"sum": x + y, "more": (x * 2, y.argmax(1))}


class Fixed(nn.Module):
    """Tied to a batch of two."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1) + 1


class Mask(nn.Module):
    """The second input has no batch dimension."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x * mask


@sampled(1)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("make", few([lenet300, lenet5], [lenet5]))
def test_what_was_written_computes_the_same(
    make: Callable[[], nn.Module], suffix: str, device: str, tmp_path: Path
) -> None:
    net, path = make(), tmp_path / f"net.{suffix}"
    written = export(net.to(device), torch.rand(1, 1, 28, 28, device=device), path)
    assert (written.path, written.format, written.dynamic) == (path, suffix, True)
    assert written.bytes == path.stat().st_size > 4 * sum(p.numel() for p in net.parameters())
    assert written.difference is not None and written.difference < 1e-5
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    if device == "cpu":
        for batch in (1, 2, 7):
            x = torch.randn(batch, 1, 28, 28)
            (found,) = computes(path, x)
            assert np.allclose(found, net(x).detach(), atol=1e-5)
    assert str(path) in str(written) and "any batch size" in str(written)


def test_an_onnx_file_is_valid_and_says_what_it_is(tmp_path: Path) -> None:
    written = export(nn.Linear(3, 2), torch.rand(4, 3), tmp_path / "net.onnx")
    model = onnx.load(written.path)
    onnx.checker.check_model(model)
    assert written.opset == {o.domain: o.version for o in model.opset_import}[""]
    (dim, features) = model.graph.input[0].type.tensor_type.shape.dim
    assert (dim.dim_param, features.dim_value) == ("batch", 3)
    again = export(nn.Linear(3, 2), torch.rand(4, 3), tmp_path / "net.onnx", opset=21)
    assert again.opset == 21
    assert export(nn.Linear(3, 2), torch.rand(4, 3), tmp_path / "net.pt2").opset is None


KINDS = {
    "embedding": (nn.Embedding(10, 4), torch.tensor([[1, 9]])),
    "half": (nn.Linear(3, 2).half(), torch.rand(2, 3).half()),
    "double": (nn.Linear(3, 2).double(), torch.rand(2, 3).double()),
    "conv": (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        torch.rand(1, 2, 5, 5),
    ),
    "lstm": (nn.LSTM(4, 5, batch_first=True), torch.rand(3, 6, 4)),
    "transformer": (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        torch.rand(1, 4, 8),
    ),
    "gradient": (nn.Linear(3, 2), torch.rand(1, 3, requires_grad=True)),
}


@sampled(2)
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kind", few(KINDS, ("half", "conv", "lstm")))
def test_networks_of_all_kinds(kind: str, suffix: str, tmp_path: Path) -> None:
    net, example_inputs = KINDS[kind]
    written = export(net, example_inputs, tmp_path / f"net.{suffix}")
    assert written.dynamic and written.difference is not None


@pytest.mark.parametrize("suffix", FORMATS)
def test_several_inputs_and_outputs(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net.{suffix}"
    example_inputs = tuple(torch.rand(1, 3) for _ in range(3))
    assert export(Many(), example_inputs, path).dynamic
    x, unused, y = (torch.randn(5, 3) for _ in range(3))
    total, double, largest = computes(path, x, unused, y)
    assert np.allclose(total, x + y) and np.allclose(double, 2 * x)
    assert np.array_equal(largest, y.argmax(1))


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_network_that_is_tied_to_its_batch_size(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net.{suffix}"
    written = export(Fixed(), torch.rand(2, 3), path)
    assert not written.dynamic and "one batch size only" in str(written)
    x = torch.rand(2, 3)
    assert np.allclose(computes(path, x)[0], x + 1)
    features = export(nn.Linear(3, 2), torch.rand(3), path)  # its only dimension is no batch
    assert not features.dynamic


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_input_without_a_batch_dimension(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net.{suffix}"
    assert export(Mask(), (torch.rand(4, 3), torch.rand(3)), path).dynamic
    x, mask = torch.rand(7, 3), torch.rand(3)
    assert np.allclose(computes(path, x, mask)[0], x * mask)


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_network_is_exported_in_eval_mode_and_left_as_it_was(
    suffix: str, tmp_path: Path
) -> None:
    net = nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5), nn.BatchNorm1d(50)).train()
    net[2].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    export(net, torch.rand(2, 3), tmp_path / f"net.{suffix}")
    assert [part.training for part in net] == [True, True, False] and net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    x = torch.rand(4, 3)
    found = computes(tmp_path / f"net.{suffix}", x)[0]
    assert np.allclose(found, net.eval()(x).detach(), atol=1e-6)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("value", few([NAN, math.inf, 0.0], [NAN]))
def test_broken_and_dead_weights_are_written_as_they_are(
    value: float, suffix: str, tmp_path: Path
) -> None:
    net = nn.Linear(3, 2)
    nn.init.constant_(net.weight, value)
    assert export(net, torch.rand(1, 3), tmp_path / f"net.{suffix}").difference is not None


class InPlace(nn.Module):
    """Writes into what it is given, as preprocessing does that is to take no memory."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x.sub_(0.5).div_(2), inplace=True) + 1


@pytest.mark.parametrize(
    ("suffix", "int8"), [("onnx", False), ("pt2", False), ("c", False), ("c", True)]
)
def test_a_network_may_write_into_its_inputs(suffix: str, int8: bool, tmp_path: Path) -> None:
    x, seen = torch.rand(2, 3), torch.rand(40, 3)
    before, seen_before = x.clone(), seen.clone()
    written = export(InPlace(), x, tmp_path / f"net.{suffix}", int8=seen if int8 else None)
    assert written.difference is not None and written.difference < 0.01
    assert torch.equal(x, before) and torch.equal(seen, seen_before)


def test_a_network_without_parameters(tmp_path: Path) -> None:
    assert export(nn.ReLU(), torch.rand(1, 3), tmp_path / "net.onnx").difference == 0


class Drifting(nn.Module):
    """Computes something else each time, so that no file can be the same."""

    calls = 0  # no state of the network's, which would be put back

    def forward(self, x: Tensor) -> Tensor:
        Drifting.calls += 1
        return x + Drifting.calls


@sampled(1)
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_difference_is_an_error_and_nothing_is_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net.{suffix}"
    path.write_text("old")
    said = r"differs from the network, so it was not written: output 0 by up to \d.*, which is .*"
    with pytest.raises(LissomError, match=said):
        export(Drifting(), torch.rand(2, 3), path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    unchecked = export(Drifting(), torch.rand(2, 3), path, check=False)
    assert unchecked.difference is None and "not checked" in str(unchecked)
    assert path.read_bytes() != b"old"
    export(Drifting(), torch.rand(2, 3), path, tolerance=1e9)


class Functional(nn.Module):
    """A function as a network."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


BY_CHANCE: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: F.dropout(x, 0.5),
    "noise": lambda x: x + torch.randn(32),
    "shape": lambda x: x[:, : random.randint(1, 32)],
}


@sampled(4)
@pytest.mark.parametrize("suffix", ["onnx", "pt2", "c"])
@pytest.mark.parametrize("kind", BY_CHANCE)
def test_a_network_that_answers_by_chance_is_told(kind: str, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    random.seed(0)
    said = "another answer to the same input each time.* F.dropout.x, p, self.training. are off"
    with pytest.raises(LissomError, match=said):
        export(Functional(BY_CHANCE[kind]), torch.rand(2, 32), tmp_path / f"net.{suffix}")
    assert not list(tmp_path.iterdir())


def test_a_network_of_positive_numbers_is_compared_on_its_examples() -> None:
    net, x = Functional(lambda x: x.log().sum(1)), Inputs((torch.rand(2, 64) + 1,))

    def wrong() -> Runner:
        return lambda given: [answer + 1 for answer in answers(net, given)]

    with pytest.raises(LissomError, match="differs from the network"):
        difference_of(net, wrong, x, True, None, Path("net.onnx"))
    assert difference_of(net, lambda: partial(answers, net), x, True, None, Path("net.onnx")) == 0


def test_a_network_is_not_blamed_for_its_file(tmp_path: Path) -> None:
    with pytest.raises(LissomError, match=r"0 is allowed \(tolerance\)$"):
        export(nn.Softmax(1), torch.rand(2, 40), tmp_path / "net.onnx", tolerance=0)


@pytest.mark.parametrize(
    ("there", "here", "expected"),
    [
        ([1.0, 2.0], [1.0, 4.0], (2.0, 0.5)),
        ([0.0, 1e-3], [0.0, 0.0], (1e-3, 1e-3)),
        ([float("nan"), 2.0], [float("nan"), 2.0], (0.0, 0.0)),
        ([float("nan"), 2.0], [1.0, 2.0], (float("inf"), float("inf"))),
        ([float("inf"), 2.0], [float("inf"), 2.0], (0.0, 0.0)),
        ([float("inf"), 2.0], [-float("inf"), 2.0], (float("inf"), float("inf"))),
        ([], [], (0.0, 0.0)),
        ([3j, 4.0], [1j, 4.0], (2.0, 0.5)),
    ],
)
def test_differences_by_hand(
    there: list[complex], here: list[complex], expected: tuple[float, float]
) -> None:
    found = compare(torch.tensor(there), torch.tensor(here))
    assert found == pytest.approx(expected)


def test_half_of_the_digits_are_allowed() -> None:
    assert allowed(torch.complex64) == allowed(torch.float32)
    assert allowed(torch.float32) == pytest.approx(3.45e-4, rel=1e-2)
    assert allowed(torch.float16) == pytest.approx(2**-5)
    assert allowed(torch.int64) == allowed(torch.bool) == allowed(torch.float32, torch.int64) == 0
    assert allowed(torch.float64, torch.float32) == allowed(torch.float32)


@pytest.mark.parametrize(
    ("net", "example_inputs", "path", "options", "said"),
    [
        (nn.ReLU(), 3, "n.onnx", {}, "example_inputs is a tensor, .* got 3"),
        (nn.ReLU(), torch.rand(0, 3), "n.onnx", {}, r"at least one input, .* \[0, 3\]"),
        (nn.Linear(3, 2), torch.rand(1, 4), "n.onnx", {}, r"Linear cannot run on .* \[1, 4\]"),
        (nn.ReLU(), torch.rand(1, 3), "n.h5", {}, r"'.pt2' or .* or '.pte', got '.*n.h5'"),
        (nn.ReLU(), torch.rand(1, 3), "n", {}, r"'.onnx' or '.pt2' or .*, got '.*n'"),
        (nn.ReLU(), torch.rand(1, 3), "no/n.onnx", {}, "no is no directory: export writes"),
        (nn.ReLU(), torch.rand(1, 3), "dir.onnx", {}, "dir.onnx is a directory: export writes"),
        (torch.relu, torch.rand(1, 3), "n.onnx", {}, r"needs a torch.nn.Module, got <built-in"),
        (nn.ReLU(), torch.rand(1, 3), "n.pt2", {"opset": 20}, "which is for .onnx; got opset=20"),
        (nn.ReLU(), torch.rand(1, 3), "n.onnx", {"opset": 99}, "cannot write opset 99 "),
        (nn.ReLU(), torch.rand(1, 3), "n.onnx", {"opset": "x"}, "as ONNX, opset x: "),
        (nn.ReLU(), torch.rand(1, 3), "n.onnx", {"tolerance": -1}, "a size ≥ 0, got -1"),
    ],
)
def test_mistakes_are_told(
    net: Any, example_inputs: Any, path: str, options: Any, said: str, tmp_path: Path
) -> None:
    (tmp_path / "dir.onnx").mkdir()
    with pytest.raises(LissomError, match=said):
        export(net, example_inputs, tmp_path / path, **options)
    assert [file.name for file in tmp_path.iterdir()] == ["dir.onnx"]


class Choosing(nn.Module):
    """What it computes depends on the numbers: there is no graph of it."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_network_that_cannot_be_traced(
    suffix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        LissomError, match=r"Choosing cannot be exported by torch\.export: .+"
    ) as told:
        export(Choosing(), torch.rand(1, 3), tmp_path / f"net.{suffix}")
    assert "\n" not in str(told.value)
    assert capfd.readouterr() == ("", "")


def test_what_onnx_runtime_cannot_run_is_told(tmp_path: Path) -> None:
    net, x = nn.Linear(3, 2).bfloat16(), torch.rand(1, 3).bfloat16()
    with pytest.raises(LissomError, match=r"cannot be run on .* not written: .*check=False"):
        export(net, x, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
    export(net, x, tmp_path / "net.onnx", check=False)
    assert export(net, x, tmp_path / "net.pt2").difference == 0


@sampled(1)
@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_without_onnx_the_extra_is_named(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(LissomError, match=rf"needs {missing}, .* pip install 'lissom\[onnx\]'"):
        export(nn.ReLU(), torch.rand(1, 3), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
    export(nn.ReLU(), torch.rand(1, 3), tmp_path / "net.pt2")


@exhaustive
def test_nothing_is_printed(tmp_path: Path) -> None:
    code = (
        "import torch, lissom\n"
        "for name in ('net.onnx', 'net.pt2'):\n"
        "    lissom.export(torch.nn.LSTM(3, 2, batch_first=True), torch.rand(1, 4, 3), name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_weights_too_large_for_one_file_lie_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "ONE_FILE_BYTES", 1000)
    written = export(nn.Linear(30, 30), torch.rand(1, 30), tmp_path / "net.onnx")
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["net.onnx", "net.onnx.data"]
    assert written.bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    x = torch.rand(2, 30)
    assert computes(written.path, x)[0].shape == (2, 30)
