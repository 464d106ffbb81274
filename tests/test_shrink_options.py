"""Options of shrink, its report, optimizers that go on, and what save and load give back."""

import copy
import json
from pathlib import Path
from random import random
from typing import Any

import pytest
import torch
from devices import DEVICES
from products import few
from shrink_cases import EXACT, apart, assert_equal, drawn, fresh, outputs, report, zero_
from torch import Tensor, nn

import lissom
from lissom.errors import GroupError, LissomError, RunError
from lissom.running import as_inputs
from lissom.shrinking.verify import difference


def example(*shape: int, batch: int = 2) -> Tensor:
    return fresh(torch.empty(batch, *shape, dtype=torch.float64), 0)[0]


class Small(nn.Module):
    """Two convolutions with a norm between, and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(2, 20, 3), nn.BatchNorm2d(20)
        self.b, self.head = nn.Conv2d(20, 7, 3), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.norm(self.a(x)).relu()).relu().mean((2, 3)))


X = example(2, 8, 8)


def net(dead: int = 9) -> Small:
    made = drawn(Small())
    zero_(made.a.weight[:dead], made.norm.weight[:dead], made.norm.bias[:dead])
    zero_(made.b.weight[:2], made.b.bias[:2])
    return made


# round_to


@pytest.mark.parametrize(
    "multiple, widths",
    [(1, (11, 5)), (4, (12, 5)), (8, (16, 5)), (16, (16, 5)), (64, (11, 5))],
)
def test_round_to(multiple: int, widths: tuple[int, int]) -> None:
    """Up to a multiple, where there are so many units."""
    large = net()
    small = lissom.shrink(large, X, round_to=multiple)
    assert (small.a.out_channels, small.b.out_channels) == widths
    assert_equal(large, small, X)
    rounded = f"widths are multiples of {multiple}" in str(report(small))
    assert rounded == (widths[0] > 11)


# in_place and optimizers


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for n in steps:
        optimizer.zero_grad()
        model(fresh(X, n)[0]).square().mean().backward()
        optimizer.step()


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_on(name: str) -> None:
    """Cut in place, training goes on as with every tensor sliced by hand."""
    model = net()
    opt = OPTIMIZERS[name](model.parameters())
    train(model, opt, range(3))
    zero_(model.a.weight[:9], model.norm.weight[:9], model.norm.bias[:9])
    zero_(model.b.weight[:2], model.b.bias[:2])
    by_hand = Small().double().eval()
    by_hand.a, by_hand.norm = nn.Conv2d(2, 11, 3), nn.BatchNorm2d(11)
    by_hand.b, by_hand.head = nn.Conv2d(11, 5, 3), nn.Linear(5, 3)
    by_hand.double().eval()
    cuts = {"a.weight": {0: 9}, "a.bias": {0: 9}, "norm.weight": {0: 9}, "norm.bias": {0: 9},
            "b.weight": {0: 2, 1: 9}, "b.bias": {0: 2}, "head.weight": {1: 2}}  # fmt: skip

    def sliced(key: str, tensor: Tensor) -> Tensor:
        for dim, start in cuts.get(key, {}).items():
            tensor = tensor.narrow(dim, start, tensor.shape[dim] - start)
        return tensor.detach().clone()

    other = OPTIMIZERS[name](by_hand.parameters())
    with torch.no_grad():
        twins = dict(by_hand.named_parameters())
        for key, p in model.named_parameters():
            twins[key].copy_(sliced(key, p))
            other.state[twins[key]] = {
                k: sliced(key, v) if isinstance(v, Tensor) and v.ndim else copy.deepcopy(v)
                for k, v in opt.state[p].items()
            }
    before = [id(p) for p in model.parameters()]
    small = lissom.shrink(model, X, in_place=True)
    assert small is model and [id(p) for p in model.parameters()] == before
    assert all(p.grad is None for name, p in model.named_parameters() if name in cuts)
    report(small).slice_optimizer(opt, dict(model.named_parameters()))
    for module in (small, by_hand):  # statistics by hand too
        module.norm.running_mean.zero_()
        module.norm.running_var.fill_(1)
    train(small, opt, range(3, 7))
    train(by_hand, other, range(3, 7))
    for (key, p), q in zip(small.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("inputs", [False, True])
def test_moments_of_a_model_with_a_part_called_net(inputs: bool) -> None:
    """As the network within the selection of inputs is called."""

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    model = drawn(Outer())
    opt = torch.optim.Adam(model.parameters())
    model(example(6)).sum().backward()
    opt.step()
    zero_(model.net[0].weight[:3], model.net[0].bias[:3], model.net[0].weight[:, 1])
    kept = model.net[2].weight
    moments = opt.state[kept]["exp_avg"].clone()
    small = lissom.shrink(model, example(6), in_place=True, inputs=inputs)
    report(small).slice_optimizer(opt, dict(small.named_parameters()))
    assert torch.equal(opt.state[kept]["exp_avg"], moments[:, 3:])
    small(example(6)).sum().backward()
    opt.step()


def test_a_failed_shrink_leaves_the_model_alone() -> None:
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(GroupError):
        lissom.shrink(model, example(5, 8, 8), in_place=True)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_averaged_weights_are_cut_along() -> None:
    """An EMA of the weights, sliced, is the small network's own."""
    model = net()
    average = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = lissom.shrink(model, X)
    cut = report(small).slice_state(average)
    fresh_one = copy.deepcopy(small)
    fresh_one.load_state_dict(cut)
    assert apart(model, fresh_one, X) <= EXACT
    keep = report(small).keep
    assert keep["a.weight"][0].tolist() == list(range(9, 20))
    assert keep["b.weight"][1].tolist() == list(range(9, 20))


