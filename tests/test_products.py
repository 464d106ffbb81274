"""The cover of pairs that make test runs: every pair is in it, and it is small."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from products import cover

pytest_plugins = ["pytester"]

HERE = Path(__file__).parent

FILE = """
import pytest
from products import exhaustive, few, pairwise, sampled, unlike

@pytest.fixture(params=["x", "y", "z"])
def third(request):
    return request.param

@pairwise
@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize(("second", "fourth"), [(True, 5), (False, 5), (False, 6)])
def test_many(first, second, third, fourth):
    assert not (second and fourth == 6)

@pairwise
@pytest.mark.parametrize("size", few([0, 1, 2], [1, 2]))
@pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("option", [1, 2])
def test_device(device, size, option):
    pass

@pairwise
@pytest.mark.parametrize("one", [1, 2, 3])
def test_alone(one):
    pass

@pytest.mark.parametrize("seed", few(range(9), range(2)))
def test_seeds(seed):
    pass

@sampled(2)
@pytest.mark.parametrize("seed", range(32))
def test_alike(seed):
    pass

@exhaustive
@unlike
@pytest.mark.parametrize("kind", range(8))
def test_kinds(kind):
    pass
"""


def product(*sizes: int) -> list[dict[str, int]]:
    return [dict(zip("abcde", row, strict=False)) for row in itertools.product(*map(range, sizes))]


def pairs(cases: list[dict[str, int]]) -> set[tuple[tuple[str, int], ...]]:
    return {pair for case in cases for pair in itertools.combinations(case.items(), 2)}


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(1, 5), min_size=2, max_size=4), data=st.data())
def test_every_pair_of_any_case_is_in_the_cover(sizes: list[int], data: st.DataObject) -> None:
    full = product(*sizes)
    out = data.draw(st.sets(st.integers(0, len(full) - 1)))  # what does not go together
    cases = [case for i, case in enumerate(full) if i not in out]
    chosen = cover(cases)
    assert chosen == sorted(set(chosen))
    assert pairs([cases[i] for i in chosen]) == pairs(cases)


@pytest.mark.parametrize(
    ("sizes", "most"), [((11, 2, 5, 2, 4), 60), ((3, 3, 3, 3), 12), ((9, 1), 9), ((2,) * 5, 8)]
)
def test_the_cover_is_small(sizes: tuple[int, ...], most: int) -> None:
    """At least a · b cases are needed where a and b are the largest numbers of values."""
    first, second = sorted(sizes)[-2:]
    assert first * second <= len(cover(product(*sizes))) <= most


def test_the_cover_of_one_factor_and_of_nothing() -> None:
    assert cover([{"a": 1}, {"a": 2}, {"a": 1}]) == [0, 1]
    assert cover([{}]) == [0]
    assert cover([]) == []


def ids(pytester: pytest.Pytester, of: Path, *options: str) -> list[str]:
    """Of the cases that are run."""
    pytester.makepyprojecttoml((HERE.parent / "pyproject.toml").read_text())
    pytester.makeconftest((HERE / "conftest.py").read_text())
    done = pytester.inline_run(of, "-p", "no:cacheprovider", *options)
    passed, skipped, _ = done.listoutcomes()
    return [report.nodeid.split("::")[1] for report in (*passed, *skipped)]


def test_of_many_cases_test_all_runs_some(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(name: str, *options: str) -> int:
        return sum(name in one for one in ids(pytester, file.parent, *options))

    file = pytester.makepyfile(FILE)
    monkeypatch.delenv("LISSOM_ALL", raising=False)
    assert count("alike") == 2
    assert count("alike", "-m", "exhaustive") == 6
    assert count("kinds", "-m", "exhaustive") == 8
    assert count("seeds", "-m", "") == 2 + 2
    assert count("many") == count("alone") == 2
    # Half of a cover of pairs, and a fifth of the others.
    assert 2 < count("many", "-m", "") < 3 * 3 * 3
    monkeypatch.setenv("LISSOM_ALL", "1")
    assert count("alike", "-m", "exhaustive") == 30


def test_what_is_left_out_is_run_by_test_all(pytester: pytest.Pytester) -> None:
    """Of a file that is named all of it."""
    file = pytester.makepyfile(FILE)
    quick, rest, whole = (
        ids(pytester, file, *options) for options in ((), ("-m", "exhaustive"), ("-m", ""))
    )
    assert len(whole) == 3 * 3 * 3 + 2 * 2 * 3 + 3 + 9 + 32 + 8
    assert sorted(quick + rest) == sorted(whole)
    assert ids(pytester, file) == quick  # the same at every call
    assert [name for name in quick if "seeds" in name] == ["test_seeds[0]", "test_seeds[1]"]
    assert len([name for name in quick if "alone" in name]) == 3
    assert len([name for name in quick if "cpu" in name]) == 4  # GPU and size 0 spare none
    many, everything = (
        [name.split("[")[1].rstrip("]").split("-") for name in names if "many" in name]
        for names in (quick, whole)
    )
    assert len(many) <= 11
    for factors in itertools.combinations(range(4), 2):
        found = {(name[factors[0]], name[factors[1]]) for name in many}
        assert found == {(name[factors[0]], name[factors[1]]) for name in everything}
