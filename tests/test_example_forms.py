"""Whatever a model takes and returns: tensors, nested, by keyword, beside numbers and None."""

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from libraries import library
from products import exhaustive, few, sampled
from torch import Tensor, nn

import lissom
from lissom.errors import LissomError, RunError
from lissom.running import as_inputs, leaves

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)).double()
Pair = namedtuple("Pair", "x y")


@dataclass
class Batch:
    x: Tensor
    times: int = 3


@dataclass
class Output:
    logits: Tensor
    hidden: tuple[Tensor, ...]
    loss: Tensor | None = None


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.double().eval()

    def head(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


class Dict(Net):
    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.head(batch["x"])}


class Keywords(Net):
    def forward(
        self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0, *, other: Tensor
    ) -> dict[str, Any]:
        y = self.head(x + other) * scale
        return {"y": y if mask is None else y * mask, "rest": [None, {"sum": x.sum()}], "n": 3}


class Optional(Net):
    def forward(self, x: Tensor, mask: Tensor | None, y: Tensor) -> tuple[Tensor, None]:
        return self.head(x) + y, None


class Views(Net):
    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        return [self.head(x) for x in xs]


class Dataclass(Net):
    def forward(self, batch: Batch) -> Output:
        return Output(self.head(batch.x) * batch.times, (batch.x,))


class Named(Net):
    def forward(self, pair: Pair) -> Pair:
        return Pair(self.head(pair.x), pair.y)


def exported() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double().eval()
    return torch.export.export(net, (X,)).module()


FORMS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "a dict": (Dict, ({"x": X},)),
    "keywords": (Keywords, {"x": X, "other": X, "scale": 2.0}),
    "other keywords": (Keywords, {"other": X, "mask": torch.ones(3).double(), "x": X}),
    "None": (Optional, (X, None, torch.ones(2, 3).double())),
    "a list": (Views, ([X, X + 1],)),
    "a dataclass": (Dataclass, (Batch(X),)),
    "a named tuple": (Named, (Pair(X, X),)),
    "a named tuple alone": (Named, Pair(X, X)),
    "an exported module": (exported, X),
}
NO_FILE = ("a dataclass", "a named tuple", "a named tuple alone")  # of graphs


def outputs(net: nn.Module, inputs: Any) -> list[Tensor]:
    given = as_inputs(inputs)
    return leaves(net(*given.args, **given.kwargs))


