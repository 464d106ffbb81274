"""Where points go: the grid, the bend, and the search for both ends."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest

from lissom.curves.placing import Plan, Seen, bend

GRID = math.log(10)


def seen(strength: float, size: float, *errors: float, empty: bool = False) -> Seen:
    errors = errors or (0.1,)
    return Seen(strength, (math.log2(size),) * len(errors), errors, empty)


def walk(plan: Plan, curve: Callable[[float], Seen | None], dense: float = 1024) -> list[float]:
    """All strengths that a plan visits on a curve; None for a strength that fails."""
    tried: list[float] = []
    while True:
        known = [one for one in map(curve, sorted(tried, key=plan.order)) if one is not None]
        following = plan.following(tried, known, math.log2(dense))
        if not following:
            return tried
        tried += following
        assert len(tried) < 100


def smooth(strength: float) -> Seen:
    """Sizes fall from 1024 to 1, errors rise late."""
    fraction = 1 / (1 + strength)
    return seen(
        strength, max(1, 1024 * fraction), 0.9 * (1 - fraction) ** 20, empty=fraction < 1e-3
    )


def test_a_list_is_taken_as_it_is() -> None:
    assert walk(Plan((0.9, 0.5, 0.1), points=2), smooth) == [0.9, 0.5, 0.1]


@pytest.mark.parametrize(("points", "coarse"), [(3, 2), (4, 2), (7, 4), (12, 7)])
def test_an_interval_is_a_grid_and_then_one_at_a_time(points: int, coarse: int) -> None:
    tried = walk(Plan((1e-2, 1e4), points), smooth)
    assert len(tried) == points - 1
    assert tried[0] == 1e-2 and tried[coarse - 1] == 1e4
    factors = [b / a for a, b in pairwise(tried[:coarse])]
    assert factors == pytest.approx([factors[0]] * len(factors))
    assert all(1e-2 < strength < 1e4 for strength in tried[coarse:])
    assert len(set(tried)) == len(tried)


def test_a_falling_fraction_goes_from_dense_to_empty() -> None:
    plan = Plan((0.5, 0.001), points=8)
    tried = walk(plan, lambda kappa: seen(kappa, 1024 * kappa, (1 - kappa) ** 20))
    assert tried[:4] == sorted(tried[:4], reverse=True)
    assert sorted([None, 0.5, 0.001], key=plan.order) == [None, 0.5, 0.001]
    assert sorted([None, 0.5, 0.001], key=Plan((0.001, 0.5), 8).order) == [None, 0.001, 0.5]


def test_the_largest_rectangle_is_halved() -> None:
    known = [seen(1, 1024, 2**-6), seen(10, 512, 2**-5), seen(100, 16, 2**-2), seen(1000, 8, 1)]
    # Areas: 1·1, 3·5, 2·1 (log₂ of the error by halvings of the size).
    assert bend(known, [1, 10, 100, 1000], GRID) == [pytest.approx(math.sqrt(1000))]
    known[3] = seen(1000, 2**-4, 1)  # 2·8, against 3·5
    assert bend(known, [1, 10, 100, 1000], GRID) == [pytest.approx(math.sqrt(1e5))]


def test_without_a_change_in_error_the_largest_step_in_size() -> None:
    known = [seen(1, 1024), seen(10, 512), seen(100, 16), seen(1000, 8)]
    assert bend(known, [1, 10, 100, 1000], GRID) == [pytest.approx(math.sqrt(1000))]


def test_nothing_between_points_that_are_the_same_or_empty() -> None:
    same = [seen(1, 64), seen(10, 64)]
    assert bend(same, [1, 10], GRID) == []
    empty = [seen(1, 8, 0.8, empty=True), seen(10, 4, 0.9, empty=True)]
    assert bend(empty, [1, 10], GRID) == []
    assert bend([seen(1, 8, 0.7), empty[1]], [1, 10], GRID) != []
    chance = [seen(1, 64, 0.95), seen(10, 8, 0.8, empty=True)]  # not empty, and no better
    assert bend(chance, [1, 10], GRID) == []
    assert bend([], [], GRID) == [] == bend(same[:1], [1], GRID)


def test_noise_over_the_seeds_is_no_change() -> None:
    noisy = [seen(1, 64, 0.1, 0.2, 0.3), seen(10, 64, 0.2, 0.3, 0.4)]  # 0.1 against 2·0.08
    assert bend(noisy, [1, 10], GRID) == []
    clear = [seen(1, 64, 0.1, 0.11, 0.12), seen(10, 64, 0.2, 0.21, 0.22)]
    assert bend(clear, [1, 10], GRID) == [pytest.approx(math.sqrt(10))]


def test_not_again_where_a_strength_failed() -> None:
    known = [seen(1, 64, 0.1), seen(10, 8, 0.8)]
    middle = math.sqrt(10)
    assert bend(known, [1, 10], GRID) == [pytest.approx(middle)]
    assert bend(known, [1, 10, middle], GRID) == []


def test_a_jump_is_halved_three_times_and_left() -> None:
    def jump(strength: float) -> Seen:
        return seen(strength, 1024, 0.0) if strength < 50 else seen(strength, 1, 0.9, empty=True)

    tried = walk(Plan((1.0, 10_000.0), points=40), jump)
    assert len(tried) == 26 + 3  # then there is nothing left to be seen
    around = sorted(tried, key=lambda strength: abs(math.log(strength / 50)))[:2]
    assert abs(math.log(around[0] / around[1])) == pytest.approx(math.log(10_000) / 25 / 8)


def test_a_guess_is_searched_from_for_both_ends() -> None:
    tried = walk(Plan((1.0,), points=20), smooth)
    # 1024/(1 + p) ≥ 0.99·1024 from p = 0.0101 down; empty from p > 999.
    assert tried[:8] == [1.0, 1 / 8, 1 / 64, 1 / 512, 8.0, 64.0, 512.0, 4096.0]
    assert len(tried) == 19
    assert all(1 / 512 < strength < 4096 for strength in tried[8:])


def test_a_guess_beyond_an_end_is_searched_to_the_other() -> None:
    assert walk(Plan((1e5,), points=5), smooth) == [1e5, 1e5 / 8, 1e5 / 64, 1e5 / 512]
    assert walk(Plan((1e-6,), points=4), smooth) == [1e-6, 8e-6, 64e-6]


def test_a_strength_that_fails_ends_the_search_in_its_direction() -> None:
    tried = walk(Plan((1.0,), points=8), lambda p: None if p > 5 or p < 0.1 else smooth(p))
    assert tried[:4] == [1.0, 1 / 8, 1 / 64, 8.0]
    assert walk(Plan((1.0,), points=9), lambda p: None) == [1.0]
