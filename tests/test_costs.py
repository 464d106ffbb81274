"""What a model costs: MACs against hand-made counts, bytes against real encoders, neurons."""

import json
import math
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from devices import DEVICES
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from products import sampled
from scipy import sparse
from torch import Tensor, nn
from torch.optim import Adam

import lissom
from lissom import L0, LissomError, measure
from lissom.measuring import units
from lissom.models import lenet5, lenet300
from lissom.sparse_sizes import coded, storage


def macs(model: nn.Module, *inputs: Tensor) -> int:
    found = measure(model, inputs)
    assert found.macs is not None and found.uncounted == ()
    return found.macs


# By hand, for one example: outputs × the numbers that each is a sum of.
COUNTS = [
    (nn.Linear(5, 7), [3, 5], 7 * 5),
    (nn.Linear(5, 7, bias=False), [2, 3, 5], 3 * 7 * 5),
    (nn.Linear(5, 7), [5], 7 * 5),
    (nn.Conv1d(4, 6, 3), [2, 4, 9], 6 * 7 * 4 * 3),
    (nn.Conv1d(4, 6, 3, padding="same"), [2, 4, 9], 6 * 9 * 4 * 3),
    (nn.Conv2d(3, 8, 5), [2, 3, 9, 11], 8 * 5 * 7 * 3 * 25),
    (nn.Conv2d(3, 8, 5), [3, 9, 11], 8 * 5 * 7 * 3 * 25),
    (nn.Conv2d(3, 8, 3, stride=2, padding=1), [1, 3, 9, 9], 8 * 5 * 5 * 3 * 9),
    (nn.Conv2d(3, 8, 3, dilation=2), [1, 3, 9, 9], 8 * 5 * 5 * 3 * 9),
    (nn.Conv2d(4, 6, 3, groups=2), [1, 4, 5, 5], 6 * 3 * 3 * 2 * 9),
    (nn.Conv2d(4, 8, 3, groups=4), [1, 4, 5, 5], 8 * 3 * 3 * 1 * 9),
    (nn.Conv3d(2, 3, (1, 2, 3)), [1, 2, 4, 5, 6], 3 * 4 * 4 * 4 * 2 * 6),
    # Each input number is multiplied with all kernel weights of its group.
    (nn.ConvTranspose2d(4, 6, 3), [2, 4, 5, 5], 4 * 5 * 5 * 6 * 9),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), [2, 4, 5, 5], 4 * 5 * 5 * 3 * 9),
    (nn.RNN(5, 7, batch_first=True), [4, 2, 5], 2 * 7 * (5 + 7)),
    (nn.GRU(5, 7, batch_first=True), [4, 2, 5], 2 * 3 * 7 * (5 + 7)),
    (nn.LSTM(5, 7), [4, 2, 5], 2 * 4 * 7 * (5 + 7)),  # the first dim, whatever it means
    (nn.LSTM(5, 7), [4, 5], 4 * 7 * (5 + 7)),
    (
        nn.LSTM(5, 7, 2, bidirectional=True, batch_first=True),
        [2, 4, 5],
        2 * (4 * 4 * 7 * (5 + 7) + 4 * 4 * 7 * (14 + 7)),
    ),
    (nn.BatchNorm2d(3), [2, 3, 4, 4], 0),
]


@sampled(5)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("layer", "shape", "count"), COUNTS, ids=lambda value: str(value)[:40])
def test_macs_are_those_made_by_hand(
    layer: nn.Module, shape: list[int], count: int, device: str
) -> None:
    found = measure(layer.to(device), torch.rand(shape, device=device))
    assert (found.macs, found.uncounted) == (count, ())
    assert sum(of_layer.macs or 0 for of_layer in found.layers) == count


@pytest.mark.parametrize("make", [lenet300, lenet5])
def test_the_batch_does_not_count(make: Any) -> None:
    net, x = make(), torch.rand(5, 1, 28, 28)
    x = x.flatten(1) if make is lenet300 else x
    with torch.no_grad():
        next(net.parameters())[::2] = 0
    of_one = measure(net, x[:1]).to_dict()
    assert of_one.pop("examples") == 1 and of_one["effective_macs"] < of_one["macs"]
    groups = lissom.neurons(net, x)
    method = lissom.gate(Adam(net.parameters()), net, {groups: L0(0)}, example_inputs=x)
    assert method.total("macs") == of_one["macs"]
    method.remove()
    for n in (2, 5):
        found = measure(net, x[:n])
        assert f"{n} examples; MACs are for one" in str(found)
        of_many = found.to_dict()
        assert of_many.pop("examples") == n
        for layer in (*of_one["layers"], *of_many["layers"]):
            layer.pop("shape", None)
        assert of_many == of_one


