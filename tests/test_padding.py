"""Channels that are added for a runtime's sake: the network computes what it did."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
import torch
from products import exhaustive, few, sampled
from shrink_cases import Between
from torch import Tensor, nn

import lissom
from lissom import LissomError, export
from lissom.coupling.resizing import NEW, entries
from lissom.exporting import widths
from lissom.models import ds_cnn, lenet5
from lissom.running import as_inputs
from lissom.shrinking.padding import ALIGNED, Padder

BLOCK = 16
SHAPE = (3, 12, 12)


def conv(read: int, made: int, size: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(read, made, size, padding=size // 2, **options)


def residual(net: Any, x: Tensor) -> Tensor:
    x = net.first(x).relu()
    return net.read((x + net.norm(net.second(x))).sigmoid())  # type: ignore[no-any-return]


def concatenation(net: Any, x: Tensor) -> Tensor:
    joined = torch.cat([net.a(x).sigmoid(), net.b(x).cos()], 1)
    return net.head(net.read(joined).flatten(1))  # type: ignore[no-any-return]


def squeezed(net: Any, x: Tensor) -> Tensor:
    x = net.norm(net.first(x)).sigmoid()
    y = net.apart(x).sigmoid()
    scale = net.grow(net.squeeze(y.mean((2, 3), keepdim=True)).sigmoid()).sigmoid()
    return net.read(y * scale + x).flatten(1)  # type: ignore[no-any-return]


def written_sizes(net: Any, x: Tensor) -> Tensor:
    x = net.first(x).cos()
    x = x.view(x.shape[0], 18 * 4, 36)[:, : 18 * 4]  # 18 channels of 2×2 parts of 6×6
    return net.read(x.reshape(x.shape[0], 18, 12, 12))  # type: ignore[no-any-return]


def last_channels(net: Any, x: Tensor) -> Tensor:
    x = net.first(x).cos()
    whole = net.read(x)
    return net.head(x.permute(0, 2, 3, 1).flatten(1)) + whole.mean()  # type: ignore[no-any-return]


def split(net: Any, x: Tensor) -> Tensor:
    a, b = net.first(x).sigmoid().chunk(2, 1)
    return net.read(a * b)  # type: ignore[no-any-return]


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Sequential(
        conv(3, 17), nn.BatchNorm2d(17), nn.Sigmoid(), conv(17, 21), nn.MaxPool2d(2),
        conv(21, 18, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(18 * 36, 5),
    ),
    "residual": lambda: Between(
        residual, first=conv(3, 17), second=conv(17, 17), norm=nn.BatchNorm2d(17), read=conv(17, 5)
    ),
    "concatenation": lambda: Between(
        concatenation, a=conv(3, 14), b=conv(3, 15), read=conv(29, 17), head=nn.Linear(17 * 144, 3)
    ),
    "squeezed": lambda: Between(
        squeezed, first=conv(3, 18), norm=nn.BatchNorm2d(18), apart=conv(18, 18, groups=18),
        squeeze=conv(18, 5, 1), grow=conv(5, 18, 1), read=conv(18, 3),
    ),
    "groups": lambda: nn.Sequential(
        conv(3, 26), nn.Sigmoid(), conv(26, 30, groups=2), nn.Tanh(), conv(30, 7)
    ),
    "twice as many": lambda: nn.Sequential(
        conv(3, 17), nn.Sigmoid(), conv(17, 34, groups=17), nn.Sigmoid(), conv(34, 7)
    ),
    "written sizes": lambda: Between(written_sizes, first=conv(3, 18), read=conv(18, 4)),
    "last channels": lambda: Between(
        last_channels, first=conv(3, 17), read=conv(17, 4), head=nn.Linear(17 * 144, 3)
    ),
    "split": lambda: Between(split, first=conv(3, 34), read=conv(17, 4)),
    "transposed": lambda: nn.Sequential(
        conv(3, 18), nn.Sigmoid(), nn.ConvTranspose2d(18, 13, 2), nn.Sigmoid(), conv(13, 3)
    ),
}  # fmt: skip


@torch.no_grad()
def made(kind: str) -> nn.Module:
    """With BatchNorm as after training, so that a channel of zeros would not stay zero."""
    torch.manual_seed(0)
    net = MODELS[kind]().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5)
    return net


def read_by_convolutions(net: nn.Module) -> list[tuple[int, int]]:
    """(channels, groups) of all convolutions over images in a graph."""
    assert isinstance(net, torch.fx.GraphModule)
    found = []
    for node in net.graph.nodes:
        if "conv2d" in str(node.target):
            weight = net.get_parameter(str(node.args[1].target))
            groups = node.args[6] if len(node.args) > 6 else 1
            found.append((weight.shape[1] * groups, groups))
    return found


@pytest.mark.parametrize("to", few([ALIGNED, BLOCK], [ALIGNED]))
@pytest.mark.parametrize("kind", few(MODELS, ("plain", "concatenation", "squeezed", "groups")))
def test_a_padded_network_computes_the_same_in_other_widths(kind: str, to: int) -> None:
    net = made(kind)
    padded = Padder(net, as_inputs(torch.randn(2, *SHAPE)), BLOCK).padded(to=to)
    x = torch.randn(5, *SHAPE)
    expected = net(x)
    assert padded.widths and not padded.kept
    assert (padded.net(x) - expected).abs().max() <= 1e-6 * expected.abs().max()
    for channels, groups in read_by_convolutions(padded.net):
        fits = channels % ALIGNED == 0 or (groups == 1 and channels <= BLOCK - ALIGNED)
        assert fits or 1 < groups < channels, (channels, groups)
    assert all(now > was and now % min(to, 2) == 0 for _, was, now in padded.widths)
    small = sum(p.numel() for p in net.parameters())
    assert sum(p.numel() for p in padded.net.parameters()) == small + padded.weights > small


def test_whole_blocks_for_pooling_concatenation_groups_and_single_channels() -> None:
    def widths_of(kind: str) -> dict[str, int]:
        padder = Padder(made(kind), as_inputs(torch.randn(2, *SHAPE)), BLOCK)
        return {name: now for name, _, now in padder.padded(to=BLOCK).widths}

    assert widths_of("plain") == {"0.weight": 20, "3.weight": 32}
    assert widths_of("concatenation") == {"a.weight": 16, "b.weight": 16}
    assert widths_of("groups") == {"0.weight": 16, "2.weight": 16}  # of each of two groups
    assert widths_of("squeezed") == {"first.weight": 32}


def test_what_reads_channels_otherwise_keeps_them() -> None:
    net = nn.Sequential(
        conv(3, 18), nn.GroupNorm(1, 18), conv(18, 22), nn.ReLU(), conv(22, 5),
    ).eval()  # fmt: skip
    net.register_parameter("unused", nn.Parameter(torch.zeros(1000)))
    padded = Padder(net, as_inputs(torch.randn(2, *SHAPE)), BLOCK).padded(to=ALIGNED)
    assert padded.widths == (("2.weight", 22, 24),)
    assert padded.weights == 2 * (18 * 9 + 1) + 5 * 2 * 9
    assert padded.convolutions == (2, 3)
    ((weight, width, reason),) = padded.kept
    assert (weight, width) == ("2.weight", 18) and "group_norm at 1" in reason


def test_channels_of_the_input_stay() -> None:
    net = nn.Sequential(conv(18, 20), nn.ReLU(), conv(20, 3)).eval()
    padded = Padder(net, as_inputs(torch.randn(2, 18, 8, 8)), BLOCK).padded(to=ALIGNED)
    assert padded.net is net and padded.kept == (("0.weight", 18, "the input"),)


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(432, 17), nn.ReLU(), nn.Linear(17, 3)),
        nn.Sequential(conv(3, 12), nn.ReLU(), conv(12, 16), nn.ReLU(), conv(16, 5)),
        nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 17, 3), nn.ReLU(), nn.Conv1d(17, 3, 3)),
    ],
    ids=["dense", "fits", "over time"],
)
def test_nothing_is_added_where_that_makes_nothing_faster(net: nn.Module) -> None:
    padded = Padder(net.eval(), as_inputs(torch.randn(2, *SHAPE)), BLOCK).padded(to=BLOCK)
    assert padded.net is net and padded.weights == 0 and not padded.widths


def test_a_family_that_the_checks_refuse_stays_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(conv(3, 17), nn.ReLU(), conv(17, 18), nn.ReLU(), conv(18, 3)).eval()
    padder = Padder(net, as_inputs(torch.randn(2, *SHAPE)), BLOCK)
    tried = padder._tried
    monkeypatch.setattr(padder, "_tried", lambda steps: tried(steps) if len(steps) < 2 else None)
    assert [name for name, *_ in padder.padded(to=ALIGNED).widths] == ["0.weight"]
    assert padder.padded(to=ALIGNED).kept[0][:2] == ("4.weight", 18)


def test_copies_stand_behind_all_positions_of_what_they_are_copies_of() -> None:
    times = np.array([1, 1, 3, 0])
    first = np.array([[1, 1, 2, 2, 3, 3]])  # two positions of each of three channels
    assert entries(first, 1, times).tolist() == [0, 1, 2, 3, 2, 3, 2, 3]
    assert entries(first, 1, times, blank=True).tolist() == [0, 1, 2, 3, NEW, NEW, NEW, NEW]
    last = np.array([1, 2, 3, 1, 2, 3])
    assert entries(last, 0, times).tolist() == [0, 1, 1, 1, 3, 4, 4, 4]
    assert entries(last, 0, np.array([1, 1, 0, 1])).tolist() == [0, 2, 3, 5]


class Program(SimpleNamespace):
    """A stand-in for torch's ONNX program of a network."""

    @classmethod
    def of(cls, net: nn.Module) -> "Program":
        model = SimpleNamespace(graph=[SimpleNamespace(op_type="Conv")])
        return cls(model=model, model_proto=SimpleNamespace(SerializeToString=lambda: net))


