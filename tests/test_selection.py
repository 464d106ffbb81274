"""The κ-th largest: the same as by a stable sort, whatever the numbers are."""

import math
from typing import Any

import pytest
import torch
from devices import DEVICES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lissom import selection
from lissom.selection import Cut, Near, kth_largest

INF, NAN = math.inf, math.nan


def chosen(numbers: Tensor, cut: Cut) -> Tensor:
    """Which numbers the cut lets in, as its docstring says; NaN is above every number."""
    tied = numbers == cut.threshold
    above = (numbers > cut.threshold) | numbers.isnan()
    return above | (tied if cut.ties is None else tied & (tied.cumsum(0) <= cut.ties))


def check(numbers: Tensor, k: int, near: Near | None = None) -> None:
    """The k largest, by a stable sort (NaN first, then by size, then by index)."""
    order = numbers.argsort(descending=True, stable=True)
    expected = torch.zeros(len(numbers), dtype=torch.bool, device=numbers.device)
    expected[order[:k]] = True

    cut = kth_largest(numbers, k, near)
    torch.testing.assert_close(cut.threshold, numbers[order[k - 1]], rtol=0, atol=0, equal_nan=True)
    assert cut.threshold.ndim == 0
    assert cut.threshold.dtype == numbers.dtype
    in_ = chosen(numbers, cut)
    if not cut.threshold.isnan():  # NaN are not told apart: all of them are in
        assert torch.equal(in_, expected)
        tied = int((numbers == cut.threshold).sum())
        assert cut.ties is None or 0 < cut.ties < tied
    else:
        assert torch.equal(in_, numbers.isnan())


few = st.lists(
    st.one_of(
        st.sampled_from([0.0, 1.0, 2.0, INF, NAN]),
        st.floats(0, width=32),
        st.floats(-10, 10, width=32),
    ),
    min_size=1,
    max_size=40,
)


@settings(deadline=None)
@given(values=few, data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_few_numbers(values: list[float], data: st.DataObject, dtype: torch.dtype) -> None:
    check(torch.tensor(values, dtype=dtype), data.draw(st.integers(1, len(values))))


@settings(deadline=None)
@given(
    values=few,
    data=st.data(),
    threshold=st.one_of(st.sampled_from([0.0, 1.0, INF, NAN]), st.floats(0, 3, width=32)),
    margin=st.sampled_from([1e-3, 0.25]),
)
def test_where_one_begins_to_look_does_not_matter(
    values: list[float], data: st.DataObject, threshold: float, margin: float
) -> None:
    near = Near(threshold, margin)
    for _ in range(2):
        check(torch.tensor(values), data.draw(st.integers(1, len(values))), near)


def test_of_numbers_that_change_a_little_few_are_put_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = []

    def parted(numbers: Any, place: int) -> Any:
        sizes.append(len(numbers))
        return in_order(numbers, place)

    in_order, near = selection._parted, Near()
    monkeypatch.setattr(selection, "_parted", parted)
    torch.manual_seed(0)
    numbers = torch.rand(50_000)
    for count in range(2500, 2480, -1):
        check(numbers, count, near)
        numbers = (numbers + 1e-4 * torch.randn(50_000)).abs()
    assert sizes[0] == 50_000 and sum(sizes[1:]) < 50_000


def numbers_of(kind: str, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, generator=generator, dtype=dtype)
    everywhere = torch.randperm(n, generator=generator)
    match kind:
        case "normal":
            return x
        case "few values":
            return (3 * x).round()
        case "half zeros":
            return x.clamp(min=0)
        case "all equal":
            return torch.full_like(x, 0.5)
        case "infinities":
            x[everywhere[: n // 3]] = INF
            x[everywhere[-(n // 4) :]] = -INF
        case "NaN":
            x[everywhere[: n // 3]] = NAN
        case "NaN and infinities":
            x[everywhere[: n // 3]] = NAN
            x[everywhere[n // 3 : n // 2]] = INF
        case "subnormal":
            x *= 1e-40
    return x


KINDS = [
    "normal",
    "few values",
    "half zeros",
    "all equal",
    "infinities",
    "NaN",
    "NaN and infinities",
    "subnormal",
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_numbers(kind: str, dtype: torch.dtype, device: str) -> None:
    n = 3001
    third = n // 3  # where NaN and infinities end
    for k in (1, 2, 30, third - 1, third, third + 1, n // 2, n // 2 + 1, n - 30, n - 1, n):
        check(numbers_of(kind, n, dtype).to(device), k)