# Modes, dtypes, devices


def test_modes_stay() -> None:
    model = net().train()
    model.norm.eval()
    small = lissom.shrink(model, X)
    assert model.training and not model.norm.training and model.a.training
    assert small.training and small.a.training
    assert not small.norm.training


@pytest.mark.parametrize("in_place", [False, True])
def test_training_in_training_mode(in_place: bool) -> None:
    model = net().train()
    small = lissom.shrink(model, X, in_place=in_place)
    opt = torch.optim.Adam(small.parameters(), 0.01)
    before = outputs(small, X)[0]
    train(small, opt, range(2))
    assert not torch.equal(before, outputs(small, X)[0])
    assert all(p.grad.shape == p.shape for p in small.parameters())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "dtype, within",
    [
        (torch.float64, 1e-10),
        (torch.float32, 1e-4),
        (torch.bfloat16, 5e-2),
        (torch.float16, 1e-2),
    ],
)
def test_precision_and_device(device: str, dtype: torch.dtype, within: float) -> None:
    model = net().to(device, dtype)
    x = X.to(device, dtype)
    model.a.bias.data[:3] = 0.5
    model.norm.bias.data[:3] = 0.5
    small = lissom.shrink(model, x)
    assert report(small).removed == 11 and report(small).folded == 3
    assert report(small).tolerance == within
    assert apart(model, small, fresh(x, 3)) <= within
    for p in small.parameters():
        assert p.dtype == dtype and p.device == x.device


@pytest.mark.parametrize("said", [{}, {"conv": "tf32", "rnn": "ieee"}, {"conv": "ieee"}])
def test_comparisons_are_of_whole_float32(said: dict[str, str]) -> None:
    """GPUs round to TF32 otherwise, and what computes the same would seem to differ."""
    cudnn, seen = torch.backends.cudnn, []
    owners = [cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul]

    def words() -> list[str]:
        return [owner.fp32_precision for owner in owners]

    class Seeing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(words())
            return super().forward(x)

    before = words()
    try:
        for owner, word in said.items():
            getattr(cudnn, owner).fp32_precision = word
        asked, model = words(), Seeing(3, 2)
        difference(model, model, [as_inputs(torch.ones(1, 3))])
        assert len(seen) == 2 and not any("tf32" in words for words in seen)
        assert words() == asked
    finally:
        for owner, word in zip(owners, before, strict=True):
            owner.fp32_precision = word


