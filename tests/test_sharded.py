"""Networks that several processes share: zeros and values are those of one process.

Each test starts its processes once, and looks at many cases of them.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import sharded_cases as cases
import torch
from products import exhaustive, thinned
from torch import Tensor, distributed

import lissom

pytestmark = [
    exhaustive,
    pytest.mark.skipif(not distributed.is_gloo_available(), reason="needs gloo"),
    pytest.mark.filterwarnings("ignore"),  # of layers that a strong penalty leaves empty
]

Told = list[dict[Any, Any]]


def differing(
    ranks: Told, alone: Mapping[Any, list[Tensor]], near: float, *, zeros: bool = True
) -> list[str]:
    """The cases in which a process ended otherwise than one that was alone."""
    wrong = []
    for number, rank in enumerate(ranks):
        for name, expected in alone.items():
            for one, several in zip(expected, rank[name], strict=True):
                if zeros and not torch.equal(one == 0, several == 0):
                    wrong.append(f"{name}, process {number}: other zeros")
                if not torch.allclose(several, one, atol=near, rtol=10 * near):
                    off = float((several - one).abs().max())
                    wrong.append(f"{name}, process {number}: {off:.1e} off")
    return wrong


def every(names: Iterable[Any], make: Callable[[Any], Any]) -> dict[Any, Any]:
    return {name: make(name) for name in names}


@pytest.mark.parametrize("world", thinned([2, 3], 2))
def test_products(world: int, tmp_path: Path) -> None:
    ranks = cases.in_processes(world, cases.products, tmp_path)
    alone = every(cases.CASES, lambda case: cases.trained(case, None, None))
    for case, found in alone.items():
        some = any(bool((p == 0).any()) for p in found if p.ndim > 1)
        assert some or case[1] == "L1Ball", case
    for wrapper in cases.wrappers(world):
        several = [every(cases.CASES, lambda case, r=r, w=wrapper: r[case, w]) for r in ranks]
        assert not differing(several, alone, 1e-6), wrapper


def test_at_rest(tmp_path: Path) -> None:
    """To the last bit."""
    ranks = cases.in_processes(3, cases.at_rest, tmp_path)
    alone = every(cases.AT_REST, lambda name: cases.AT_REST[name](lambda net: net))
    assert not differing(ranks, alone, 0.0)


def test_rows_that_were_never_looked_up(tmp_path: Path) -> None:
    ranks = cases.in_processes(2, cases.tables, tmp_path)
    alone = every(cases.WORDS, lambda name: cases.words(lambda net: net, *cases.WORDS[name]))
    start = cases.Words().table.weight
    assert all(torch.equal(p[0][9:], start[9:]) for name, p in alone.items() if name != "columns")
    assert not differing(ranks, alone, 1e-6)


def test_other_placements(tmp_path: Path) -> None:
    ranks = cases.in_processes(4, cases.planned, tmp_path)
    alone = every(cases.DENSE_CASES, lambda case: cases.dense(lambda net: net, *case))
    for plan in ("tensor", "both", "hybrid"):
        several = [every(alone, lambda case, r=r, p=plan: r[p, *case]) for r in ranks]
        assert not differing(several, alone, 1e-6), plan


def test_compressions(tmp_path: Path) -> None:
    ranks = cases.in_processes(2, cases.compressions, tmp_path)
    alone = every(cases.LC_CASES, lambda case: cases.compressed(case, None, None))
    for wrapper in cases.LC_WRAPPERS:
        several = [every(alone, lambda case, r=r, w=wrapper: r[case, w]) for r in ranks]
        assert not differing(several, alone, 1e-5, zeros=False), wrapper


def test_in_the_forward_pass(tmp_path: Path) -> None:
    ranks = cases.in_processes(2, cases.forwards, tmp_path)
    alone = every(cases.FORWARD, lambda name: cases.FORWARD[name](lambda net: net))
    for how in ("layers", "root"):
        several = [every(alone, lambda name, r=r, h=how: r[name, h]) for r in ranks]
        assert not differing(several, alone, 2e-5, zeros=False), how


def test_log_alpha_learns_from_all_processes(tmp_path: Path) -> None:
    ranks = cases.in_processes(2, cases.shares, tmp_path)
    alone = cases.on_shares(lambda net: net, 0, 1)
    own = cases.on_shares(lambda net: net, 0, 8)
    assert not torch.allclose(alone[-1], own[-1], atol=1e-3)  # one's own examples are not all
    assert not differing(ranks, {"gates": alone}, 1e-5)


def test_saving_and_loading(tmp_path: Path) -> None:
    ranks = cases.in_processes(2, cases.saving_and_loading, tmp_path)
    for rank in ranks:
        for before, after in zip(rank["before"], rank["after"], strict=True):
            assert torch.equal(before, after)
        for name, count, tensors in (("checkpoint", 6, "ended"), ("ended", 8, "last")):
            found, step = rank[f"from {name}"]
            assert step == count
            for one, several in zip(rank[tensors], found, strict=True):
                assert torch.equal(one, several)
    for rank in cases.in_processes(3, cases.loading, tmp_path):  # by more processes
        for name, tensors in (("checkpoint", "ended"), ("ended", "last")):
            found = {"loaded": rank[f"from {name}"][0]}
            assert not differing([found], {"loaded": ranks[0][tensors]}, 1e-6), name
    net = cases.network()
    optimizer = cases.optimizer_of(net, "adaptive")
    budget = lissom.TopK(fraction=lissom.schedules.cubic(1.0, 0.1, steps=6))
    method = lissom.proximal(optimizer, {lissom.weights(net): budget}, metric="adaptive")
    cases.steps(net, optimizer, 3)
    with method.deployed():
        deployed = [p.detach().clone() for p in net.parameters()]
        answer = net.eval()(cases.X).detach()
    assert not differing(ranks, {"deployed": deployed}, 1e-6)
    for rank in ranks:
        torch.testing.assert_close(rank["answer"], answer, atol=1e-5, rtol=1e-4)


def test_saving_other_methods(tmp_path: Path) -> None:
    for rank in cases.in_processes(2, cases.saving_others, tmp_path):
        for method in ("lc", "lc, not begun", "gates"):
            for one, several in zip(rank[method, "on"], rank[method, "loaded"], strict=True):
                assert torch.equal(one, several), method


TOLD = {
    "shrink": "is sharded over processes, and a pass through its graph needs whole weights",
    "export": "is sharded over processes, and export needs whole weights",
    "channels": "take groups.of(model) afterwards",
    "nested": "method 'nested' would see one shard of it",
    "gate": "log α is whole in every process: gate units",
    "low rank": "makes factors of whole matrices",
    "of": "this Linear has no 0.weight, of which the groups are",
    "adaptive ZeRO": "metric='adaptive' needs to know how ZeroRedundancyOptimizer scales",
    "FSDP1": "shard the model by torch.distributed.fsdp.fully_shard instead",
    "tensor parallel": "stays sharded in the call of its layer",
}


def test_what_is_not_known_says_so(tmp_path: Path) -> None:
    weights = lissom.measure(cases.network()).weights
    for rank in cases.in_processes(2, cases.refused, tmp_path):
        for what, told in TOLD.items():
            assert told in rank[what], (what, rank[what])
        assert rank["measure"] == weights  # of all processes


def test_zero(tmp_path: Path) -> None:
    ranks = cases.in_processes(2, cases.zero, tmp_path)
    assert not differing(ranks, {"zero": cases.with_zero(False)}, 1e-6)
