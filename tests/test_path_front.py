"""Front, knee, slope, within and budget against brute force."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from path_cases import made_up

from lissom.curves import Curve
from lissom.curves.front import halvings, knee, pareto, slope
from lissom.errors import PathError

POINTS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 20).map(lambda e: e / 20)), min_size=1, max_size=12
)
# Fronts: sizes fall, errors grow.
FRONTS = st.tuples(
    st.lists(st.integers(1, 10**6), min_size=3, max_size=10, unique=True),
    st.lists(st.integers(0, 1000), min_size=10, max_size=10, unique=True),
).map(lambda both: (sorted(both[0], reverse=True), sorted(both[1])[: len(both[0])]))


def swept(points: list[tuple[int, float]]) -> set[tuple[int, float]]:
    """The front by a sweep from small to large: a point stays if its error is a new low."""
    best, front = math.inf, set()
    for size in sorted({size for size, _ in points}):
        lowest = min(error for s, error in points if s == size)
        if lowest < best:
            best = lowest
            front.add((size, lowest))
    return front


@given(POINTS)
def test_front_is_what_a_sweep_finds(points: list[tuple[int, float]]) -> None:
    kept = pareto(*zip(*points, strict=True))
    assert {points[i] for i in kept} == swept(points)
    assert len(kept) == sum(point in swept(points) for point in points)  # equal ones all stay
    sizes = [points[i][0] for i in kept]
    assert sizes == sorted(sizes, reverse=True)


@given(FRONTS)
def test_knee_is_the_point_furthest_from_the_chord(front: tuple[list[int], list[int]]) -> None:
    sizes, errors = front
    y = np.array(errors, float)
    y[y == 0] = y[y > 0].min() / 2
    x, y = np.log2(sizes), np.log2(y)
    x, y = (x - x.min()) / np.ptp(x), (y - y.min()) / np.ptp(y)
    # Signed distance from the line through the two ends, by the cross product.
    (x0, x1), (y0, y1) = x[[0, -1]], y[[0, -1]]
    away = ((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) / math.hypot(x1 - x0, y1 - y0)
    found = knee(sizes, errors, sizes[0])
    if away.max() < 1e-12:
        assert found is None
    else:
        assert found is not None and away[found] == pytest.approx(away.max(), abs=1e-12)


def test_knee_of_a_known_curve() -> None:
    sizes, errors = [2**10, 2**8, 2**4, 2**2, 2**0], [2**-6, 2**-6, 2**-5, 2**-3, 1.0]
    assert knee(sizes, errors, 2**10) == 2  # 1 − 4/10 − 1/6, against 2/10 and 1 − 2/10 − 3/6
    assert knee([16, 8, 4], [0.0, 0.25, 1.0], 16) == 1  # 0 counts as 1/8: 1 − 1/2 − 1/3
    assert knee(sizes[:2], errors[:2], 2**10) is None
    assert knee([4, 2, 1], [0.25, 0.5, 1.0], 4) is None  # a straight line
    assert knee([4, 2, 1], [0.25, 0.9, 1.0], 4) is None  # above it
    assert knee([3, 3, 3], [0.1, 0.1, 0.1], 3) is None
    assert knee([3, 2, 1], [0.0, 0.0, 0.0], 3) is None
    assert knee([16, 4, 2, 1], [0.25, 0.25, 2**-1.5, 1.0], 16) == 2  # a tie goes to the smaller
    # The straight line begins at a dominated 16: 1 − 2/4 and 1 − 1/4 − 1/2.
    assert knee([4, 2, 1], [0.25, 0.5, 1.0], 16) == 0


@given(FRONTS, st.floats(0, 1))
def test_slope_is_the_difference_of_a_halving(
    front: tuple[list[int], list[int]], where: float
) -> None:
    sizes, errors = front
    x = [math.log2(size) for size in sizes]

    def line(at: float) -> float:
        for (xa, ya), (xb, yb) in zip(
            zip(x, errors, strict=True), list(zip(x, errors, strict=True))[1:], strict=False
        ):
            if xb <= at <= xa:
                return ya + (yb - ya) * (xa - at) / (xa - xb)
        raise AssertionError(at)

    at = sizes[-1] + where * (sizes[0] - sizes[-1])
    here = min(max(math.log2(at), x[-1]), x[0])
    low, high = max(here - 0.5, x[-1]), min(here + 0.5, x[0])
    expected = (line(low) - line(high)) / (high - low)
    assert slope(sizes, errors, at) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_slope_between_nothing_and_a_single_weight() -> None:
    """An empty network counts as half a weight: below 1 the last straight line goes on to it."""
    slopes = [slope([100, 50, 0], [0.1, 0.2, 0.9], at) for at in (1, 0.5, 0.3, 0.1, 0)]
    assert slopes == pytest.approx([slopes[0]] * 5)


def test_slope_of_a_straight_line_is_the_same_everywhere() -> None:
    sizes, errors = [64, 16, 8, 1], [0.0, 0.2, 0.3, 0.6]  # 0.1 for each halving
    for at in (64, 40, 16, 9, 2, 1):
        assert slope(sizes, errors, at) == pytest.approx(0.1)
    assert slope([16, 4, 1], [0.0, 0.2, 1.0], 4) == pytest.approx((0.1 + 0.4) / 2)
    assert slope([16, 4, 1], [0.0, 0.2, 1.0], 16) == pytest.approx(0.1)
    assert slope([16, 4, 1], [0.0, 0.2, 1.0], 1) == pytest.approx(0.4)


def test_an_empty_network_is_half_a_weight() -> None:
    assert [halvings(size) for size in (0, 1, 2, 1024)] == [-1, 0, 1, 10]


ROWS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 50), min_size=2, max_size=2),
        st.lists(st.integers(0, 20).map(lambda e: e / 20), min_size=2, max_size=2),
    ),
    min_size=2,
    max_size=8,
)


def curve_of(rows: list[tuple[list[int], list[float]]], folder: Path) -> Curve:
    strengths = [float(i) for i in range(1, len(rows))]
    named = [(strength, *row) for strength, row in zip([None, *strengths], rows, strict=True)]
    return made_up(folder, named, strengths)  # type: ignore[arg-type]


@settings(deadline=None)
@given(ROWS, st.integers(-4, 20))
def test_within_is_the_smallest_of_all_that_are_good_enough(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[list[int], list[float]]],
    twentieths: int,
) -> None:
    more = twentieths / 20 + 0.01
    curve = curve_of(rows, tmp_path_factory.getbasetemp() / "within")
    means = [(sum(sizes) / 2, sum(errors) / 2) for sizes, errors in rows]
    good = [size for size, wrong in means if wrong <= means[0][1] + more]
    if not good:
        with pytest.raises(PathError, match="the lowest is error="):
            curve.within(error=more)
        return
    found = curve.within(error=more)
    assert found.size() == min(good)
    assert found.error == min(wrong for size, wrong in means if size == found.size())


@settings(deadline=None)
@given(ROWS, st.integers(0, 50))
def test_budget_is_the_best_of_all_that_fit(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[list[int], list[float]]],
    limit: int,
) -> None:
    curve = curve_of(rows, tmp_path_factory.getbasetemp() / "budget")
    fitting = [sum(errors) / 2 for sizes, errors in rows if max(sizes) <= limit]
    if not fitting:
        least = min(max(sizes) for sizes, _ in rows)
        with pytest.raises(PathError, match=f"the smallest is nonzeros={least}"):
            curve.budget(nonzeros=limit)
        return
    assert curve.budget(nonzeros=limit).error == min(fitting)
    assert curve.budget(nonzeros=limit).largest() <= limit
    assert curve.budget(bytes=4 * limit + 100).error == min(fitting)


@settings(deadline=None)
@given(ROWS)
def test_front_and_dominated_share_the_settings(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[list[int], list[float]]]
) -> None:
    curve = curve_of(rows, tmp_path_factory.getbasetemp() / "front")
    means = [(sum(sizes) / 2, sum(errors) / 2) for sizes, errors in rows]
    front = curve.front()
    assert {(s.size(), s.error) for s in front} == swept(means)  # type: ignore[arg-type]
    assert len(front) + len(curve.dominated()) == len(curve.settings)
    assert not {id(s) for s in front} & {id(s) for s in curve.dominated()}


NAN = math.nan
KNEED: list[tuple[float | None, list[float], list[float]]] = [
    (None, [1024, 1024, 1024], [0.0, 0.02, 0.04]),
    (1.0, [256, 256, 256], [0.01, 0.03, 0.05]),
    (2.0, [64, 16, NAN], [0.04, 0.06, NAN]),
    (3.0, [4, 2, 2], [0.5, 0.4, 0.4]),
    (4.0, [1, 1, 1], [0.9, 0.9, 0.9]),
]


def test_knee_and_its_range_over_seeds(tmp_path: Path) -> None:
    curve = made_up(tmp_path, KNEED, [1.0, 2.0, 3.0, 4.0])
    found = curve.knee()
    assert (found.strength, found.size, found.axis) == (2.0, 40, "nonzeros")
    assert found.error == pytest.approx(0.05)
    # 256: 1 − 0.8 − log₂ 2/log₂ 180, where 0 counts as 0.005; 16: 1 − 0.4 − log₂ 3/log₂ 45; of the
    # third seed, which has no 2.0: 2, with 1 − 0.1 − log₂ 10/log₂ 22.5.
    assert {seed: p.size() for seed, p in found.by_seed.items()} == {0: 256, 1: 16, 2: 2}
    assert found.range == (2, 256)
    assert "knee at strength 2: 40 nonzeros, error 5 % (seeds: 2 to 256 nonzeros)" in str(found)
    assert [p.seed for p in found.setting.failed] == [2]
    other = curve.knee("bytes")
    sizes = [p.size("bytes") for p in other.by_seed.values()]
    assert other.size == other.setting.size("bytes") > 100
    assert other.range == (min(sizes), max(sizes))


def test_a_front_without_a_knee_says_why(tmp_path: Path) -> None:
    flat = made_up(tmp_path, [(None, [8], [0.1]), (1.0, [4], [0.1]), (2.0, [2], [0.1])], [1, 2, 3])
    with pytest.raises(PathError, match=r"three settings, and this one has 1.*strength 2"):
        flat.knee()
    line = made_up(tmp_path, [(None, [4], [0.25]), (1.0, [2], [0.5]), (2.0, [1], [1.0])], [1, 2, 3])
    with pytest.raises(PathError, match="nowhere below the straight line"):
        line.knee()


def test_slope_at_a_size_a_point_a_setting_and_a_knee(tmp_path: Path) -> None:
    curve = made_up(tmp_path, KNEED, [1.0, 2.0, 3.0, 4.0])
    front = curve.front()
    sizes, errors = [s.size() for s in front], [s.error for s in front]
    assert curve.slope(front[1]) == curve.slope(256) == slope(sizes, errors, 256)
    assert curve.slope(curve.knee()) == slope(sizes, errors, 40)
    assert curve.slope(curve.points[0]) == slope(sizes, errors, 1024)
    assert curve.slope(1124, axis="bytes") == pytest.approx(
        slope([4 * size + 100 for size in sizes], errors, 1124)
    )
    with pytest.raises(PathError, match="from 1 to 1,024 nonzeros, and 2,000 is beyond"):
        curve.slope(2000)
    with pytest.raises(PathError, match="at is a Setting, a Point, a Knee or a number, got 'knee'"):
        curve.slope("knee")  # type: ignore[arg-type]
    flat = made_up(tmp_path, [(None, [8], [0.1]), (1.0, [8], [0.1])], [1, 2])
    with pytest.raises(PathError, match="two settings"):
        flat.slope(8)


def test_questions_that_cannot_be_answered(tmp_path: Path) -> None:
    curve = made_up(tmp_path, KNEED, [1.0, 2.0, 3.0, 4.0])
    with pytest.raises(PathError, match=r"no axis 'byte'. Did you mean 'bytes'"):
        curve.front("byte")
    with pytest.raises(PathError, match=r"of one size.*got none"):
        curve.budget()
    with pytest.raises(PathError, match="of one size"):
        curve.budget(nonzeros=3, bytes=4)
    with pytest.raises(PathError, match=r"no axis 'nonzero'. Did you mean 'nonzeros'"):
        curve.budget(nonzero=3)
    with pytest.raises(PathError, match="got nonzeros='3'"):
        curve.budget(nonzeros="3")  # type: ignore[arg-type]
    with pytest.raises(PathError, match="more than the dense one's, got nan"):
        curve.within(error=NAN)
    headless = made_up(tmp_path, [(None, [NAN], [NAN]), (1.0, [4], [0.1])], [1, 2])
    with pytest.raises(PathError, match="dense network failed"):
        headless.within(error=0.1)


def test_means_and_deviations_over_seeds(tmp_path: Path) -> None:
    curve = made_up(tmp_path, KNEED, [1.0, 2.0, 3.0, 4.0])
    dense, third = curve.settings[0], curve.settings[2]
    assert dense.error == pytest.approx(0.02) and dense.error_std == pytest.approx(0.02)
    assert (third.size(), third.largest()) == (40, 64)
    assert third.size_std() == pytest.approx(np.std([64, 16], ddof=1))
    assert third.to_dict()["seeds"] == [0, 1] and third.to_dict()["failed"] == [2]
    single = made_up(tmp_path, [(None, [8], [0.1])], [1, 2])
    assert math.isnan(single.settings[0].error_std)
    assert single.settings[0].to_dict()["error_std"] is None


def test_the_strategy_makes_fronts_with_and_without_knees() -> None:
    found = set()

    @given(FRONTS)
    def look(front: tuple[list[int], list[int]]) -> None:
        assert pareto(*front) == list(range(len(front[0])))
        found.add(knee(*front, front[0][0]) is None)

    look()
    assert found == {True, False}
