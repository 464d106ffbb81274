"""Time: who takes turns with whom, and that what takes twice as long is said to."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from devices import DEVICES
from products import exhaustive
from torch import Tensor, nn

import lissom
from lissom import LissomError, latency, turns
from lissom.measuring import Latency


class Clock:
    """A clock that only moves when a model says that time has passed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(turns, "perf_counter", lambda: self.now)

    def model(self, seconds: Callable[[], float], log: list[str], name: str) -> Callable[..., None]:
        def call(x: Tensor) -> None:
            log.append(name)
            self.now += seconds()

        return call


def test_seconds_and_ratios_of_a_known_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = Clock(monkeypatch), []
    models = {
        "dense": clock.model(lambda: 0.002, log, "dense"),
        "shrunk": clock.model(lambda: 0.0005, log, "shrunk"),
    }
    found = latency(models, torch.ones(1), rounds=4)
    assert list(found) == ["dense", "shrunk"]
    assert found["dense"].seconds == pytest.approx(0.002)
    assert found["shrunk"].seconds == pytest.approx(0.0005)
    assert found["shrunk"].quartiles == pytest.approx((0.0005, 0.0005))
    assert (found["dense"].ratio, found["shrunk"].ratio) == pytest.approx((1, 0.25))
    for one in found.values():
        assert one.calls * one.seconds >= turns.BLOCK_SECONDS
        assert one.calls * one.seconds < 2 * turns.BLOCK_SECONDS
        assert (one.rounds, one.device, one.threads) == (4, "cpu", torch.get_num_threads())


def test_models_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = Clock(monkeypatch), []
    models = {name: clock.model(lambda: 0.01, log, name) for name in "abc"}
    latency(models, torch.ones(1), rounds=5)
    turns = [name for name, _ in groupby(log)]
    assert turns[-15:] == list("abc") * 5


def test_a_machine_that_slows_down_slows_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = Clock(monkeypatch), []
    slow = lambda: 1 + clock.now  # noqa: E731
    models = {
        "one": clock.model(lambda: 0.010 * slow(), log, "one"),
        "two": clock.model(lambda: 0.020 * slow(), log, "two"),
    }
    found = latency(models, torch.ones(1), rounds=20)
    assert found["two"].ratio == pytest.approx(2, rel=0.1)
    low, high = found["one"].quartiles
    assert low < found["one"].seconds < high


