"""Every architecture of the zoo: half of all units zeroed, all of them removed, nothing changed."""

from functools import cache
from pathlib import Path

import pytest
import torch
from products import exhaustive, few, sampled, thinned
from shrink_cases import EXACT, Inputs, apart, fresh, outputs, report, traced_once, zero_half_
from torch import nn
from zoo import FEW, ZOO, Entry, build

import lissom
from lissom.coupling import units
from lissom.errors import GroupError

# Their channels meet a normalisation over tokens, or a gate over all of them: nothing is free.
WITHOUT_UNITS = {"timm-gmlp"}
WITH_UNITS = [entry for entry in ZOO if entry.name not in WITHOUT_UNITS]
# Scores of a dead head are 0, and after a softmax over T tokens 1/T: read by the heads that are
# mixed behind it, and no constant that a bias could take for every T.
STAY = {"timm-cait": 2}

each_entry = pytest.mark.parametrize(
    "entry", few(dict.fromkeys([*FEW, *thinned(WITH_UNITS, 2)]), FEW), ids=lambda entry: entry.name
)


@cache
def case(name: str, dtype: torch.dtype) -> tuple[nn.Module, Inputs, nn.Module, int]:
    """The network with half of its units zeroed, its inputs, the small one, and how many."""
    [entry] = (entry for entry in ZOO if entry.name == name)
    model, example_inputs = build(entry, dtype=dtype)
    with traced_once():
        zeroed = zero_half_(model, example_inputs)
        return model, example_inputs, lissom.shrink(model, example_inputs), zeroed


def test_the_zoo_is_large_enough() -> None:
    assert len(WITH_UNITS) >= 25


@sampled(2)
@each_entry
def test_all_zeroed_units_are_removed_exactly(entry: Entry) -> None:
    model, example_inputs, small, zeroed = case(entry.name, torch.float64)
    assert_all_removed(entry, small, zeroed)
    exact = 1e-4 if entry.rounds else EXACT
    for seed in (101, 102):
        inputs = fresh(example_inputs, seed)
        assert apart(model, small, inputs) <= exact
        assert any(y.abs().max() > 0 for y in outputs(model, inputs) if y.is_floating_point())
    weights, fewer = (sum(p.numel() for p in net.parameters()) for net in (model, small))
    assert report(small).weights == (weights, fewer) and fewer < weights


@exhaustive
@pytest.mark.parametrize("entry", thinned(WITH_UNITS, 3), ids=lambda entry: entry.name)
def test_float32_and_onnx(entry: Entry, tmp_path: Path) -> None:
    model, example_inputs, small, zeroed = case(entry.name, torch.float32)
    assert_all_removed(entry, small, zeroed)
    assert apart(model, small, fresh(example_inputs, 101)) <= 1e-4
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    exported = lissom.export(
        small, example_inputs, tmp_path / "small.onnx", pad=False, tolerance=1e-3
    )
    assert exported.difference is not None


@sampled(4)
@each_entry
def test_what_is_left_can_be_trained(entry: Entry) -> None:
    """Whatever had a gradient has one, and a step changes the output."""
    model, example_inputs, small, _ = case(entry.name, torch.float64)

    def gradients(net: nn.Module) -> set[str]:
        net.zero_grad()
        found = net(*example_inputs)
        parts = found if isinstance(found, tuple | list) else [found]
        sum(y.square().mean() for y in parts if y.is_floating_point()).backward()
        given = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
        assert all(g.isfinite().all() for g in given.values())
        return set(given)

    had = gradients(model)
    has = gradients(small)
    if not report(small).as_graph:
        assert has >= had
    before = outputs(small, example_inputs)
    copied = {name: p.detach().clone() for name, p in small.named_parameters()}
    torch.optim.SGD(small.parameters(), lr=1e-2).step()
    after = outputs(small, example_inputs)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    with torch.no_grad():  # the case is shared
        for name, p in small.named_parameters():
            p.copy_(copied[name])


def assert_all_removed(entry: Entry, small: nn.Module, zeroed: int) -> None:
    kept = sum(kept.units for kept in report(small).kept)
    assert zeroed > 0 and kept == STAY.get(entry.name, 0), report(small)
    assert report(small).removed >= zeroed - kept, report(small)


@pytest.mark.parametrize("name", sorted(WITHOUT_UNITS))
def test_networks_without_units(name: str) -> None:
    [entry] = (entry for entry in ZOO if entry.name == name)
    model, example_inputs = build(entry)
    with pytest.raises(GroupError, match="no units can be removed"):
        units(model, example_inputs)
    assert report(lissom.shrink(model, example_inputs)).removed == 0