def test_frozen_parameters_stay_frozen() -> None:
    model = net()
    model.a.requires_grad_(False)
    small = lissom.shrink(model, X)
    assert not small.a.weight.requires_grad and small.b.weight.requires_grad


# Again, and the same


def test_shrinking_twice_removes_nothing() -> None:
    small = lissom.shrink(net(), X)
    again = lissom.shrink(small, X)
    assert report(again).removed == 0
    assert_equal(small, again, X)


def test_it_is_deterministic_and_draws_no_random_numbers() -> None:
    model = net()
    torch.manual_seed(5)
    first = lissom.shrink(model, X)
    drawn_after = torch.rand(())
    torch.manual_seed(5)
    assert torch.equal(torch.rand(()), drawn_after)
    second = lissom.shrink(model, X)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(),
                                                 strict=True))  # fmt: skip
    assert str(report(first)) == str(report(second))


# Verification


def test_inputs_of_the_users_own() -> None:
    seen: list[tuple[int, ...]] = []
    model = net()
    model.a.register_forward_pre_hook(lambda _, x: seen.append(tuple(x[0].shape)))
    lissom.shrink(model, X, verify=[example(2, 13, 9), (example(2, 6, 6),)])
    assert (2, 2, 13, 9) in seen and (2, 2, 6, 6) in seen
    with pytest.raises(LissomError, match="example_inputs is a tensor"):
        lissom.shrink(model, X, verify=["nonsense"])  # type: ignore[list-item]


def test_without_verification() -> None:
    model = net()
    small = lissom.shrink(model, X, verify=False)
    assert report(small).removed == 11
    assert_equal(model, small, X)


def test_a_random_model_is_refused() -> None:
    class Noise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).relu()) + random()

    with pytest.raises(LissomError, match=r"(?i)noise"):
        lissom.shrink(Noise().double(), example(4))


# The graph as the result


def test_as_graph() -> None:
    model = net()
    small = lissom.shrink(model, X, as_graph=True)
    assert isinstance(small, torch.fx.GraphModule) and report(small).as_graph
    assert report(small).removed == 11
    assert apart(model, small, example(2, 8, 8, batch=5)) <= EXACT  # any batch
    train(small, torch.optim.SGD(small.parameters(), 0.01), range(1))
    assert all(p.data_ptr() != q.data_ptr() for p in small.parameters()
               for q in model.parameters())  # fmt: skip
    assert "traced graph" in str(report(small))


def test_as_graph_from_one_example() -> None:
    model = net()
    small = lissom.shrink(model, X[:1], as_graph=True)
    assert apart(model, small, X) <= EXACT


# Inputs that may vanish


@pytest.mark.parametrize("flatten", [False, True])
def test_free_inputs(flatten: bool) -> None:
    layers = [nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3)]
    model = drawn(nn.Sequential(*([nn.Flatten()] if flatten else []), *layers))
    first = model[1] if flatten else model[0]
    zero_(first.weight[:, :7])
    x = example(3, 4) if flatten else example(12)
    small = lissom.shrink(model, x, inputs=True)
    assert report(small).removed == 7 and small.net[1 if flatten else 0].in_features == 5
    assert_equal(model, small, x)
    assert report(lissom.shrink(model, x)).removed == 0


# The report


def test_the_report() -> None:
    small = lissom.shrink(net(), X)
    found = report(small)
    assert found.removed == 11 and found.folded == 0 and found.kept == ()
    assert found.families == (("a.weight", "channels", 20, 11), ("b.weight", "channels", 7, 5))
    written = json.loads(json.dumps(found.to_dict()))
    assert written["removed"] == 11 and written["weights_after"] == found.weights[1]
    assert written["families"][0] == {
        "name": "a.weight", "kind": "channels", "before": 20, "after": 11,
    }  # fmt: skip
    text = str(found)
    assert "20" in text and "11" in text and f"{found.weights[0]:,} weights" in text
    tensor = torch.arange(20.0)
    assert torch.equal(found.slice("a.bias", tensor), tensor[9:])
    assert torch.equal(found.slice("unknown", tensor), tensor)