def test_what_has_no_batch_is_one_example() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).sum(0)  # type: ignore[no-any-return]

    found = measure(Pooled(), torch.rand(5, 4))
    assert (found.examples, found.macs) == (1, 5 * 12)
    assert "examples" not in str(found)
    assert measure(nn.Linear(4, 3), torch.rand(4)).examples == 1
    with_state = measure(nn.LSTM(4, 3, batch_first=True), torch.rand(5, 2, 4))
    assert (with_state.examples, with_state.macs) == (5, 2 * 4 * 3 * (4 + 3))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("training", [True, False])
def test_macs_of_attention(training: bool, device: str) -> None:
    n, tokens, width, hidden = 3, 4, 8, 16
    net = nn.TransformerEncoderLayer(width, 2, hidden, batch_first=True, device=device)
    net.train(training)  # in eval mode, torch takes one fused operation
    found = measure(net, torch.rand(n, tokens, width, device=device))
    per_token = {
        "self_attn": 3 * width * width,
        "self_attn.out_proj": width * width,
        "linear1": width * hidden,
        "linear2": hidden * width,
        "norm1": 0,
        "norm2": 0,
    }
    assert {layer.name: layer.macs for layer in found.layers} == {
        name: tokens * count for name, count in per_token.items()
    }
    scores = 2 * tokens * tokens * width  # q·k, and the weighted sum of v
    assert found.macs == tokens * sum(per_token.values()) + scores
    assert "without weights" in str(found) and f"{scores:,}" in str(found)


def test_macs_of_attention_functions() -> None:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return self.scale * F.scaled_dot_product_attention(q, k, v)

    q, k, v = torch.rand(2, 3, 5, 8), torch.rand(2, 3, 7, 8), torch.rand(2, 3, 7, 6)
    assert macs(Scores(), q, k, v) == 3 * 5 * 7 * (8 + 6)


def test_what_cannot_be_counted_is_named() -> None:
    net = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm([3, 4]), nn.Linear(4, 2))
    found = measure(net, torch.zeros(2, 3, dtype=torch.long))
    assert found.uncounted == ("0.weight", "1.weight", "1.bias")
    assert found.macs == 3 * 4 * 2
    assert re.search(r"MACs not counted +0\.weight, 1\.weight, 1\.bias", str(found))
    bilinear = nn.Bilinear(4, 6, 3)
    found = measure(bilinear, (torch.rand(2, 4), torch.rand(2, 6)))
    assert (found.macs, found.uncounted) == (3 * 4 * 6, ())


