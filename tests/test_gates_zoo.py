"""Architectures of the zoo: a closed gate is the same as a unit that is removed."""

from typing import Any

import pytest
import torch
from gates_cases import delivered, gated, plain
from products import few, sampled
from shrink_cases import EXACT, apart, fresh, halves, report, traced_once
from torch import Tensor, nn
from zoo import FEW, Entry, build

import lissom
from lissom import L0
from lissom.coupling import units
from lissom.methods.gates import Gates

CLOSED, OPEN = -60.0, 60.0  # P(z ≠ 0) is 0 or 1 in float64, to all digits

FEWER = [e for e in FEW if e.name in ("mlp",)]
FROM_INPUTS = [e for e in FEW if e.name in ("mlp", "resnet18", "cross-attention")]


def half_closed(
    entry: Entry, *, inputs: bool = False, seed: int = 0
) -> tuple[Gates, list[Tensor], tuple[Tensor, ...]]:
    """Gates on all units of which a random half is closed for certain, and the others wide open."""
    model, example = build(entry)
    with traced_once():
        groups = units(model, example, inputs=inputs)
        gates = gated(model, {groups: L0(1.0)}, example_inputs=example)
    scales = halves(groups, seed)
    with torch.no_grad():
        flat = torch.cat([scale.flatten() for scale in scales])
        gates.log_alpha.copy_(torch.where(flat > 0, OPEN, CLOSED))
    return gates, scales, example


@pytest.mark.parametrize("entry", few(FEW, FEWER), ids=lambda e: e.name)
def test_a_closed_gate_is_a_removed_unit(entry: Entry) -> None:
    """Against zeros in the norm and in what goes with it, which knows nothing of gates."""
    gates, scales, example = half_closed(entry)
    cut = plain(gates)
    assert apart(cut, gates.model, fresh(example, 1)) > 1e-4  # the closed half matters
    units(cut, example).scale_(scales)
    hard = delivered(gates)
    for seed in (1, 2):
        inputs = fresh(example, seed)
        assert apart(cut, gates.model, inputs) <= EXACT
        assert apart(gates.model, hard, inputs) <= EXACT
    exact = 1e-4 if entry.rounds else EXACT
    small = lissom.shrink(hard, example)
    assert apart(gates.model, small, fresh(example, 3)) <= exact
    closed = sum(int((scale == 0).sum()) for scale in scales)
    assert report(small).removed >= closed > 0 and not report(small).kept
    left = sum(p.numel() for p in small.parameters() if p.requires_grad)
    assert gates.expected("weights").item() == pytest.approx(left, abs=1e-6)
    macs = lissom.measure(small, example).macs
    assert macs is not None
    assert gates.expected("macs").item() == pytest.approx(macs, rel=1e-9)


class Steps(nn.Module):
    """A recurrent layer that reads units, and whose units are read."""

    def __init__(self, kind: type[nn.RNNBase], width: int, **options: Any) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 4)
        self.steps = kind(4, width, batch_first=True, **options)
        directions = 2 if options.get("bidirectional") else 1
        self.head = nn.Linear((options.get("proj_size") or width) * directions, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.steps(self.stem(x))[0][:, -1])


RECURRENT: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    f"{kind.__name__}, {layers}, {directions}, {projected}": (
        kind,
        {
            "num_layers": layers,
            "bidirectional": directions == 2,
            **({"proj_size": projected} if projected else {}),
        },
    )
    for kind in (nn.RNN, nn.GRU, nn.LSTM)
    for layers in (1, 2)
    for directions in (1, 2)
    for projected in ((0, 4) if kind is nn.LSTM else (0,))
}


def test_costs_of_directions_that_share_their_weights() -> None:
    """A weight that is used twice costs twice, and is counted once."""
    model, example = Steps(nn.GRU, 6, bidirectional=True).double(), torch.rand(2, 7, 5).double()
    steps = model.steps
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        steps.register_parameter(f"{name}_reverse", getattr(steps, name))
    gates = gated(model, {units(model, example): L0(1.0)}, example_inputs=example)
    assert gates.total("macs") == lissom.measure(plain(gates), example).macs
    assert gates.total("weights") == sum(p.numel() for p in plain(gates).parameters())