# Mistakes


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(round_to=0), "round_to is a whole number.*got 0"),
        (dict(round_to=2.5), "got 2.5"),
        (dict(round_to=True), "got True"),
        (dict(in_place=True, as_graph=True), "choose one"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LissomError, match=message):
        lissom.shrink(net(), X, **options)


@pytest.mark.parametrize(
    "x, message",
    [
        ("image", "example_inputs is a tensor"),
        ((), "at least one tensor"),
        (torch.empty(0, 2, 8, 8).double(), "at least one input"),
        (example(5, 8, 8), "does not run on example_inputs .2×5×8×8"),
        (X.float(), "does not run on example_inputs .* torch.float32"),
    ],
)
def test_impossible_examples(x: Any, message: str) -> None:
    with pytest.raises(LissomError, match=message):
        lissom.shrink(net(), x)


def test_a_network_within_a_wrapper_of_processes_is_asked_for() -> None:
    wrapped = nn.DataParallel(nn.Linear(3, 2))
    wrapped.forward = lambda x: nn.functional.linear(x, torch.ones(2, int(x.sum())))  # type: ignore
    with pytest.raises(GroupError, match="the network that is meant: give its"):
        lissom.shrink(wrapped, torch.ones(1, 3))


def test_control_flow_on_values() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) if x.sum() > 0 else x

    with pytest.raises(GroupError, match=r"torch.export cannot read Branch .*Control flow"):
        lissom.shrink(Branch().double(), example(4))


# Saving