class Twice(nn.Module):
    """A layer used twice, one never used, a weight without a layer, in an order of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(3, 3)
        self.last = nn.Linear(4, 2)
        self.first = nn.Linear(4, 4)
        self.own = nn.Parameter(torch.ones(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.first(x))
        return self.last(x @ self.own)  # type: ignore[no-any-return]


def test_layers_are_in_the_order_in_which_they_run() -> None:
    net = Twice()
    with torch.no_grad():
        net.first.weight[:3] = 0
        net.own[0] = 0
    found = measure(net, torch.rand(5, 4))
    assert [
        (y.name, y.type, y.shape, y.nonzeros, y.weights, y.macs, y.effective_macs)
        for y in found.layers
    ] == [
        ("", "Twice", (5, 2), 12, 16, 16, 12),
        ("first", "Linear", (5, 4), 8, 20, 2 * 16, 2 * 4),
        ("last", "Linear", (5, 2), 10, 10, 8, 8),
        ("unused", "Linear", None, 12, 12, 0, 0),
    ]
    assert (found.macs, found.effective_macs) == (16 + 32 + 8, 12 + 8 + 8)
    assert found.uncounted == ()
    lines = [line.split() for line in str(found).splitlines()]
    assert ["first", "Linear", "5×4", "8", "20", "32", "8"] in lines
    assert ["all", "layers", "42", "58", "56", "28"] in lines
    assert ["(model)", "Twice", "5×2", "12", "16", "16", "12"] in lines


def test_without_an_example_there_is_only_what_can_be_seen() -> None:
    found = measure(Twice())
    assert [layer.name for layer in found.layers] == ["", "unused", "last", "first"]
    assert all(layer.shape is layer.macs is layer.effective_macs is None for layer in found.layers)
    assert found.dense_bytes == 4 * found.weights
    rest = (found.macs, found.effective_macs, found.uncounted, found.neurons, found.notation)
    assert {*rest, found.shrunk_weights, found.unshrunk, found.latency} == {None}


def test_tied_weights_are_counted_once_and_multiplied_where_they_are_used() -> None:
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    net[1].weight = net[0].weight
    with torch.no_grad():
        net[0].weight[0] = 0
    found = measure(net, torch.zeros(2, 3, dtype=torch.long))
    embedding, linear = found.layers
    assert (embedding.weights, embedding.nonzeros, embedding.macs) == (20, 16, 0)
    assert (linear.weights, linear.macs, linear.effective_macs) == (5, 3 * 20, 3 * 16)
    assert found.uncounted == ()


def test_views_of_a_weight_are_that_weight() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(6, 4))

        def forward(self, x: Tensor) -> Tensor:
            return sum(F.linear(x, part) for part in self.w.chunk(3))  # type: ignore[return-value]

    found = measure(Parts(), torch.rand(2, 4))
    assert (found.layers[0].macs, found.uncounted) == (24, ())


def test_effective_macs_of_a_convolution_by_brute_force() -> None:
    net = nn.Conv2d(3, 5, 3, groups=1, bias=False)
    with torch.no_grad():
        net.weight[torch.rand_like(net.weight) < 0.7] = 0
    products = 0  # every output pixel meets every weight that is not zero
    for _ in range(4 * 6):
        products += int(net.weight.count_nonzero())
    assert measure(net, torch.rand(2, 3, 6, 8)).effective_macs == products


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_everything_dead_or_broken(value: float) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    for parameter in net.parameters():
        nn.init.constant_(parameter, value)
    found = measure(net, torch.rand(1, 4))
    assert found.macs == 18
    assert found.effective_macs == (0 if value == 0 else 18)
    assert found.sparse_bytes == (0 if value == 0 else found.dense_bytes)
    assert str(found)
    json.dumps(found.to_dict())


def test_the_tolerance_reaches_macs_and_bytes() -> None:
    net = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    found = measure(net, torch.rand(1, 4), tolerance=0.25)
    assert (found.nonzeros, found.effective_macs) == (2, 2)
    assert found.sparse_bytes == 2 * 4 + 1


def test_measuring_leaves_the_model_and_torch_as_they_were() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2))
    net.train()
    net[1].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    flags = torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled()
    state = torch.get_rng_state()
    measure(net, torch.rand(5, 4, generator=torch.Generator()), latency=True)
    with pytest.raises(LissomError):
        measure(net, torch.rand(5, 3, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in net] == [True, False, True, True] and net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert flags == (torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled())
    net(torch.rand(5, 4)).sum().backward()


@pytest.mark.parametrize(
    ("example_inputs", "said"),
    [
        ([[1.0, 2.0]], "example_inputs is a tensor, .* got 1.0 in list"),
        ("x", "example_inputs is a tensor, .* got 'x'"),
        (3, "example_inputs is a tensor, .* got 3"),
        ((torch.ones(1, 4), None), r"takes 2 positional arguments but 3 were given"),
        ((), r"at least one tensor, got \(\)"),
        (torch.ones(0, 4), r"at least one input, got a tensor of shape \[0, 4\]"),
        (
            torch.ones(2, 5),
            r"Linear cannot run on example_inputs of shape \[2, 5\].*float32 on cpu",
        ),
        (torch.ones(1, 4, dtype=torch.long), r"Linear cannot run .* \[1, 4\] \(torch.int64"),
        ((torch.ones(1, 4), torch.ones(1, 4)), r"cannot run .* \[1, 4\] .*, \[1, 4\] .*argument"),
    ],
    ids=str,
)
def test_an_example_that_does_not_fit(example_inputs: Any, said: str) -> None:
    with pytest.raises(LissomError, match=said):
        measure(nn.Linear(4, 2), example_inputs)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_scripted_model_hides_its_layers() -> None:
    net = torch.jit.script(nn.Sequential(nn.Linear(4, 2)))
    assert measure(net).weights == 10
    with pytest.raises(
        LissomError, match=r"is scripted .*, which hides its layers: measure the mod"
    ):
        measure(net, torch.rand(1, 4))


def test_a_latency_needs_an_example() -> None:
    with pytest.raises(LissomError, match="a latency needs inputs"):
        measure(nn.Linear(4, 2), latency=True)
    assert measure(nn.Linear(4, 2), torch.rand(1, 4)).latency is None
    found = measure(nn.Linear(4, 2), torch.rand(1, 4), latency=True)
    assert found.latency is not None and found.latency.seconds > 0 and found.latency.ratio == 1
    assert "latency" in str(found) and " ms (quartiles " in str(found)
    assert found.to_dict()["latency"]["seconds"] == found.latency.seconds


Array = NDArray[Any]


def smallest(values: Array) -> Array:
    """The same whole numbers in the smallest unsigned integers that hold them."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def bitmap(matrix: Array) -> tuple[Array, list[Array]]:
    parts = [matrix[matrix != 0], np.packbits(matrix != 0)]
    decoded = np.zeros(matrix.size, matrix.dtype)
    decoded[np.unpackbits(parts[1], count=matrix.size).astype(bool)] = parts[0]
    return decoded, parts


