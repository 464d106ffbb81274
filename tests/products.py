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

exhaustive = pytest.mark.exhaustive
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


def mark_rest_of_products(items: Iterable[pytest.Item]) -> None:
    """`exhaustive` on the cases of each test marked `pairwise` that a cover of pairs can spare.

    Neither those that are `exhaustive` already nor, where there is no GPU, those that need one
    cover anything for the others.
    """
    products: dict[tuple[str, bool], list[pytest.Function]] = {}
    for item in items:
        if item.get_closest_marker("pairwise") and not item.get_closest_marker("exhaustive"):
            assert isinstance(item, pytest.Function), item
            test, on_gpu = item.nodeid.split("[")[0], item.get_closest_marker("gpu") is not None
            products.setdefault((test, on_gpu), []).append(item)
    for cases in products.values():
        cases.sort(key=lambda item: hashlib.sha256(item.nodeid.encode()).digest())
        kept = set(cover([levels(item.callspec.params) for item in cases]))
        for i, item in enumerate(cases):
            if i not in kept:
                item.add_marker(exhaustive)


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
