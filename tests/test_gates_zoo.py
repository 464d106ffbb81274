"""Architectures of the zoo: a closed gate is the same as a unit that is removed."""

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
