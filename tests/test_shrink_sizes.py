"""What depends on the sizes of the inputs, or is written to, is no constant and no spare row."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from shrink_cases import EXACT, apart, drawn
from torch import Tensor, nn
from torch.nn import functional as F

import lissom
from lissom.errors import GroupError, LissomError, OptimizerError

WIDTH = 8


class Tokens(nn.Module):
    """Words, something along them, and a dense layer; half of what the table gives is zero."""

    def __init__(self, along: Callable[["Tokens", Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.words = nn.Embedding(20, WIDTH)
        self.lift = nn.Linear(WIDTH, WIDTH)
        self.positions = nn.Parameter(torch.randn(1, 32, WIDTH))
        self.register_buffer("mask", torch.ones(32, 32).tril())
        self.head = nn.Linear(WIDTH, 3)
        self.along = along
        with torch.no_grad():
            self.lift.weight[: WIDTH // 2] = 0

    def forward(self, t: Tensor) -> Tensor:
        """[batch, length] → [batch, 3], whatever the length."""
        h = self.along(self, t, torch.sigmoid(self.lift(self.words(t))))
        out: Tensor = self.head(h.mean(1) if h.ndim == 3 else h)
        return out


ALONG = {
    "table": lambda m, t, h: h + m.positions[:, : t.shape[1]],
    "mask": lambda m, t, h: m.mask[: t.shape[1], : t.shape[1]] @ h,
    "softmax": lambda m, t, h: h.softmax(1),
    "sum": lambda m, t, h: h.sum(1),
    "norm": lambda m, t, h: torch.linalg.vector_norm(h, dim=1),
    "over length": lambda m, t, h: h / t.shape[1],
    "over batch": lambda m, t, h: h / t.shape[0],
    "first of all": lambda m, t, h: torch.cat([m.positions[:, :1].expand(len(t), -1, -1), h], 1),
    "positions": lambda m, t, h: h * torch.arange(t.shape[1])[None, :, None],
}


@pytest.mark.parametrize("along", ALONG.values(), ids=ALONG.keys())
def test_other_sizes_than_the_examples(along: Callable[..., Tensor]) -> None:
    net = Tokens(along).double().eval()
    small = lissom.shrink(net, torch.randint(20, (2, 6)))
    for batch, length in ((2, 6), (5, 6), (2, 12), (3, 31), (2, 2)):
        t = torch.randint(20, (batch, length))
        torch.testing.assert_close(small(t), net(t), rtol=0, atol=1e-10)


def test_a_model_that_counts_its_runs_is_left_alone() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
            self.register_buffer("runs", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            return self.b(F.relu(self.a(x.sub_(0.5))))

    net, x = Counts().double().eval(), torch.randn(3, 4, dtype=torch.float64)
    before = x.clone()
    with torch.no_grad():
        net.a.weight[:3] = net.a.bias[:3] = 0
    small = lissom.shrink(net, x)
    assert small.shrinkage.removed == 3
    assert net.runs == small.runs == 0
    assert torch.equal(x, before)


def test_a_buffer_that_is_written_is_no_constant() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.m = nn.Linear(4, 8), nn.Linear(8, 8)
            self.register_buffer("state", torch.zeros(1, 8))

        def forward(self, x: Tensor) -> Tensor:
            out = self.m(self.state)
            self.state.copy_(self.a(x).mean(0, keepdim=True))
            return out

    net, x = Remembers().double().eval(), torch.randn(3, 4, dtype=torch.float64)
    small = lissom.shrink(net, x, verify=False)
    for _ in range(3):
        torch.testing.assert_close(small(x), net(x), rtol=0, atol=1e-12)


def test_a_value_that_is_read_and_then_overwritten() -> None:
    class Overwrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            before = self.b(h)
            return before + self.c(h.relu_())

    net = Overwrites().double().eval()
    with torch.no_grad():
        net.a.weight[:4] = 0
        net.a.bias[:2], net.a.bias[2:4] = 1, -1
    small = lissom.shrink(net, torch.randn(3, 4, dtype=torch.float64))
    assert small.shrinkage.removed == small.shrinkage.folded == 4


def test_normalisation_of_instances_by_running_statistics() -> None:
    net = nn.Sequential(
        nn.Conv1d(2, 6, 1), nn.InstanceNorm1d(6, affine=True, track_running_stats=True),
        nn.Conv1d(6, 3, 1),
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        net[0].weight[:3] = 0
        net[1].running_mean.normal_()
    assert lissom.shrink(net, torch.randn(2, 2, 5).double()).shrinkage.removed == 3


def test_saving_after_two_shrinks(tmp_path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv1d(2, 16, 1), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv1d(16, 8, 1), nn.ReLU(),
            nn.Conv1d(8, 3, 1),
        ).double()  # fmt: skip

    net, x = make().eval(), torch.randn(2, 2, 5).double()
    with torch.no_grad():
        for tensor in (net[0].weight, net[0].bias, net[1].weight, net[1].bias):
            tensor[:8] = 0
    once = lissom.shrink(net, x)
    with torch.no_grad():
        once[3].weight[:5] = once[3].bias[:5] = 0
    twice = lissom.shrink(once, x)
    lissom.save(twice, tmp_path / "small.safetensors")
    again = lissom.load(tmp_path / "small.safetensors", make)
    assert torch.equal(again(x), twice(x))
    assert twice.shrinkage.keep["3.weight"][1].tolist() == list(range(8, 16))


def test_a_mask_for_each_head_follows_the_heads() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.head(self.attention(x, x, x, attn_mask=mask, need_weights=False)[0])

    net = Masked().double().eval()
    x, mask = torch.randn(2, 3, 8).double(), torch.randn(8, 3, 3).double()
    for family in lissom.heads(net, (x, torch.zeros(3, 3).double())):
        family.scale_(torch.tensor([0.0, 1.0, 0.0, 1.0]))
    small = lissom.shrink(net, (x, torch.zeros(3, 3).double()))
    torch.testing.assert_close(small(x, mask), net(x, mask), rtol=0, atol=1e-12)


def test_a_graph_refuses_sizes_it_was_not_made_for() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
    small = lissom.shrink(net.eval(), torch.randn(2, 1, 8, 8), as_graph=True)
    assert small(torch.randn(5, 1, 8, 8)).shape == (5, 2, 8, 8)
    with pytest.raises(LissomError, match="takes an input of any×1×8×8, got 2×1×9×8"):
        small(torch.randn(2, 1, 9, 8))


@pytest.mark.parametrize("verify", [True, False])
def test_copies_of_a_graph_refuse_what_it_refuses(verify: bool) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
    small = lissom.shrink(net.eval(), torch.randn(2, 1, 8, 8), as_graph=True, verify=verify)
    for twin in (copy.deepcopy(small), copy.deepcopy(copy.deepcopy(small))):
        assert twin(torch.randn(5, 1, 8, 8)).shape == (5, 2, 8, 8)
        with pytest.raises(LissomError, match="takes an input of any×1×8×8, got 2×1×9×8"):
            twin(torch.randn(2, 1, 9, 8))
        assert str(twin.shrinkage) == str(small.shrinkage)


def test_a_graph_is_not_pickled_into_what_cannot_be_read(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    small = lissom.shrink(net, torch.randn(2, 3), as_graph=True)
    with pytest.raises(LissomError, match=r"lissom\.save\(net, path\)"):
        torch.save(small, tmp_path / "small.pt")
    copy.copy(small)


def test_a_graph_that_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lissom.shrinking.case.Case.by_graph", lambda self: None)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with pytest.warns(UserWarning, match="as_graph=True asks for the traced graph of Sequential"):
        small = lissom.shrink(net, torch.randn(2, 3), as_graph=True)
    assert isinstance(small, nn.Sequential) and not small.shrinkage.as_graph


def test_a_loop_over_time_becomes_a_graph_of_one_length() -> None:
    """Its states begin in a size that is written in; torch unrolls the loop."""

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTMCell(3, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            h, c = x.new_zeros(x.size(0), 5), x.new_zeros(x.size(0), 5)
            for t in range(x.size(1)):
                h, c = self.cell(x[:, t], (h, c))
            return self.head(h)

    net, x = drawn(Loop()), torch.randn(2, 4, 3).double()
    lissom.neurons(net, x).scale_([torch.tensor([0.0, 1, 0, 1, 1])])
    small = lissom.shrink(net, x)
    assert small.shrinkage.as_graph and small.shrinkage.removed == 2
    assert apart(net, small, (torch.randn(7, 4, 3).double(),)) <= EXACT
    with pytest.raises(LissomError, match="takes an input of any×4×3, got 2×6×3"):
        small(torch.randn(2, 6, 3).double())


def test_units_of_a_model_that_was_cut_since() -> None:
    net, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(3, 4)
    units = lissom.neurons(net, x)
    units.blocks[0].scale_((torch.arange(8) > 2).float())
    lissom.shrink(net, x, in_place=True)
    with pytest.raises(GroupError, match=r"had 8 entries along dim 0 .* and has 5 now"):
        units.norms()


def test_a_state_of_another_shape_than_its_parameter_cannot_be_cut() -> None:
    net, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(3, 4)
    optimizer = torch.optim.Adafactor(net.parameters())
    net(x).sum().backward()
    optimizer.step()
    with torch.no_grad():
        net[0].weight[:3] = net[0].bias[:3] = 0
    lissom.shrink(net, x, in_place=True)
    with pytest.raises(OptimizerError, match="'row_var' of Adafactor has the shape"):
        net.shrinkage.slice_optimizer(optimizer, dict(net.named_parameters()))