def test_median_and_quartiles(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = Clock(monkeypatch), []
    first = 0.5  # the call before each block
    timed = [first, 0.05, first, 0.02, first, 0.04, first, 0.9, first, 0.03]
    times = iter([0.03, 0.03, *timed])  # two before the rounds
    model = clock.model(lambda: next(times), log, "it")
    found = latency({"it": model}, torch.ones(1), rounds=5)["it"]
    assert found.seconds == pytest.approx(median([0.05, 0.02, 0.04, 0.9, 0.03]))
    assert found.quartiles == pytest.approx((0.03, 0.05))
    assert found.calls == 1
    times = iter([0.03, 0.03, first, 0.05])
    one = latency({"it": model}, torch.ones(1), rounds=1)["it"]
    assert one.quartiles == (one.seconds, one.seconds)


@pytest.mark.parametrize("device", DEVICES)
def test_a_real_model(device: str) -> None:
    def sleeps(milliseconds: float) -> Callable[[Tensor], None]:
        return lambda x: time.sleep(milliseconds / 1000)

    net = nn.Linear(4, 2).to(device)
    models = {"net": net, "short": sleeps(5), "long": sleeps(10)}
    found = latency(models, torch.rand(3, 4, device=device), rounds=3)
    assert found["net"].seconds < 0.005 <= found["short"].seconds
    assert found["long"].seconds / found["short"].seconds == pytest.approx(2, rel=0.5)
    assert found["net"].calls > found["short"].calls > found["long"].calls
    assert found["net"].device.startswith(device)


def test_models_are_measured_in_eval_mode_and_left_as_they_were() -> None:
    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Dropout()
            self.other = nn.BatchNorm1d(2)

        def forward(self, x: Tensor) -> Tensor:
            modes.add((self.training, self.inner.training, torch.is_inference_mode_enabled()))
            threads.add(torch.get_num_threads())
            return x

    modes: set[tuple[bool, bool, bool]] = set()
    threads: set[int] = set()
    net = Seen().train()
    net.other.eval()
    before = torch.get_num_threads()
    found = latency({"net": net}, torch.rand(2, 2), threads=2, rounds=1)
    assert modes == {(False, False, True)}
    assert threads == {2} and found["net"].threads == 2
    assert torch.get_num_threads() == before
    assert (net.training, net.inner.training, net.other.training) == (True, True, False)


@pytest.mark.parametrize(
    ("models", "example_inputs", "options", "said"),
    [
        ({}, torch.ones(1), {}, r"models by name, such as .* got \{\}"),
        (nn.ReLU(), torch.ones(1), {}, r"models by name, such as .* got ReLU\(\)"),
        ({"a": 3}, torch.ones(1), {}, "model 'a' is not callable: 3"),
        ({"a": nn.ReLU()}, 3, {}, "example_inputs is a tensor, .* got 3"),
        ({"a": nn.ReLU()}, torch.ones(0, 3), {}, "at least one input"),
        ({"a": nn.ReLU()}, torch.ones(1), {"rounds": 0}, "rounds is a whole number ≥ 1, got 0"),
        ({"a": nn.ReLU()}, torch.ones(1), {"rounds": 2.5}, "rounds is .* got 2.5"),
        ({"a": nn.ReLU()}, torch.ones(1), {"threads": 0}, "threads is .* got 0"),
        (
            {"a": nn.Linear(2, 3)},
            torch.ones(1, 4),
            {},
            r"a cannot run on example_inputs .* \[1, 4\]",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_measured(models: Any, example_inputs: Any, options: Any, said: str) -> None:
    before = torch.get_num_threads()
    with pytest.raises(LissomError, match=said):
        latency(models, example_inputs, **options)
    assert torch.get_num_threads() == before


def test_as_text() -> None:
    found = Latency(0.0012345, (0.0012, 0.0013), 1.0, 15, 17, "cpu", 1)
    shown = "1.234 ms (quartiles 1.2–1.3; 15 rounds of 17 calls; torch, cpu, 1 thread)"
    assert str(found) == shown
    assert str(replace(found, load=(0.4, 1.2))) == shown
    busy = replace(found, threads=4, runtime="onnxruntime", load=(2.26, 1.2))
    assert str(busy).endswith("onnxruntime, cpu, 4 threads; load 2.3 before)")


def test_the_load_of_the_machine_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for before, warned in ((0.5, 0), (2.0, 1)):
        loads = iter([(before, 9.0, 9.0), (0.7, 9.0, 9.0)])
        monkeypatch.setattr("os.getloadavg", partial(next, loads))
        caplog.clear()
        found = latency({"a": lambda x: x}, torch.ones(1), rounds=1)["a"]
        assert found.load == (before, 0.7) and len(caplog.records) == warned
    assert "load of this machine was 2.0" in caplog.text
    monkeypatch.delattr("os.getloadavg")
    assert latency({"a": lambda x: x}, torch.ones(1), rounds=1)["a"].load is None


def wide() -> nn.Sequential:
    """Half a million products behind a selection of its inputs, as shrunk networks have it."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2048), nn.ReLU(), nn.Linear(2048, 256))
    with torch.no_grad():
        net[1].weight[:1984] = net[1].bias[:1984] = 0
    return net.eval()


@exhaustive  # ONNX Runtime has one in test_cli.py
def test_networks_in_a_runtime() -> None:
    for needed in (runtime := "openvino", "onnxscript"):
        pytest.importorskip(needed)
    net, x = wide(), torch.rand(4, 8, 8)
    found = lissom.measure(net, x, latency=True, runtime=runtime)
    assert found.latency and found.shrunk_latency
    assert found.latency.runtime == found.shrunk_latency.runtime == runtime
    assert found.shrunk_latency.ratio < 0.5
    assert "latency when shrunk" in str(found) and f"{runtime}, cpu" in str(found)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """max(x, 0) of 4 × 8 numbers, as ONNX."""
    onnx = pytest.importorskip("onnx")
    make = onnx.helper
    x, y = (make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 8]) for name in "xy")
    graph = make.make_graph([make.make_node("Relu", ["x"], ["y"])], "it", [x], [y])
    model = make.make_model(graph, ir_version=9, opset_imports=[make.make_opsetid("", 18)])
    onnx.save(model, tmp_path / "it.onnx")
    return tmp_path / "it.onnx"


@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("openvino", marks=exhaustive)])
def test_files_in_a_runtime(runtime: str, file: Path) -> None:
    pytest.importorskip(runtime)
    before = torch.get_num_threads()
    x, models = torch.rand(4, 8), {"one": file, "other": str(file)}
    found = latency(models, x, runtime=runtime, threads=2, rounds=3)
    assert list(found) == ["one", "other"]
    assert {(t.runtime, t.device, t.threads) for t in found.values()} == {(runtime, "cpu", 2)}
    assert 0 < found["one"].seconds < 0.01 and found["one"].ratio == 1
    assert torch.get_num_threads() == before
    for odd, given, said in (
        (lambda x: x, x, "'it' is to be a network .* only torch runs functions"),
        (file.with_name("none.onnx"), x, "it cannot run on example_inputs"),
        (nn.Linear(3, 2), x, "it cannot run on example_inputs"),
    ):
        with pytest.raises(LissomError, match=said):
            latency({"it": odd}, given, runtime=runtime)


def test_a_runtime_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(1, 2)
    with pytest.raises(LissomError, match=r"'torch' or 'onnxruntime' or .* got 'onnxrt'\. Did you"):
        latency({"a": nn.ReLU()}, x, runtime="onnxrt")
    monkeypatch.setattr("lissom.measuring.runtimes.find_spec", lambda name: None)
    with pytest.raises(LissomError, match=r"OpenVINO needs onnx, .* 'lissom\[openvino\]'"):
        lissom.measure(nn.Linear(2, 2), x, latency=True, runtime="openvino")