@pytest.mark.parametrize("name", few(RECURRENT, ("GRU, 1, 1, 0", "LSTM, 2, 2, 4")))
def test_costs_of_recurrent_layers(name: str) -> None:
    """A weight that feeds back has both its dims in one unit, so that its cost is a square."""
    torch.manual_seed(0)
    kind, options = RECURRENT[name]
    model, example = Steps(kind, 6, **options).double(), torch.rand(2, 7, 5, dtype=torch.float64)
    gates = gated(model, {units(model, example): L0(1.0)}, example_inputs=example)
    assert gates.expected("macs").item() <= gates.total("macs")
    assert gates.total("macs") == lissom.measure(plain(gates), example).macs
    parts = [torch.arange(block.shape.numel()) % 2 for block in gates.blocks()]
    with torch.no_grad():
        gates.log_alpha.copy_(torch.where(torch.cat(parts) == 0, OPEN, CLOSED))
    small = lissom.shrink(delivered(gates), example)
    assert gates.expected("macs").item() == pytest.approx(lissom.measure(small, example).macs)
    left = sum(p.numel() for p in small.parameters())
    assert gates.expected("weights").item() == pytest.approx(left)


@sampled(1)
@pytest.mark.parametrize("entry", FROM_INPUTS, ids=lambda e: e.name)
def test_gates_on_inputs(entry: Entry) -> None:
    """A closed input is the same as one that is 0 for all examples, and the small net drops it."""
    gates, scales, example = half_closed(entry, inputs=True, seed=3)
    hard = delivered(gates)
    inputs = fresh(example, 1)
    assert apart(gates.model, hard, inputs) <= EXACT
    small = lissom.shrink(hard, example, inputs=True)
    assert apart(gates.model, small, inputs) <= EXACT
    left = sum(p.numel() for p in small.parameters())
    assert gates.expected("weights").item() == pytest.approx(left, abs=1e-6)
    assert sum(int((scale == 0).sum()) for scale in scales) > 0


THREE = [e for e in FEW if e.name in ("lstm-one-way", "mobilenet-v3", "gpt2")]


@sampled(1)
@pytest.mark.parametrize("end", [CLOSED, OPEN])
@pytest.mark.parametrize("entry", few(THREE, THREE[:1]), ids=lambda e: e.name)
def test_all_open_and_all_closed(entry: Entry, end: float) -> None:
    """Wide open gates change nothing; closed ones leave what does not depend on a unit."""
    model, example = build(entry)
    groups = units(model, example)
    gates = gated(model, {groups: L0(1.0)})
    with torch.no_grad():
        gates.log_alpha.fill_(end)
    cut = plain(gates)
    if end == CLOSED:
        units(cut, example).scale_([torch.zeros(block.shape) for block in groups])
    assert apart(cut, model, fresh(example, 1)) <= EXACT
    if end == OPEN:
        weights = sum(p.numel() for p in cut.parameters() if p.requires_grad)
        assert gates.expected("weights").item() == gates.total() == weights


def test_a_unit_that_more_than_weights_reads() -> None:
    """Channels that are also summed over: the rows and biases that make them are gated instead."""

    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.inner(x).relu()
            return self.head(h) + h @ h.transpose(-1, -2) @ self.head(h)

    torch.manual_seed(0)
    model = Summed().double()
    example = torch.randn(2, 4, 6, dtype=torch.float64)
    groups = units(model, example)
    gates = gated(model, {groups: L0(1.0)})
    mask = torch.tensor([1.0, 0, 1, 0, 1])
    with torch.no_grad():
        gates.log_alpha.copy_(torch.where(mask > 0, OPEN, CLOSED))
    cut = plain(gates)
    groups_of_cut = units(cut, example)
    groups_of_cut.scale_([mask])
    assert apart(cut, model, fresh(example, 1)) <= EXACT
    assert apart(model, delivered(gates), fresh(example, 1)) <= EXACT
