"""Honest counting: what is zero, and nothing else. What it costs is in test_costs.py."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lissom
from lissom import LissomError, measure
from lissom.measuring import Measurement, Variable


class One(nn.Module):
    """A single parameter with the numbers given."""

    def __init__(self, numbers: list[float], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(numbers, dtype=dtype))


def small() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1, bias=False))
    for parameter in net.parameters():
        nn.init.ones_(parameter)
    with torch.no_grad():
        net[0].weight[0] = 0
        net[0].bias[1] = 0
    return net


def test_counts_by_variable_and_in_total() -> None:
    found = measure(small())
    assert found.variables == (
        Variable("0.weight", 3, 6),
        Variable("0.bias", 1, 2),
        Variable("1.weight", 2, 2),
        Variable("1.bias", 2, 2),
        Variable("2.weight", 2, 2),
    )
    assert (found.nonzeros, found.weights) == (10, 14)
    assert found.sparsity == pytest.approx(4 / 14)


not_run = {"shape": None, "macs": None, "effective_macs": None}
numbers = st.lists(
    st.floats(width=32, allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, -0.0, 1e-5]),
    min_size=1,
    max_size=20,
)


@settings(deadline=None)
@given(numbers=numbers, tolerance=st.sampled_from([0.0, 1e-5, 0.5, math.inf]))
def test_within_the_tolerance_is_zero_and_nan_is_not(
    numbers: list[float], tolerance: float
) -> None:
    array = np.array(numbers, dtype=np.float32)
    zero = np.abs(array) <= np.float32(tolerance)
    found = measure(One(numbers), tolerance=tolerance)
    assert found.nonzeros == len(numbers) - int(zero.sum())
    assert found.weights == len(numbers)
    assert found.sparsity == pytest.approx(zero.mean())
    assert found.tolerance == tolerance


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_counts_exact_zeros(dtype: torch.dtype) -> None:
    smallest = torch.finfo(dtype).tiny
    found = measure(One([0.0, -0.0, smallest, -smallest, 1.0, math.nan, math.inf], dtype))
    assert found.nonzeros == 5


def test_a_weight_of_the_size_of_the_tolerance_is_zero() -> None:
    net = One([0.25, -0.25, 0.2500001, 0.0])
    assert measure(net, tolerance=0.25).nonzeros == 1
    assert measure(net).nonzeros == 3


def test_tied_parameters_count_once() -> None:
    net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5))
    net[1].weight = net[0].weight
    found = measure(net)
    assert [(v.name, v.weights) for v in found.variables] == [("0.weight", 15), ("1.bias", 5)]


def test_what_is_no_parameter_is_not_counted() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert measure(net).weights == 4 + 2 + 2 + 2  # running mean and variance are buffers


def test_frozen_and_empty_parameters() -> None:
    net = One([0.0, 1.0])
    net.w.requires_grad_(False)
    net.empty = nn.Parameter(torch.empty(0, 3))
    found = measure(net)
    assert found.variables == (Variable("w", 1, 2), Variable("empty", 0, 0))
    assert "empty" in str(found)


def test_measuring_changes_nothing() -> None:
    net = small()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.train()
    measure(net)
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_as_json() -> None:
    found = measure(small(), tolerance=1e-5)
    read = json.loads(json.dumps(found.to_dict()))
    assert read == {
        "variables": [
            {"name": "0.weight", "nonzeros": 3, "weights": 6},
            {"name": "0.bias", "nonzeros": 1, "weights": 2},
            {"name": "1.weight", "nonzeros": 2, "weights": 2},
            {"name": "1.bias", "nonzeros": 2, "weights": 2},
            {"name": "2.weight", "nonzeros": 2, "weights": 2},
        ],
        "nonzeros": 10,
        "weights": 14,
        "sparsity": pytest.approx(4 / 14),
        "tolerance": 1e-5,
        "layers": [
            {"name": "0", "type": "Linear", "nonzeros": 4, "weights": 8} | not_run,
            {"name": "1", "type": "BatchNorm1d", "nonzeros": 4, "weights": 4} | not_run,
            {"name": "2", "type": "Linear", "nonzeros": 2, "weights": 2} | not_run,
        ],
        "storage": [
            {"name": "0.weight", "dense": 24, "sparse": 13, "format": "bitmap", "coded": 5},
            {"name": "0.bias", "dense": 8, "sparse": 5, "format": "bitmap", "coded": 5},
            {"name": "1.weight", "dense": 8, "sparse": 8, "format": "dense", "coded": 4},
            {"name": "1.bias", "dense": 8, "sparse": 8, "format": "dense", "coded": 4},
            {"name": "2.weight", "dense": 8, "sparse": 8, "format": "dense", "coded": 4},
        ],
        "dense_bytes": 56,
        "sparse_bytes": 42,
        "coded_bytes": 22,
        "examples": None,
        "macs": None,
        "effective_macs": None,
        "uncounted": None,
        "neurons": None,
        "notation": None,
        "shrunk_weights": None,
        "unshrunk": None,
        "latency": None,
        "shrunk_latency": None,
    }
    assert Measurement(found.variables, 1e-5, found.layers, found.storage) == found


def test_as_text() -> None:
    lines = [line.split() for line in str(measure(small())).splitlines()]
    assert lines[0] == ["variable", "non-zeros", "weights", "zeros"]
    assert ["0.weight", "3", "6", "50.00", "%"] in lines
    assert ["1.weight", "2", "2", "0.00", "%"] in lines
    assert ["total", "10", "14", "28.57", "%"] in lines
    assert lines[-3] == ["bytes,", "dense", "56"]
    assert lines[-1] == ["bytes,", "by", "entropy", "22"]
    assert lines[-2] == ["bytes,", "smallest", "42", "(18", "bitmap,", "24", "dense)"]


def test_large_numbers_are_grouped() -> None:
    assert "1,234,567" in str(Measurement((Variable("w", 0, 1_234_567),)))


@pytest.mark.parametrize("tolerance", [-1e-9, -1, math.nan])
def test_a_negative_tolerance_is_quoted(tolerance: float) -> None:
    with pytest.raises(LissomError, match=rf"tolerance .* ≥ 0 .* got {tolerance!r}"):
        measure(small(), tolerance=tolerance)


def test_a_model_on_meta_has_no_numbers_yet() -> None:
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(2, 6, device="meta")
    for verb in (lissom.measure, lissom.units, lissom.shrink):
        with pytest.raises(LissomError, match=r"0\.weight has no numbers yet: it is on .* meta"):
            verb(net, x)


def test_a_model_that_has_no_numbers_yet() -> None:
    with pytest.raises(LissomError, match=r"0.weight has no numbers yet: run the model once"):
        measure(nn.Sequential(nn.LazyLinear(3)))


@pytest.mark.parametrize("net", [nn.ReLU(), nn.Sequential(), One([])], ids=str)
def test_a_model_without_parameters_is_named(net: nn.Module) -> None:
    with pytest.raises(LissomError, match=f"{type(net).__name__} has no parameters"):
        measure(net)


def test_the_inputs_are_left_as_they_were() -> None:
    x = torch.randn(2, 3)
    before = x.clone()
    measure(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2)), x)
    assert torch.equal(x, before)