@sampled(2)
@pytest.mark.parametrize(
    ("seconds", "chosen", "said"),
    [
        ((2.0, 3.0, 1.9), "aligned", "padded to multiples of 4 (+986 weights); unpadded it would"),
        ((2.0, 3.0, 0.5), "whole", "3 of 3 convolutions padded to multiples of 4 and 16 (+"),
        ((2.0, 1.0, 1.5), "own", "not padded: with multiples of 4 channels it would take 2 × the"),
        (None, "aligned", "convolutions padded to multiples of 4 (+986 weights)"),
    ],
)
def test_what_is_faster_here_is_written_and_told(
    seconds: tuple[float, ...] | None, chosen: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = nn.Sequential(conv(3, 17), nn.ReLU(), nn.MaxPool2d(2), conv(17, 18), conv(18, 3)).eval()
    inputs = as_inputs(torch.randn(2, *SHAPE))
    padder = Padder(net, inputs, BLOCK)
    made = {
        "own": net,
        "aligned": padder.padded(to=ALIGNED).net,
        "whole": padder.padded(to=BLOCK).net,
    }
    monkeypatch.setitem(widths.BLOCKS, torch.backends.cpu.get_cpu_capability(), BLOCK)
    monkeypatch.setattr(widths, "opened", lambda source: source)
    monkeypatch.setattr(widths, "timed", lambda runners, inputs: list(seconds or ()))
    if seconds is None:
        monkeypatch.setattr(widths, "find_spec", lambda name: None)
    program, notes = widths.fast(net, inputs, Program.of(net), Program.of)
    written = program.model_proto.SerializeToString()
    assert shapes(written) == shapes(made[chosen])
    assert said in notes[0] and len(notes) == 1
    assert ("here" in notes[0]) == (seconds is not None)


def shapes(net: nn.Module) -> list[torch.Size]:
    return sorted(p.shape for p in net.parameters())


def test_what_keeps_its_width_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(conv(3, 18), nn.GroupNorm(1, 18), conv(18, 5)).eval()
    program, notes = widths.fast(
        net, as_inputs(torch.randn(2, *SHAPE)), Program.of(net), Program.of
    )
    assert program.model_proto.SerializeToString() is net
    assert notes == ("2.weight reads 18 channels, which aten.group_norm at 1 keeps",)


def test_a_network_that_cannot_be_padded_is_written_all_the_same() -> None:
    net = nn.Sequential(conv(3, 17), nn.ReLU(), conv(17, 3)).eval()

    def fails(net: nn.Module) -> Program:
        raise LissomError("it is tied to its batch size")

    program, notes = widths.fast(net, as_inputs(torch.randn(2, *SHAPE)), Program.of(net), fails)
    assert program.model_proto.SerializeToString() is net
    assert notes == ("not padded: it is tied to its batch size",)


def convolutions(path: Path) -> list[tuple[int, ...]]:
    """The shapes of the weights of all convolutions in a file."""
    graph = onnx.load(path).graph
    stored = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    return [stored[node.input[1]] for node in graph.node if node.op_type == "Conv"]


def computes(path: Path, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(found)


@pytest.mark.parametrize("pad", few([True, False], [True]))
def test_export_pads_unless_told_not_to(
    pad: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(widths, "timed", lambda runners, inputs: [1.0, 1.5])
    net = nn.Sequential(conv(3, 17), nn.Sigmoid(), conv(17, 18), nn.ReLU(), conv(18, 2)).eval()
    x = torch.randn(3, *SHAPE)
    written = export(net, x[:1], tmp_path / "net.onnx", pad=pad)
    assert [shape[:2] for shape in convolutions(written.path)] == (
        [(20, 3), (20, 20), (2, 20)] if pad else [(17, 3), (18, 17), (2, 18)]
    )
    notes = (
        "3 of 3 convolutions padded to multiples of 4 (+968 weights); "
        "unpadded it would take 1.5 × the time here",
    )
    assert written.notes == (notes if pad else ())
    assert str(written).splitlines()[1:] == [*written.notes]
    assert torch.allclose(computes(written.path, x), net(x).detach(), atol=1e-5)


@exhaustive
def test_a_network_of_single_channels_is_faster_padded(tmp_path: Path) -> None:
    net = ds_cnn(width=61, blocks=1).eval()
    written = export(net, torch.randn(1, 1, 28, 28), tmp_path / "net.onnx")
    assert "3 of 3 convolutions padded to multiples of 4" in written.notes[0]
    assert {shape[0] for shape in convolutions(written.path)[:2]} == {64}


@exhaustive
def test_a_shrunk_network_is_padded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = lenet5().eval(), torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        for family, dead in zip(lissom.units(net, x).blocks, (1, 29, 7), strict=True):
            alive = torch.ones(len(family.labels))
            alive[:dead] = 0
            family.scale_(alive)
    small = lissom.shrink(net, x)
    assert [p.shape[0] for p in small.parameters() if p.ndim == 4] == [19, 21]
    written = export(small, x[:1], tmp_path / "net.onnx")
    assert all(shape[1] == 1 or shape[1] % 4 == 0 for shape in convolutions(written.path))
    assert written.difference is not None and written.difference < 1e-6


class Residual(nn.Module):
    """A network with a sum, a mean over pixels, and inputs of which it reads some."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = conv(3, 8), conv(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = nn.functional.avg_pool2d(x + self.second(x), 2)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def selecting() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 2))
    assert isinstance(net[1], nn.Linear)
    with torch.no_grad():
        net[1].weight[:, ::2] = 0
    return lissom.shrink(net, torch.randn(2, 1, 6, 6), inputs=True)


class Indexed(nn.Module):
    """Columns by number, from the end too, and rows by a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("columns", torch.tensor([4, -1, 0]))
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.head = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x[:, self.columns][:, :, self.mask])  # type: ignore[no-any-return]


READABLE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int | None]] = {
    "lenet5": (lenet5, (1, 28, 28), 1),
    "ds_cnn": (lambda: ds_cnn(blocks=1), (1, 12, 12), None),
    "selecting": (selecting, (1, 6, 6), None),
    "residual": (Residual, (3, 8, 8), 1),
    "indexed": (Indexed, (5, 3), None),
}