@sampled(2)
@pytest.mark.parametrize("graph", few([None, True], [None]))
@pytest.mark.parametrize("form", few(FORMS, ["keywords", "None", "a dataclass"]))
def test_every_form(form: str, graph: bool | None, tmp_path: Path) -> None:
    make, inputs = FORMS[form]
    net = make()
    lissom.neurons(net, inputs).scale_([torch.arange(8) % 2.0])
    small = lissom.shrink(net, inputs, as_graph=graph)
    assert small.shrinkage.removed == 4
    assert small.shrinkage.example_inputs is inputs
    fresh = as_inputs(inputs).map(lambda x: torch.randn_like(x))
    for a, b in zip(outputs(net, fresh), outputs(small, fresh), strict=True):
        torch.testing.assert_close(a, b)
    counted = lissom.measure(net, inputs)
    assert counted.macs == lissom.measure(net, as_inputs(inputs)).macs > 0
    assert counted.unshrunk is None and lissom.measure(small, inputs).macs * 2 == counted.macs
    assert lissom.measuring.latency({"small": small}, inputs, rounds=1)["small"].seconds > 0
    path = tmp_path / "small.safetensors"
    if small.shrinkage.as_graph and form in NO_FILE:
        with pytest.raises(RunError, match="tensors, tuples, lists and dicts"):
            lissom.save(small, path)
    else:
        lissom.save(small, path)
        back = lissom.load(path, make)
        for a, b in zip(outputs(small, fresh), outputs(back, fresh), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("form", few(FORMS, ["a list"]))
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_files_for_other_programs(form: str, suffix: str, tmp_path: Path) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    make, inputs = FORMS[form]
    path = tmp_path / f"net{suffix}"
    if suffix == ".pt2" and "named tuple" in form:
        with pytest.raises(LissomError, match=r"torch\.export\.save cannot write"):
            lissom.export(make(), inputs, path)
        assert not path.exists()
        return
    if suffix == ".onnx" and make is Keywords:
        with pytest.raises(LissomError, match="cannot be written as ONNX"):  # it returns a number
            lissom.export(make(), inputs, path)
        return
    made = lissom.export(make(), inputs, path)
    assert made.difference is not None and made.difference < 1e-6
    assert made.dynamic is (form != "an exported module")


def test_what_a_graph_was_not_traced_for() -> None:
    """Numbers are written into it, so another number is refused, and another keyword order not."""
    inputs = {"x": X, "other": X, "scale": 2.0}
    small = lissom.shrink(Keywords(), inputs, as_graph=True)
    small(other=X, scale=2.0, x=X)
    with pytest.raises(LissomError, match=r"takes an input of 2\.0, got 3\.0"):
        small(**{**inputs, "scale": 3.0})


class Two(Net):
    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.head(x * other.sigmoid())


def test_inputs_that_are_free_by_keyword(tmp_path: Path) -> None:
    """Whatever the order of the keywords, also in the network that is read from a file."""
    net = Two()
    with torch.no_grad():
        net.a.weight[:, 2] = 0
    x, other = torch.randn(2, 3, 6).double().unbind()
    small = lissom.shrink(net, {"other": X, "x": X + 1}, inputs=True)
    assert small.net.a.weight.shape == (8, 5)
    lissom.save(small, tmp_path / "small.safetensors")
    for twin in (small, lissom.load(tmp_path / "small.safetensors", Two)):
        torch.testing.assert_close(net(x, other), twin(x=x, other=other))
        torch.testing.assert_close(net(x, other), twin(other=other, x=x))


@pytest.mark.parametrize("odd", [({"x": X, 3: X},), [object()], X[:0], "word", (), {1: X}, (1, 2)])
def test_what_is_no_input(odd: Any) -> None:
    if odd == ({"x": X, 3: X},):
        as_inputs(odd)  # a dict that is one argument may have any keys
        return
    with pytest.raises(LissomError, match="example_inputs"):
        as_inputs(odd)


class NoTensors(Net):
    def forward(self, x: Tensor) -> str:
        self.head(x)
        return "done"


def test_outputs_without_tensors(tmp_path: Path) -> None:
    """There would be nothing to compare."""
    with pytest.raises(LissomError, match=r"returns no tensors|cannot read|no neurons"):
        lissom.shrink(NoTensors(), X)
    with pytest.raises(LissomError, match="returns no tensors"):
        lissom.export(NoTensors(), X, tmp_path / "net.pt2")


@pytest.mark.parametrize("script", [torch.jit.script, lambda net: torch.jit.trace(net, X)])
def test_scripted_modules(script: Any, tmp_path: Path) -> None:
    """Their layers are hidden: refused everywhere with what works."""
    plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double().eval()
    net = script(plain)
    opt = torch.optim.SGD(net.parameters(), 0.1)
    for refused in (
        lambda: lissom.neurons(net, X),
        lambda: lissom.shrink(net, X),
        lambda: lissom.measure(net, X),
        lambda: lissom.export(net, X, tmp_path / "net.pt2"),
        lambda: lissom.gate(opt, net, {lissom.weights(net): lissom.L0(1e-3)}),
        lambda: lissom.shrink(nn.Sequential(net), X),
    ):
        with pytest.raises(LissomError, match=r"scripted.*the module that it was made from"):
            refused()
    assert lissom.measure(net).weights == 83
    lissom.proximal(opt, {lissom.weights(net): lissom.L1(1e-3)})


@exhaustive
def test_outputs_of_transformers() -> None:
    transformers = library("transformers")
    config = transformers.BertConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        vocab_size=20, max_position_embeddings=16,
    )  # fmt: skip
    net = transformers.BertModel(config).double().eval()
    inputs = {"input_ids": torch.randint(20, (2, 5)), "attention_mask": torch.ones(2, 5).long()}
    lissom.neurons(net, inputs).only("*.intermediate.*").scale_([torch.arange(8) % 2.0])
    small = lissom.shrink(net, inputs)
    assert small.shrinkage.removed == 4
    torch.testing.assert_close(small(**inputs).pooler_output, net(**inputs).pooler_output)
    assert lissom.measure(net, inputs).macs
