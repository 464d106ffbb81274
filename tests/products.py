"""Which cases of a large product `make test` runs, and which it leaves to `make test-all`.

A test over k factors of n values has nᵏ cases. Little more than n² of them hold every pair of
values of any two factors; faults that need three at once are rare (Kuhn, Wallace & Gallo 2004).
"""

import hashlib
import os
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from itertools import combinations, product
from typing import Any

import pytest

MOST = 2  # cases of a test that make test runs
# What make test-all runs: of the other cases of a test, and of its exhaustive ones.
ONE_OF_OTHERS, ONE_OF_EXHAUSTIVE = 2, 5

exhaustive = pytest.mark.exhaustive
sampled = pytest.mark.sampled  # a number of cases
unlike = pytest.mark.unlike  # cases of which none stands for another
pairwise = pytest.mark.pairwise  # above all parametrize marks and fixtures of a test: their product


def few(values: Iterable[Any], keep: Collection[Any]) -> list[Any]:
    """The values, where those not in `keep` are left to make test-all."""
    return [v if v in keep else rest(v) for v in values]


def thinned(values: Iterable[Any], step: int) -> list[Any]:
    """Every step-th of many like cases; all of them where LISSOM_ALL is set."""
    return list(values)[:: 1 if os.environ.get("LISSOM_ALL") else step]


def covering(*factors: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Of a product, cases that hold every pair of values; all of them where LISSOM_ALL is set."""
    cases = list(product(*factors))
    if os.environ.get("LISSOM_ALL"):
        return cases
    return [cases[i] for i in cover([{str(i): x for i, x in enumerate(case)} for case in cases])]


def rest(*values: Any) -> Any:
    """A case that is left to make test-all."""
    return pytest.param(*values, marks=exhaustive)


def mark_rest_of_products(items: Iterable[pytest.Function]) -> None:
    """`exhaustive` on the cases of tests marked `pairwise` or `sampled` that others stand for.

    A cover of pairs can spare them, or there are as many as were asked for without them. Neither
    those that are `exhaustive` already nor, where there is no GPU, those that need one stand for
    the others.
    """
    for cases in by_test(item for item in items if not item.get_closest_marker("exhaustive")):
        kept = cases
        if kept[0].get_closest_marker("pairwise"):
            kept = [kept[i] for i in cover([levels(item.callspec.params) for item in kept])]
        if sampled := kept[0].get_closest_marker("sampled"):
            kept = kept[: sampled.args[0]]
        for item in set(cases).difference(kept):
            item.add_marker(exhaustive)


def left_out(items: Iterable[pytest.Function]) -> set[pytest.Function]:
    """The cases that `make test-all` does not run either, unless LISSOM_ALL is set."""
    if os.environ.get("LISSOM_ALL"):
        return set()
    alike = [item for item in items if not item.get_closest_marker("unlike")]
    rare = [item for item in alike if item.get_closest_marker("exhaustive")]
    return beyond(rare, ONE_OF_EXHAUSTIVE) | beyond(beyond_most(alike), ONE_OF_OTHERS)


def beyond(items: Iterable[pytest.Function], one_of: int) -> set[pytest.Function]:
    """All cases of each test but one of so many, and one at least."""
    return {item for cases in by_test(items) for item in cases[-(-len(cases) // one_of) :]}


def beyond_most(items: Iterable[pytest.Function]) -> set[pytest.Function]:
    """The cases that make test leaves to make test-all."""
    tests = by_test(item for item in items if not item.get_closest_marker("exhaustive"))
    return {item for cases in tests for item in cases[MOST:]}


def by_test(items: Iterable[pytest.Function]) -> list[list[pytest.Function]]:
    """The cases of each test, in an order that is always the same and has nothing to do with them.

    Those that need a GPU are by themselves.
    """
    tests: dict[tuple[str, bool], list[pytest.Function]] = {}
    for item in items:
        on_gpu = item.get_closest_marker("gpu") is not None
        tests.setdefault((item.nodeid.split("[")[0], on_gpu), []).append(item)
    for cases in tests.values():
        cases.sort(key=lambda item: hashlib.sha256(item.nodeid.encode()).digest())
    return list(tests.values())


def levels(params: Mapping[str, Any]) -> dict[str, Hashable]:
    """Values as they are told apart in one process: one object of a list of cases is one value."""
    plain = (bool, int, float, str)
    return {
        name: (type(value), value) if isinstance(value, plain) else id(value)
        for name, value in params.items()
    }


def cover(cases: Sequence[Mapping[str, Hashable]]) -> list[int]:
    """Indices of few cases that have every pair of values of two factors that is in any case.

    Greedy: next is the first of those with the most pairs that none had before.
    """
    pairs = [
        set(combinations(sorted(case.items(), key=lambda factor: factor[0]), min(2, len(case))))
        for case in cases
    ]
    left = set().union(*pairs)
    chosen: list[int] = []
    while left:
        gains = [len(mine & left) for mine in pairs]
        best = gains.index(max(gains))
        chosen.append(best)
        left -= pairs[best]
    return sorted(chosen)