@pytest.mark.parametrize("kind", few(READABLE, ("lenet5",)))
def test_other_programs_can_read_it(kind: str, tmp_path: Path) -> None:
    make, shape, batch = READABLE[kind]
    net, x = make().eval(), torch.randn(2, *shape)
    written = export(net, x, tmp_path / "net.onnx", pad=False, batch=batch)
    model = onnx.load(written.path)
    onnx.checker.check_model(model, full_check=True)
    attributes = {(node.op_type, a.name) for node in model.graph.node for a in node.attribute}
    assert not {name for _, name in attributes} & {"storage_order", "allowzero"}
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"Shape", "Constant", "BatchNormalization"}
    assert ("Gather" in kinds) == (kind in ("selecting", "indexed"))
    assert ("GatherND" in kinds) == (kind == "indexed")  # for its mask
    (dim, *_) = model.graph.input[0].type.tensor_type.shape.dim
    assert (dim.dim_param, dim.dim_value) == (("batch", 0) if batch is None else ("", 1))
    x = x if batch is None else x[:1]
    reference = onnx.reference.ReferenceEvaluator(model)
    (found,) = reference.run(None, {model.graph.input[0].name: x.numpy()})
    assert np.allclose(found, net(x).detach(), atol=1e-5)


@exhaustive
def test_a_file_of_one_batch_size(tmp_path: Path) -> None:
    written = export(nn.Linear(3, 2), torch.rand(5, 3), tmp_path / "net.onnx", batch=4)
    assert not written.dynamic and "one batch size only" in str(written)
    assert written.difference is not None
    session = onnxruntime.InferenceSession(written.path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [4, 3]


@pytest.mark.parametrize(
    ("suffix", "option", "said"),
    [
        ("onnx", {"batch": 0}, "a batch size is a whole number ≥ 1, got 0"),
        ("onnx", {"batch": 1.5}, "batch"),
        ("onnx", {"pad": "yes"}, "pad"),
        ("pt2", {"pad": False}, r"\.pt2 takes no pad, which is for \.onnx; got pad=False"),
        (
            "pt2",
            {"batch": 1},
            r"\.pt2 takes no batch, which is for \.onnx, \.tflite, \.pte; got batch=1",
        ),
        ("pt2", {"opset": 18}, r"\.pt2 takes no opset, which is for \.onnx; got opset=18"),
    ],
)
def test_options_that_cannot_be(
    suffix: str, option: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(LissomError, match=said):
        export(nn.Linear(3, 2), torch.rand(1, 3), tmp_path / f"net.{suffix}", **option)
    assert not list(tmp_path.iterdir())
