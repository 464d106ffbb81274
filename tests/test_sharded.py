"""Networks that several processes share: zeros and values are those of one process."""

from typing import Any

import pytest
import sharded_cases as cases
import torch
from products import exhaustive
from torch import distributed

import lissom

pytestmark = [
    exhaustive,
    pytest.mark.skipif(not distributed.is_gloo_available(), reason="needs gloo"),
]


@pytest.fixture(scope="module", params=[2, 3])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("ranks")
    return cases.in_processes(request.param, cases.products, folder)


@pytest.mark.parametrize("wrapper", cases.WRAPPERS)
@pytest.mark.parametrize("case", cases.CASES, ids=" of ".join)
def test_as_one_process(found: Any, case: tuple[str, str, str], wrapper: str) -> None:
    alone = cases.trained(case, None, None)
    assert case[1] == "L1Ball" or any(bool((p == 0).any()) for p in alone if p.ndim > 1)
    for rank in found:
        for one, several in zip(alone, rank[case, wrapper], strict=True):
            assert torch.equal(one == 0, several == 0)
            torch.testing.assert_close(several, one, atol=1e-6, rtol=1e-5)


def processes(world: int, work: Any) -> Any:
    """A fixture: what some work gives in each of so many processes."""

    @pytest.fixture(scope="module")
    def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
        folder = tmp_path_factory.mktemp("ranks")
        return cases.in_processes(world, work, folder), folder

    return made


at_rest = processes(3, cases.at_rest)
tables = processes(2, cases.tables)
compressed = processes(2, cases.compressions)
forwards = processes(2, cases.forwards)
shares = processes(2, cases.shares)
planned = processes(4, cases.planned)
zero = processes(2, cases.zero)
refused = processes(2, cases.refused)
others = processes(2, cases.saving_others)
saved = processes(2, cases.saving_and_loading)


@pytest.mark.parametrize("name", cases.AT_REST)
def test_at_rest(at_rest: Any, name: str) -> None:
    alone = cases.AT_REST[name](lambda net: net)
    for rank in at_rest[0]:
        for one, several in zip(alone, rank[name], strict=True):
            assert torch.equal(one, several)


@pytest.mark.parametrize("wrapper", cases.LC_WRAPPERS)
@pytest.mark.parametrize("case", cases.LC_CASES, ids=" ".join)
def test_compressions(compressed: Any, case: tuple[str, ...], wrapper: str) -> None:
    alone = cases.compressed(case, None, None)
    for rank in compressed[0]:
        for one, several in zip(alone, rank[case, wrapper], strict=True):
            torch.testing.assert_close(several, one, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("how", ["layers", "root"])
@pytest.mark.parametrize("name", cases.FORWARD)
def test_in_the_forward_pass(forwards: Any, name: str, how: str) -> None:
    alone = cases.FORWARD[name](lambda net: net)
    for rank in forwards[0]:
        for one, several in zip(alone, rank[name, how], strict=True):
            torch.testing.assert_close(several, one, atol=2e-5, rtol=1e-4)


def test_log_alpha_learns_from_all_processes(shares: Any) -> None:
    alone = cases.on_shares(lambda net: net, 0, 1)
    start = cases.on_shares(lambda net: net, 0, 8)
    assert not torch.allclose(alone[-1], start[-1], atol=1e-3)  # one's own examples are not all
    for rank in shares[0]:
        for one, several in zip(alone, rank["gates"], strict=True):
            torch.testing.assert_close(several, one, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", cases.WORDS)
def test_rows_that_were_never_looked_up(tables: Any, name: str) -> None:
    alone = cases.words(lambda net: net, *cases.WORDS[name])
    start = cases.Words().table.weight
    assert name == "columns" or torch.equal(alone[0][9:], start[9:])
    for rank in tables[0]:
        for one, several in zip(alone, rank[name], strict=True):
            assert torch.equal(one == 0, several == 0)
            torch.testing.assert_close(several, one, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("case", cases.DENSE_CASES, ids=" of ".join)
@pytest.mark.parametrize("plan", ["tensor", "both", "hybrid"])
def test_other_placements(planned: Any, plan: str, case: tuple[str, str]) -> None:
    alone = cases.dense(lambda net: net, *case)
    for rank in planned[0]:
        for one, several in zip(alone, rank[plan, *case], strict=True):
            assert torch.equal(one == 0, several == 0)
            torch.testing.assert_close(several, one, atol=1e-6, rtol=1e-5)


def test_deployed_is_what_the_processes_gather(saved: Any) -> None:
    net = cases.network()
    groups = lissom.weights(net)
    optimizer = cases.optimizer_of(net, "adaptive")
    budget = lissom.TopK(fraction=lissom.schedules.cubic(1.0, 0.1, steps=6))
    method = lissom.proximal(optimizer, {groups: budget}, metric="adaptive")
    cases.steps(net, optimizer, 3)
    with method.deployed():
        for rank in saved[0]:
            for one, several in zip(net.parameters(), rank["deployed"], strict=True):
                torch.testing.assert_close(several, one.detach(), atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(rank["answer"], net.eval()(cases.X), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["lc", "gates"])
def test_saving_other_methods(others: Any, method: str) -> None:
    for rank in others[0]:
        for one, several in zip(rank[method, "on"], rank[method, "loaded"], strict=True):
            assert torch.equal(one, several)


def test_saving_changes_nothing(saved: Any) -> None:
    for rank in saved[0]:
        for before, after in zip(rank["before"], rank["after"], strict=True):
            assert torch.equal(before, after)
        for name, count, tensors in (("checkpoint", 6, "ended"), ("ended", 8, "last")):
            found, step = rank[f"from {name}"]
            assert step == count
            for one, several in zip(rank[tensors], found, strict=True):
                assert torch.equal(one, several)


def test_loaded_by_more_processes(saved: Any) -> None:
    ranks, folder = saved
    for rank in cases.in_processes(3, cases.loading, folder):
        for name, tensors in (("checkpoint", "ended"), ("ended", "last")):
            for one, several in zip(ranks[0][tensors], rank[f"from {name}"][0], strict=True):
                assert torch.equal(one == 0, several == 0)
                torch.testing.assert_close(several, one, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("shrink", "is sharded over processes, and a pass through its graph needs whole weights"),
        ("export", "is sharded over processes, and export needs whole weights"),
        ("channels", "take groups.of(model) afterwards"),
        ("nested", "method 'nested' would see one shard of it"),
        ("gate", "log α is whole in every process: gate units"),
        ("low rank", "makes factors of whole matrices"),
        ("of", "this Linear has no 0.weight, of which the groups are"),
        ("adaptive ZeRO", "metric='adaptive' needs to know how ZeroRedundancyOptimizer scales"),
        ("FSDP1", "shard the model by torch.distributed.fsdp.fully_shard instead"),
        ("tensor parallel", "stays sharded in the call of its layer"),
    ],
)
def test_what_is_not_known_says_so(refused: Any, what: str, told: str) -> None:
    assert all(told in rank[what] for rank in refused[0]), refused[0][0][what]


def test_measured_as_a_whole(refused: Any) -> None:
    weights = lissom.measure(cases.network()).weights
    assert [rank["measure"] for rank in refused[0]] == [weights, weights]


def test_zero(zero: Any) -> None:
    for rank in zero[0]:
        for one, several in zip(cases.with_zero(False), rank["zero"], strict=True):
            assert torch.equal(one == 0, several == 0)
            torch.testing.assert_close(several, one, atol=1e-6, rtol=1e-5)