def csr(matrix: Array) -> tuple[Array, list[Array]]:
    made = sparse.csr_array(matrix.astype(np.float64))  # scipy knows no half precision
    columns = made.indices.astype(np.min_scalar_type(matrix.shape[1] - 1))
    parts = [made.data.astype(matrix.dtype), columns, smallest(made.indptr)]
    again = (made.data, parts[1].astype(int), parts[2].astype(int))
    return sparse.csr_array(again, shape=matrix.shape).toarray().ravel(), parts


def coo(matrix: Array) -> tuple[Array, list[Array]]:
    places = matrix.ravel().nonzero()[0].astype(np.min_scalar_type(matrix.size - 1))
    parts = [matrix[matrix != 0], places]
    decoded = np.zeros(matrix.size, matrix.dtype)
    decoded[places] = parts[0]
    return decoded, parts


def relative(matrix: Array, bits: int) -> tuple[Array, list[Array]]:
    """Written number by number: zeros since the last entry, and a filler where they are too many"""
    codes, values, zeros = [], [], 0
    for value in matrix.ravel():
        if value != 0:
            codes.append(zeros)
            values.append(value)
            zeros = 0
        elif zeros == 2**bits - 1 and matrix.ravel()[sum(codes) + len(codes) :].any():
            codes.append(zeros)
            values.append(0)
            zeros = 0
        else:
            zeros += 1
    decoded, place = np.zeros(matrix.size, matrix.dtype), -1
    for code, value in zip(codes, values, strict=True):
        place += code + 1
        decoded[place] = value
    packed = np.array(codes, dtype={4: np.uint8, 8: np.uint8, 16: np.uint16}[bits])
    if bits == 4:
        packed = packed[: -(-len(codes) // 2)]  # two to a byte
    return decoded, [np.array(values, matrix.dtype), packed]


ENCODERS = {
    "dense": lambda matrix: (matrix.ravel(), [matrix]),
    "bitmap": bitmap,
    "CSR": csr,
    "COO": coo,
    "relative 4 bit": lambda matrix: relative(matrix, 4),
    "relative 8 bit": lambda matrix: relative(matrix, 8),
    "relative 16 bit": lambda matrix: relative(matrix, 16),
}


def check_storage(matrix: Array) -> str:
    """Write the matrix in every format; the smallest is what `storage` says."""
    sizes = {}
    for name, encode in ENCODERS.items():
        decoded, parts = encode(matrix)
        assert np.array_equal(decoded, matrix.ravel()), name
        sizes[name] = sum(part.nbytes for part in parts)
    tensor = torch.from_numpy(matrix)
    found = storage("w", tensor, tensor == 0)
    assert found.dense == matrix.nbytes
    assert found.sparse == min(sizes.values()), sizes
    assert sizes[found.format] == found.sparse, sizes
    return found.format


@settings(deadline=None, max_examples=150)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 300)),
    density=st.sampled_from([0.0, 0.001, 0.01, 0.05, 0.2, 0.5, 0.95, 1.0]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    rows=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_bytes_are_those_that_real_encoders_write(
    shape: tuple[int, int], density: float, dtype: type, rows: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    matrix = (1 + rng.random(shape)).astype(dtype)
    matrix[rng.random(shape) >= density] = 0
    if rows:  # most rows dead, as after group sparsity
        matrix[rng.random(shape[0]) < 0.8] = 0
    check_storage(matrix)


def at(size: tuple[int, int], places: list[int]) -> Array:
    matrix = np.zeros(size, np.float32)
    matrix.ravel()[places] = 1
    return matrix


@sampled(2)
@pytest.mark.parametrize(
    ("matrix", "format"),
    [
        (at((4, 4), list(range(16))), "dense"),
        (at((1, 16), [3, 5, 8, 9, 15]), "bitmap"),
        (at((10, 100), list(range(0, 1000, 9))), "relative 4 bit"),
        (at((100, 100), list(range(0, 10000, 99))), "relative 8 bit"),
        (at((300, 300), list(range(0, 90000, 9000))), "relative 16 bit"),
        (at((1, 300_000), [299_999]), "COO"),
        (at((10, 256), [512 * i + j for i in range(5) for j in range(4)]), "CSR"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_format_wins_somewhere(matrix: Array, format: str) -> None:
    assert check_storage(matrix) == format


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64, torch.float64])
def test_bytes_of_every_dtype(dtype: torch.dtype) -> None:
    w = torch.zeros(8, 8, dtype=dtype)
    w[0, 0] = 1
    found = storage("w", w, w == 0)
    assert (found.dense, found.sparse) == (64 * w.element_size(), w.element_size() + 1)


def test_bytes_of_many_dimensions_and_none() -> None:
    for shape in ([], [0], [3, 0], [2, 3, 4, 5]):
        w = torch.zeros(shape)
        found = storage("w", w, w == 0)
        assert (found.dense, found.sparse) == (4 * w.numel(), 0)


def entropy_bits(values: list[Any]) -> float:
    return sum(n * math.log2(len(values) / n) for n in Counter(values).values())


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 300),
    density=st.sampled_from([0.0, 0.01, 0.2, 0.9, 1.0]),
    distinct=st.sampled_from([1, 2, 16, 10_000]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    seed=st.integers(0, 2**32 - 1),
)
def test_coded_bytes_are_the_entropy_of_places_and_values(
    n: int, density: float, distinct: int, dtype: type, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(1, distinct + 1, n).astype(dtype) * (rng.random(n) < density)
    values, bits = x.tolist(), 8 * x.itemsize
    alive = [value for value in values if value]
    # All symbols at once, 0 among them, are places and values one after the other.
    table = entropy_bits(values) + bits * len(set(alive))
    plain = entropy_bits([value != 0 for value in values]) + bits * len(alive)
    expected = math.ceil(min(table, plain, bits * n) / 8 - 1e-9)
    tensor = torch.from_numpy(x.astype(dtype))
    assert abs(coded(tensor, tensor == 0) - expected) <= (abs(table - plain) < 1e-6)


def test_a_codebook_is_seen_by_its_coded_bytes_alone() -> None:
    net = nn.Linear(1000, 100, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.randint(1, 17, net.weight.shape))
    found = measure(net)
    assert found.sparse_bytes == found.dense_bytes == 400_000
    assert 49_900 < found.coded_bytes <= 50_064  # 4 bits each, and 16 numbers
    with torch.no_grad():
        net.weight.flatten()[:99_000] = 0
    assert measure(net).coded_bytes < 1600 < measure(net).sparse_bytes
    assert found.to_dict()["coded_bytes"] == found.coded_bytes
    assert "by entropy" in str(found)


def by_hand(net: nn.Module, *_: Any, **options: bool) -> nn.Module:
    """What shrinking gives for the LeNet-300-100 of the next test, made by hand."""
    calls.append(options)
    kept = [5, 4, 3] if options.get("inputs") else [784, 4, 3]
    small = nn.Sequential(
        nn.Flatten(),
        nn.Linear(kept[0], 4),
        nn.ReLU(),
        nn.Linear(4, 3),
        nn.ReLU(),
        nn.Linear(3, 10),
    )
    if options.get("inputs"):
        small.insert(1, Pick(5))
    return small


class Pick(nn.Module):
    def __init__(self, kept: int) -> None:
        super().__init__()
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.kept]


calls: list[dict[str, bool]] = []


def test_neurons_are_read_off_the_shrunk_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "shrunk", by_hand)
    calls.clear()
    found = measure(lenet300(), torch.rand(1, 1, 28, 28))
    assert calls == [{"inputs": True}, {"inputs": False}]
    assert (found.neurons, found.notation, found.unshrunk) == ((5, 4, 3), "5-4-3", None)
    assert found.shrunk_weights == 785 * 4 + 5 * 3 + 4 * 10
    assert "neurons left" in str(found) and "5-4-3" in str(found)
    read = json.loads(json.dumps(found.to_dict()))
    assert (read["neurons"], read["notation"]) == ([5, 4, 3], "5-4-3")


def test_convolutions_are_their_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "shrunk", lambda net, *_, **__: net)
    found = measure(lenet5(), torch.rand(2, 1, 28, 28))
    assert found.notation == "20-50-800-500"
    net = Twice()
    assert measure(net, torch.rand(2, 4)).neurons == (4, 4)  # `first` once, `unused` not
    transposed = nn.ConvTranspose1d(2, 6, 3, groups=2)
    assert measure(transposed, torch.rand(1, 2, 5)).neurons == (6,)


