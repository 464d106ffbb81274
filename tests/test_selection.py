"""The κ-th largest: the same as by sorting, on both ways to it, whatever the numbers are."""

import math
from collections.abc import Sequence

import pytest
import torch
from devices import DEVICES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lissom import selection
from lissom.selection import Cut, kth_largest

INF, NAN = math.inf, math.nan


@pytest.fixture
def bracketed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a few thousand numbers the way of the many: a sample, a bracket, a pass."""
    monkeypatch.setattr(selection, "SMALL", 100)
    monkeypatch.setattr(selection, "SAMPLE", 256)


def chosen(parts: Sequence[Tensor], cut: Cut) -> Tensor:
    """Which numbers the cut lets in, as its docstring says; NaN is above every number."""
    numbers = torch.cat([part.flatten() for part in parts])
    tied = numbers == cut.threshold
    above = (numbers > cut.threshold) | numbers.isnan()
    return above | (tied if cut.ties is None else tied & (tied.cumsum(0) <= cut.ties))


def check(parts: Sequence[Tensor], k: int) -> None:
    """The k largest, by a stable sort (NaN first, then by size, then by index)."""
    numbers = torch.cat([part.flatten() for part in parts])
    order = numbers.argsort(descending=True, stable=True)
    expected = torch.zeros(len(numbers), dtype=torch.bool, device=numbers.device)
    expected[order[:k]] = True

    cut = kth_largest(lambda: parts, k, len(numbers))
    torch.testing.assert_close(cut.threshold, numbers[order[k - 1]], rtol=0, atol=0, equal_nan=True)
    assert cut.threshold.ndim == 0
    assert cut.threshold.dtype == numbers.dtype
    in_ = chosen(parts, cut)
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
def test_few_numbers_as_by_sorting(
    values: list[float], data: st.DataObject, dtype: torch.dtype
) -> None:
    k = data.draw(st.integers(1, len(values)))
    sizes = data.draw(st.lists(st.integers(0, len(values)), max_size=4).map(sorted))
    check(torch.tensor(values, dtype=dtype).tensor_split(sizes), k)


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
@pytest.mark.parametrize("way", ["at once", "bracketed"])
def test_every_kind_of_numbers(
    way: str, kind: str, dtype: torch.dtype, device: str, request: pytest.FixtureRequest
) -> None:
    if way == "bracketed":
        request.getfixturevalue("bracketed")
    n = 3001
    parts = numbers_of(kind, n, dtype).to(device).split(400)
    third = n // 3  # where NaN and infinities end
    for k in (1, 2, 30, third - 1, third, third + 1, n // 2, n // 2 + 1, n - 30, n - 1, n):
        check(parts, k)


@pytest.mark.usefixtures("bracketed")
@pytest.mark.parametrize("sizes", [[3000], [0, 2999, 1], [1] * 50 + [2950], [7] * 428 + [4]])
def test_parts_of_any_size(sizes: list[int]) -> None:
    parts = numbers_of("few values", 3000).split(sizes)
    for k in (1, 500, 1500, 2990):
        check(parts, k)


@pytest.mark.usefixtures("bracketed")
def test_parts_that_are_not_contiguous() -> None:
    x = numbers_of("few values", 4800)
    image = x[:2400].view(4, 6, 10, 10).to(memory_format=torch.channels_last)
    transposed, strided = x[2400:3600].view(30, 40).T, x[3600:][::2]
    for k in (1, 100, 2000, 4000):
        check([image, transposed, strided], k)


@pytest.mark.usefixtures("bracketed")
@pytest.mark.parametrize("k", [10, 1000, 1900])
@pytest.mark.parametrize("lie", [0.0, -9.0, 9.0, INF, -INF, NAN])
def test_a_sample_that_lies(lie: float, k: int) -> None:
    # Just the numbers that the sample takes say nothing about the others.
    x = torch.rand(2000, generator=torch.Generator().manual_seed(0))
    stride = 2000 // selection.SAMPLE | 1
    x[::stride] = lie
    check([x], k)
    check(x.split(130), k)


@pytest.mark.usefixtures("bracketed")
@pytest.mark.parametrize("nans", range(990, 1011))
def test_about_as_many_nans_as_are_asked_for(nans: int) -> None:
    x = numbers_of("normal", 2000)
    x[torch.randperm(2000, generator=torch.Generator().manual_seed(nans))[:nans]] = NAN
    check(x.split(300), 1000)


@pytest.mark.usefixtures("bracketed")
@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**31), spread=st.sampled_from([3, 30, 10**6]), data=st.data())
def test_many_numbers_as_by_sorting(seed: int, spread: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(101, 4000))
    k = data.draw(st.integers(1, n))
    x = torch.randint(spread, (n,), generator=torch.Generator().manual_seed(seed)).float()
    check(x.split(data.draw(st.integers(1, n))), k)


def test_more_numbers_than_are_held_at_once() -> None:
    n = selection.SMALL + 12_345
    x = torch.rand(n, generator=torch.Generator().manual_seed(0))
    for k in (1, n // 50, n):
        check(x.split(2**20), k)


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that was made."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.size = max(self.size, out.numel())
        return out


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_many_numbers_are_not_copied(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(selection, "SMALL", 1000)
    monkeypatch.setattr(selection, "SAMPLE", 8192)
    n = 200_000
    parts = numbers_of("normal", n).split(1000)
    with Largest() as largest:
        kth_largest(lambda: parts, round(share * n), n)
    assert 0 < largest.size < n / 10
