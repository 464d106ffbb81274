"""Schedules: exact ends, monotone in between, the published shapes, one after another."""

import math
import pickle
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lissom.errors import LissomError
from lissom.schedules import (
    Schedule,
    cosine,
    cubic,
    exponential,
    linear,
    multistep,
    value_at,
)

SHAPES = [linear, cubic, exponential, cosine]
Shape = Callable[[float, float, int], Schedule]

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
ends = st.floats(1e-6, 1e6)
lengths = st.integers(0, 1000)


@every_shape
@given(start=ends, end=ends, steps=lengths, before=st.integers(-5, 0), after=st.integers(0, 5))
def test_ends_are_exact(
    shape: Shape, start: float, end: float, steps: int, before: int, after: int
) -> None:
    schedule = shape(start, end, steps)
    assert schedule(before) == (start if steps else end)
    assert schedule(steps + after) == end


@every_shape
@given(start=ends, end=ends, steps=st.integers(1, 60))
def test_monotone_between_its_ends(shape: Shape, start: float, end: float, steps: int) -> None:
    values = [shape(start, end, steps)(n) for n in range(steps + 1)]
    slack = 1e-12 * max(start, end)
    rising = values if start <= end else values[::-1]
    assert all(a <= b + slack for a, b in pairwise(rising))
    assert min(start, end) - slack <= rising[0] and rising[-1] <= max(start, end) + slack


@given(n=st.integers(0, 50), start=st.floats(-10, 10), end=st.floats(-10, 10))
def test_linear_is_a_straight_line(n: int, start: float, end: float) -> None:
    assert linear(start, end, 50)(n) == pytest.approx(start + (end - start) * n / 50)


@given(n=st.integers(0, 50), start=st.floats(0, 1), end=st.floats(0, 1))
def test_cubic_is_the_ramp_of_zhu_and_gupta(n: int, start: float, end: float) -> None:
    # Eq. 1 for a density: s_f + (s_i − s_f)(1 − n/N)³.
    expected = end + (start - end) * (1 - n / 50) ** 3
    assert cubic(start, end, 50)(n) == pytest.approx(expected, abs=1e-12)


@given(start=st.floats(1e-3, 1e3), end=st.floats(1e-3, 1e3), n=st.integers(0, 49))
def test_exponential_multiplies_by_the_same_factor(start: float, end: float, n: int) -> None:
    schedule = exponential(start, end, 50)
    factor = (end / start) ** (1 / 50)
    assert schedule(n + 1) / schedule(n) == pytest.approx(factor, rel=1e-6)


@given(n=st.integers(0, 50), start=st.floats(0, 1), end=st.floats(0, 1))
def test_cosine_is_half_a_cosine(n: int, start: float, end: float) -> None:
    expected = end + (start - end) * (1 + math.cos(math.pi * n / 50)) / 2
    assert cosine(start, end, 50)(n) == pytest.approx(expected, abs=1e-12)


def test_the_middle_tells_the_shapes_apart() -> None:
    middle = [shape(1.0, 0.01, 10)(5) for shape in SHAPES]
    assert middle == pytest.approx([0.505, 0.13375, 0.1, 0.505])


@given(
    parts=st.lists(
        st.tuples(st.sampled_from(SHAPES), ends, ends, st.integers(0, 9)), min_size=1, max_size=5
    ),
    step=st.integers(-2, 60),
)
def test_then_follows_with_steps_of_its_own(
    parts: list[tuple[Shape, float, float, int]], step: int
) -> None:
    schedules = [shape(start, end, steps) for shape, start, end, steps in parts]
    chain = schedules[0]
    for schedule in schedules[1:]:
        chain = chain.then(schedule)

    left = max(step, 0)
    while left >= schedules[0].steps and len(schedules) > 1:
        left -= schedules.pop(0).steps
    assert chain(step) == schedules[0](left)


def test_then_leaves_the_parts_as_they_were() -> None:
    first, second, third = linear(0, 1, 10), linear(2, 3, 10), linear(4, 5, 10)
    assert first.then(second.then(third))(25) == first.then(second).then(third)(25) == 4.5
    assert first(25) == 1 and second(25) == 3


def test_a_schedule_prints_as_it_is_said() -> None:
    assert str(linear(0, 2e-4, 1000)) == "0→0.0002 over 1000 steps"
    chain = cubic(1, 0.08, 10).then(exponential(0.08, 0.02, 40))
    assert str(chain) == "1→0.08 over 10 steps, 0.08→0.02 over 40 steps"


def test_value_at_takes_a_number_or_a_schedule() -> None:
    assert value_at(0.3, 7) == 0.3
    assert value_at(linear(0, 1, 10), 7) == pytest.approx(0.7)


@every_shape
@pytest.mark.parametrize("steps", [-1, 2.0, 0.5, "10", None])
def test_a_length_that_cannot_be_is_quoted(shape: Shape, steps: object) -> None:
    with pytest.raises(LissomError, match="a whole number of steps ≥ 0, got ") as caught:
        shape(1.0, 0.5, steps)  # type: ignore[arg-type]
    assert repr(steps) in str(caught.value)


@every_shape
@pytest.mark.parametrize("end", [math.inf, math.nan])
def test_ends_must_be_finite(shape: Shape, end: float) -> None:
    with pytest.raises(LissomError, match=r"finite|start > 0 and end > 0"):
        shape(1.0, end, 10)


@pytest.mark.parametrize(("start", "end"), [(0, 1), (1, 0), (-1, 1), (1, -1), (-2, -1)])
def test_exponential_cannot_reach_zero(start: float, end: float) -> None:
    with pytest.raises(LissomError, match=r"linear\(\) and cubic\(\) can reach 0") as caught:
        exponential(start, end, 10)
    assert f"got {start!r} and {end!r}" in str(caught.value)


@given(
    start=ends,
    gamma=st.floats(0.01, 2),
    milestones=st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True).map(sorted),
    step=st.integers(-2, 60),
)
def test_multistep_multiplies_at_each_milestone(
    start: float, gamma: float, milestones: list[int], step: int
) -> None:
    passed = sum(milestone <= step for milestone in milestones)
    assert multistep(start, gamma, milestones)(step) == start * gamma**passed


def test_multistep_is_torchs() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 4, 8], gamma=0.2)
    ours = multistep(0.1, 0.2, [3, 4, 8])
    for step in range(12):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(ours(step))
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("milestones", [[], [0, 3], [3, 3], [5, 2], [-1]])
def test_milestones_in_another_order_are_quoted(milestones: list[int]) -> None:
    with pytest.raises(LissomError, match="steps in ascending order") as caught:
        multistep(1.0, 0.2, milestones)
    assert str(milestones) in str(caught.value)


@every_shape
def test_a_schedule_can_be_pickled(shape: Shape) -> None:
    schedule = shape(1, 0.1, 10).then(shape(0.1, 1, 5))
    again = pickle.loads(pickle.dumps(schedule))
    assert [again(n) for n in range(16)] == [schedule(n) for n in range(16)]
    assert again == schedule