def test_the_tolerance_reaches_the_neurons(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def shrunk(net: nn.Module, *_: Any, **__: bool) -> nn.Module:
        seen.append([p.clone() for p in net.parameters()])
        return net

    monkeypatch.setattr(units, "shrunk", shrunk)
    net = nn.Linear(3, 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.1, -0.1, 1.0]]))
    measure(net, torch.rand(1, 3), tolerance=0.5)
    assert all(weights[0].tolist() == [[0, 0, 1]] for weights in seen)
    assert net.weight.count_nonzero() == 3


def test_a_network_that_cannot_be_shrunk_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def shrunk(net: nn.Module, *_: Any, **__: bool) -> nn.Module:
        raise LissomError("LSTM cannot be exported")

    monkeypatch.setattr(units, "shrunk", shrunk)
    found = measure(nn.Linear(3, 1), torch.rand(1, 3))
    assert (found.neurons, found.notation, found.shrunk_weights) == (None, None, None)
    assert found.unshrunk == "LSTM cannot be exported" and found.macs == 3
    assert "not shrunk" in str(found) and "LSTM cannot be exported" in str(found)


class Once(nn.Module):
    """A weight that is made of two, and a bias that a network makes of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.up, self.down = nn.Linear(6, 8), nn.Linear(4, 8, False), nn.Linear(6, 4, False)
        self.position, self.o = nn.Linear(2, 8), nn.Linear(8, 3)
        self.query, self.key = nn.Parameter(torch.randn(7, 8)), nn.Linear(8, 8)
        self.register_buffer("table", torch.randn(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.a.weight + self.up.weight @ self.down.weight
        y = F.linear(x, weight, self.a.bias) + self.position(self.table)
        query = self.key(self.query.expand(x.shape[0], 7, 8))  # for each example, but of none
        return self.o(query @ y.mT @ y)


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_macs_are_for_one_example_whatever_the_batch_is(batch: int) -> None:
    net, x = Once(), torch.randn(batch, 5, 6)
    once, products = 8 * 4 * 6 + 5 * 2 * 8, 2 * 7 * 5 * 8
    assert measure(net, x).macs == once + 5 * 6 * 8 + 7 * 8 * 8 + products + 7 * 8 * 3
    one = lissom.units(net, x[:1])
    assert [b.macs for b in lissom.units(net, x).blocks] == [b.macs for b in one.blocks]


def test_macs_of_a_model_that_is_tied_to_its_batch_size() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x.reshape(4, 6))

    assert measure(Tied(), torch.randn(4, 6)).macs == 6 * 8