class Buffered(nn.Module):
    """A buffer that the state dict leaves out, and tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(9, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.rand(6) + 0.5, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        return self.head(x + (self.body(x) * self.scale).relu())


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.rnn = nn.GRU(12, 5, batch_first=True)
        self.head = nn.Linear(5, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.rnn(x)[0])


class Split(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(3, 2), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).split([3, 5], 1)
        return self.b(a.relu()) + self.c(b.tanh())


def folded() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 3, bias=False))


def dead_rows(model: nn.Module) -> None:
    for part in (model[0].weight[:2], model[0].bias[:2]):
        zero_(part)


def dead_width(model: nn.Module) -> None:
    zero_(model.embedding.weight[:, :2], model.body.weight[:2], model.body.bias[:2])


def dead_head(model: nn.Module) -> None:
    for part in (model.attention.in_proj_weight, model.attention.in_proj_bias):
        for start in (0, 12, 24):
            zero_(part[start : start + 4])
    for part in model.rnn.parameters():
        zero_(part.view(3, 5, -1)[:, :2])


def dead_parts(model: nn.Module) -> None:
    for unit in (0, 1, 4):
        zero_(model.a.weight[unit], model.a.bias[unit])


SAVED = {
    "convolutions": (Small, lambda m: zero_(m.b.weight[:2], m.b.bias[:2]), X),
    "a made bias": (folded, dead_rows, example(4)),
    "tied and buffered": (Buffered, dead_width, torch.arange(8).view(2, 4)),
    "attention": (Attention, dead_head, example(5, 12)),
}


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.parametrize(
    "dtype", few([torch.float64, torch.float32, torch.bfloat16], [torch.bfloat16])
)
def test_what_is_saved_comes_back(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    make, damage, x = SAVED[name]
    model = drawn(make())
    damage(model)
    model.to(dtype)
    x = x.to(dtype) if x.is_floating_point() else x
    small = lissom.shrink(model, x)
    assert report(small).removed > 0
    path = tmp_path / "small"
    lissom.save(small, path)
    back = lissom.load(path, lambda: make().to(dtype))
    assert not back.training
    for inputs in (x, fresh(x, 1)):
        for a, b in zip(outputs(small, inputs), outputs(back, inputs), strict=True):
            assert torch.equal(a, b)
    assert sum(p.numel() for p in back.parameters()) == report(small).weights[1]
    if name.startswith("tied"):
        assert back.head.weight is back.embedding.weight


def test_trained_before_it_is_saved(tmp_path: Path) -> None:
    small = lissom.shrink(net(), X)
    train(small, torch.optim.SGD(small.parameters(), 0.01), range(2))
    lissom.save(small, tmp_path / "small")
    back = lissom.load(tmp_path / "small", lambda: Small().double())
    assert torch.equal(outputs(small, X)[0], outputs(back, X)[0])


def test_what_was_shrunk_twice_comes_back(tmp_path: Path) -> None:
    """The second time counts units among those that were left."""

    def make() -> nn.Sequential:
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()

    model, x = drawn(make()), example(4)
    for unit in (0, 3):  # at first of 6, and then of 5, where it is the one that was 4
        zero_(model[0].weight[unit], model[0].bias[unit])
        model = lissom.shrink(model, x)
    assert report(model).surgery.keep["0.weight"][0].tolist() == [1, 2, 3, 5]
    lissom.save(model, tmp_path / "small")
    back = lissom.load(tmp_path / "small", make)
    assert torch.equal(outputs(model, x)[0], outputs(back, x)[0])


def test_a_selection_of_inputs_comes_back(tmp_path: Path) -> None:
    model = drawn(nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3)))
    zero_(model[1].weight[:, :7])
    x = example(3, 4)
    small = lissom.shrink(model, x, inputs=True)
    lissom.save(small, tmp_path / "small")
    back = lissom.load(
        tmp_path / "small",
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3)).double(),
    )
    assert torch.equal(outputs(small, x)[0], outputs(back, x)[0])


def test_a_graph_comes_back(tmp_path: Path) -> None:
    model = drawn(Split())
    dead_parts(model)
    small = lissom.shrink(model, example(4))
    assert report(small).as_graph and report(small).removed == 3
    lissom.save(small, tmp_path / "small")
    back = lissom.load(tmp_path / "small")
    assert_equal(small, back, example(4))
    with pytest.raises(LissomError, match="takes an input of"):
        back(torch.zeros(4, dtype=torch.float64))
    with pytest.raises(RunError, match=r"lissom\.export writes a \.pt2"):
        lissom.save(small, tmp_path / "small.pt2")


def test_saving_what_was_not_shrunk(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"lissom.shrink returned, got Small"):
        lissom.save(net(), tmp_path / "small")
    with pytest.raises(RunError, match="no directory"):
        lissom.save(lissom.shrink(net(), X), tmp_path / "nowhere" / "small")


def test_loading_what_is_not_there_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "small"
    with pytest.raises(RunError, match="no file"):
        lissom.load(path, Small)
    lissom.save(lissom.shrink(net(), X), path)
    with pytest.raises(RunError, match="model_factory"):
        lissom.load(path)
    for other in (folded, lambda: Buffered()):
        with pytest.raises(RunError, match="not what the factory made"):
            lissom.load(path, other)
    whole = path.read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(RunError, match=r"not a readable safetensors file"):
            lissom.load(path, Small)
    with pytest.raises(RunError, match=r"call that yourself if you trust the file"):
        lissom.load(tmp_path / "small.pt2")


def test_a_larger_class_than_was_saved(tmp_path: Path) -> None:
    """A parameter that the file does not hold would stay random."""

    class Larger(Small):
        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.extra(super().forward(x))

    lissom.save(lissom.shrink(net(), X), tmp_path / "small")
    with pytest.raises(RunError, match="not what the factory made"):
        lissom.load(tmp_path / "small", lambda: Larger().double())


# select


class Flat(nn.Module):
    """Channels that are flattened, and a sum whose terms are read in part."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.again = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 6, 3, padding=1)
        self.fc, self.head = nn.Linear(6 * 4 * 4, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        x = x + self.again(x).relu()
        return self.head(self.fc(x.flatten(1)).relu())


def flat() -> Flat:
    made = drawn(Flat())
    dead = torch.arange(96) % 5 != 0
    with torch.no_grad():
        made.fc.weight[:, dead] = 0
        made.again.weight[:, 2:4] = 0
    return made


PIXELS = example(2, 6, 6)


def test_layers_select_the_inputs_that_they_read() -> None:
    """Single positions of a flattened channel, and channels of a stream, in the layers alone."""
    large = flat()
    whole = lissom.shrink(large, PIXELS)
    small = lissom.shrink(large, PIXELS, select=True)
    assert (whole.fc.in_features, small.fc.in_features) == (96, 20)
    assert (small.again.in_channels, small.again.out_channels) == (4, 6)
    assert_equal(large, small, PIXELS)
    assert small.fc.weight.requires_grad
    assert type(small.fc) is nn.Linear


def test_what_selects_is_saved_and_loaded_and_shrunk_again(tmp_path: Path) -> None:
    small = lissom.shrink(flat(), PIXELS, select=True)
    lissom.save(small, tmp_path / "small.safetensors")
    loaded = lissom.load(tmp_path / "small.safetensors", lambda: Flat().double())
    assert torch.equal(loaded(PIXELS), small(PIXELS))
    with torch.no_grad():
        small.fc.weight[:4] = 0
        small.fc.bias[:4] = 0
        small.fc.weight[:, 3] = 0
    again = lissom.shrink(small, PIXELS, select=True)
    assert again.fc.out_features == 5
    assert_equal(small, again, PIXELS)
    lissom.save(again, tmp_path / "again.safetensors")
    loaded = lissom.load(tmp_path / "again.safetensors", lambda: Flat().double())
    assert torch.equal(loaded(PIXELS), again(PIXELS))


def test_selecting_in_place_keeps_the_parameters() -> None:
    large = flat()
    before, weight = copy.deepcopy(large), large.fc.weight
    optimizer = torch.optim.Adam(large.parameters())
    large(PIXELS).sum().backward()
    optimizer.step()
    before.load_state_dict(large.state_dict())
    with torch.no_grad():
        for model in (large, before):
            zero_(model.fc.weight[:, 7:])
    small = lissom.shrink(large, PIXELS, select=True, in_place=True)
    report(small).slice_optimizer(optimizer, dict(small.named_parameters()))
    assert small is large and small.fc.weight is weight
    assert_equal(before, small, PIXELS)
    small(PIXELS).sum().backward()
    optimizer.step()


def test_a_layer_alone_selects_and_is_saved(tmp_path: Path) -> None:
    large = drawn(nn.Linear(6, 3))
    zero_(large.weight[:, 2:4])
    small = lissom.shrink(large, example(6), select=True)
    assert small.in_features == 4
    lissom.save(small, tmp_path / "small")
    loaded = lissom.load(tmp_path / "small", lambda: nn.Linear(6, 3).double())
    assert torch.equal(loaded(example(6)), small(example(6)))


def test_a_network_of_complex_outputs() -> None:
    """Which differ by rounding, as real ones do."""

    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))

        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft(self.net(x))

    large = drawn(Spectrum())
    zero_(large.net[0].weight[:3], large.net[0].bias[:2])  # the third is a constant
    small = lissom.shrink(large, example(6))
    assert report(small).removed == 3
    torch.testing.assert_close(small(example(6)), large(example(6)))
    far = copy.deepcopy(large)
    far.net[2].bias.data[1] += 1e-3
    apart, allowed = difference(large, far, [as_inputs(example(6))])
    assert allowed == 1e-10 and apart > 1e-6


def test_a_tied_or_functional_weight_is_read_whole() -> None:
    """Where the code does not call the layer, or another layer shares the weight."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
            self.b.weight = self.a.weight
            self.c = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(self.b(self.a(x).relu()), self.c.weight)

    tied = drawn(Tied())
    zero_(tied.a.weight[:, 2], tied.c.weight[:, 1])
    x = example(6)
    small = lissom.shrink(tied, x, select=True)
    assert_equal(tied, small, x)
    assert small.a.in_features == 6
