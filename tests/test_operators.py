"""One record for each operator: its units are found, shrunk, measured; a mistake in it is loud."""

import re
from pathlib import Path
from random import Random

import numpy as np
import pytest
import random_blocks
import torch
from products import few, sampled
from random_blocks import Spec
from random_networks import damage_, random_network
from shrink_cases import EXACT, apart, assert_equal, drawn, fresh, inputs, refusals, report, zero_
from shrink_cases import Between as Net
from stranger import ScaledLinear, Stranger
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from zoo import FEW, ZOO, build

import lissom
from lissom.coupling import couple, trace
from lissom.coupling.ops import call
from lissom.coupling.records import RECORDS, macs
from lissom.errors import LissomError, OperatorError
from lissom.measuring.macs import forward_pass
from lissom.operators import Operator, Unsupported, operator
from lissom.running import as_inputs

SEEDS = range(12)


# A stranger's record


def strange_network() -> nn.Module:
    return drawn(
        nn.Sequential(nn.Linear(5, 8), nn.ReLU(), Stranger(8, 6), nn.Tanh(), nn.Linear(6, 3))
    )


def test_a_record_is_short() -> None:
    text = (Path(__file__).parent / "stranger.py").read_text()
    [record] = re.findall("# The record: begin\n(.*)# The record: end", text, re.DOTALL)
    assert sum(bool(line.strip()) for line in record.splitlines()) <= 15


@pytest.mark.parametrize("as_graph", [None, True])
def test_a_strangers_operator_is_shrunk_exactly(as_graph: bool | None) -> None:
    net, x = strange_network(), inputs(4, 5)
    assert [len(family.labels) for family in lissom.coupling.units(net, x)] == [8, 6]
    zero_(net[0].weight[:3], net[0].bias[:3], net[2].weight[:2])
    net[0].weight.data[3] = 0  # its bias is left: a constant, which no bias of the stranger takes
    small = lissom.shrink(net, x, as_graph=as_graph)
    assert report(small).removed == 5
    assert report(small).pinned_by == {}
    assert_equal(net, small, x)


def test_a_strangers_operator_is_measured() -> None:
    net, x = strange_network(), inputs(4, 5)
    found = lissom.measure(net, x)
    assert {layer.name: layer.macs for layer in found.layers} == {
        "0": 4 * 5 * 8,
        "2": 4 * 8 * 6,
        "4": 4 * 6 * 3,
    }
    assert found.uncounted == ()
    zero_(net[2].weight[:3])
    assert lissom.measure(net, x).effective_macs == found.macs - 4 * 8 * 3


@sampled(2)
@pytest.mark.parametrize("seed", few(SEEDS, range(4)))
def test_random_networks_meet_a_strangers_operator(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, met = random_blocks.layer, []

    def layer(draw: Random, spec: Spec, outputs: int) -> nn.Module:
        if draw.random() < 0.6:
            met.append(spec)
            return Stranger(spec.width, outputs, spec.axis)
        return plain(draw, spec, outputs)

    monkeypatch.setattr(random_blocks, "layer", layer)
    net, x = random_network(1000 + seed)
    damage_(net, seed)
    with refusals() as refused:
        small = lissom.shrink(net, x)
    assert met and not refused
    assert "stranger::scaled_linear" not in report(small).pinned_by
    assert apart(net, small, fresh(x, seed)) <= EXACT


@pytest.mark.parametrize("question", ["couple", "constant", "sizes", "macs"])
def test_a_typo_in_a_record_is_an_error_with_its_name(
    question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def typo(self: Operator, *arguments: object) -> object:
        return arguments[0].lables  # type: ignore[attr-defined]

    broken = type("Broken", (ScaledLinear,), {question: typo})
    monkeypatch.setitem(RECORDS, "stranger::scaled_linear", broken())
    net, x = strange_network(), inputs(4, 5)
    zero_(net[0].weight[:3], net[0].bias[:3])
    said = f"{question} in the record .*Broken failed on the operator 'stranger::scaled_linear'"
    with pytest.raises(OperatorError, match=said) as caught:
        lissom.shrink(net, x)
    assert isinstance(caught.value.__cause__, AttributeError)
    if question == "macs":
        with pytest.raises(LissomError, match=said):
            lissom.measure(net, x)


NO_ANSWERS: dict[str, tuple[str, object]] = {
    "no axes": ("couple", None),
    "one axis": ("couple", np.zeros((1, 1, 6), np.int64)),
    "a list for one output": ("couple", [()]),
    "an axis of a vector": ("couple", (np.zeros(6, np.int64),)),
    "an axis of another size": ("couple", (np.zeros((1, 1, 5), np.int64),)),
    "an axis of fractions": ("couple", (np.zeros((1, 1, 6)),)),
    "a number": ("constant", 0.0),
    "a constant of another shape": ("constant", torch.zeros(6)),
    "a list of constants": ("constant", [None]),
    "no sizes": ("sizes", None),
    "a size that is a word": ("sizes", {"width": "6"}),
    "no macs": ("macs", None),
    "macs alone": ("macs", [240]),
    "half of a mac": ("macs", [(None, None, 0.5)]),
}


@sampled(7)
@pytest.mark.parametrize("what", NO_ANSWERS)
def test_an_answer_that_is_none_is_an_error_of_that_record(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    question, answer = NO_ANSWERS[what]
    broken = type("Broken", (ScaledLinear,), {question: lambda *_: answer})
    monkeypatch.setitem(RECORDS, "stranger::scaled_linear", broken())
    net, x = strange_network(), inputs(4, 5)
    said = rf"(?s){question} in the record .*Broken gave .* 'stranger::scaled_linear'"
    with pytest.raises(OperatorError, match=said):
        lissom.shrink(net, x)
    if question == "macs":
        with pytest.raises(OperatorError, match=said):
            lissom.measure(net, x)


@pytest.mark.parametrize("question", ["sizes", "rewrite"])
def test_what_cannot_be_declined(question: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def declines(*_: object) -> None:
        raise Unsupported

    broken = type("Broken", (ScaledLinear,), {question: declines})
    monkeypatch.setitem(RECORDS, "stranger::scaled_linear", broken())
    with pytest.raises(OperatorError, match=f"{question} in the record .*Broken failed"):
        lissom.shrink(strange_network(), inputs(4, 5), as_graph=True)


@pytest.mark.parametrize(
    "name", ["aten::linear", "add_", "mylib::add_", "linear.default", "mylib.twice", "", 3]
)
def test_names_that_no_call_has(name: str) -> None:
    with pytest.raises(OperatorError, match=re.escape(f"got {name!r}")):
        operator(name)
    with pytest.raises(OperatorError, match="needs a name"):
        operator()


def test_a_record_that_is_none() -> None:
    for kind in (Operator(), len, int):
        with pytest.raises(OperatorError, match="a record is a subclass"):
            operator("mylib::twice")(kind)  # type: ignore[type-var]
    assert "mylib::twice" not in RECORDS


def test_torch_has_every_operator_that_has_a_record_of_ours() -> None:
    plain = {name for name in RECORDS if "::" not in name} - {"getitem"}
    assert {name for name in plain if not hasattr(torch.ops.aten, name)} == set()


def test_a_mistake_in_a_record_of_ours_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lissom.coupling.operators.products.contract", lambda *_, **__: 1 / 0)
    with pytest.raises(OperatorError, match=r"products.Linear failed on the operator 'linear'"):
        lissom.coupling.units(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.randn(2, 3))


def test_a_form_that_is_declined_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    class Declines(ScaledLinear):
        def couple(self, c: object, call: object) -> object:
            raise Unsupported("the moon is full")

    monkeypatch.setitem(RECORDS, "stranger::scaled_linear", Declines())
    net, x = strange_network(), inputs(4, 5)
    zero_(net[0].weight[:3], net[0].bias[:3])
    found = report(lissom.shrink(net, x))
    assert (found.removed, found.pinned_by) == (0, {"stranger::scaled_linear": 1})
    assert "stranger::scaled_linear ×1 (the moon is full)" in str(found)


def test_an_operator_without_a_record_keeps_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    net = drawn(
        Net(lambda m, x: m.b(m.a(x).logsumexp(1)[:, None]), a=nn.Linear(4, 6), b=nn.Linear(1, 3))
    )
    zero_(net.a.weight[:2], net.a.bias[:2])
    monkeypatch.delitem(RECORDS, "logsumexp")
    found = report(lissom.shrink(net, inputs(4)))
    assert found.pinned_by == {"logsumexp": 1}
    assert found.reasons == {"logsumexp": "it has no rule"}


def test_a_size_that_depends_on_values_keeps_what_it_reads() -> None:
    """Which is known in no trace."""

    def early(m: nn.Module, x: Tensor) -> Tensor:
        h = m.a(x).relu()
        return m.b(h[:, torch.arange(h.shape[1]) < 3].sum(1, keepdim=True) + h)

    net = drawn(Net(early, a=nn.Linear(6, 8), b=nn.Linear(8, 3)))
    zero_(net.a.weight[:3], net.a.bias[:3])
    for as_graph in (None, True):
        small = lissom.shrink(net, inputs(5, 6), as_graph=as_graph)
        assert "its sizes depend on values" in report(small).reasons.values()
        assert_equal(net, small, inputs(5, 6))


def test_a_length_that_is_unbound_is_in_the_graph() -> None:
    """Nobody has tried another one, so it is refused."""

    def steps(m: nn.Module, x: Tensor) -> Tensor:
        parts = m.a(x).relu().unbind(1)
        h = torch.stack(parts, 1).reshape(-1, len(parts) * 8)
        return m.b(h.reshape(-1, len(parts), 8).mean(1))

    net = drawn(Net(steps, a=nn.Linear(6, 8), b=nn.Linear(8, 3)))
    zero_(net.a.weight[:3], net.a.bias[:3])
    small = lissom.shrink(net, inputs(5, 6), verify=False)
    assert (report(small).removed, report(small).as_graph) == (3, True)
    assert_equal(net, small, inputs(5, 6))
    with pytest.raises(LissomError, match=r"takes an input of .*×5×6, got 2×7×6"):
        small(inputs(7, 6))


@pytest.mark.parametrize("like", ["expand_as", "expand"])
def test_copies_are_as_many_as_the_other_one_has(like: str) -> None:
    def total(m: nn.Module, x: Tensor) -> Tensor:
        h = m.a(x).relu()
        of_all = h.sum(-1, keepdim=True)
        return m.b(of_all.expand_as(h) if like == "expand_as" else of_all.expand(-1, -1, 8))

    net = drawn(Net(total, a=nn.Linear(6, 8), b=nn.Linear(8, 3)))
    zero_(net.a.weight[:3], net.a.bias[:3], net.b.weight[:, 3:5])
    for as_graph in (None, True):
        assert_equal(net, lissom.shrink(net, inputs(5, 6), as_graph=as_graph), inputs(5, 6))
    zero_(net.b.weight[:, :3])
    assert report(lissom.shrink(net, inputs(5, 6))).removed >= 3


def test_a_later_record_takes_the_place_of_an_earlier_one() -> None:
    before = RECORDS["stranger::scaled_linear"]
    try:
        operator("stranger::scaled_linear")(Operator)
        assert type(RECORDS["stranger::scaled_linear"]) is Operator
        with pytest.raises(LissomError, match="no units"):
            lissom.coupling.units(nn.Sequential(Stranger(3, 4), Stranger(4, 2)), torch.randn(2, 3))
    finally:
        RECORDS["stranger::scaled_linear"] = before


# MACs: torch's own counter knows nothing of the records


def counted_by_torch(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Half the FLOPs that FlopCounterMode counts where nothing is fused."""
    mha, mkldnn = torch.backends.mha, torch.backends.mkldnn
    before = mha.get_fastpath_enabled(), mkldnn.enabled
    mha.set_fastpath_enabled(False)
    mkldnn.enabled = False  # type: ignore[assignment]
    try:
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model(*inputs)
    finally:
        mha.set_fastpath_enabled(before[0])
        mkldnn.enabled = before[1]
    return counter.get_total_flops() // 2


COUNTED = few([e for e in ZOO if e.name != "timm-cait"], FEW)


@sampled(4)
@pytest.mark.parametrize("entry", COUNTED, ids=lambda e: e.name)
def test_macs_of_the_zoo_are_torchs(entry: object) -> None:
    """All but CaiT, on which torch's counter fails."""
    model, x = build(entry, dtype=torch.float32)  # type: ignore[arg-type]
    assert forward_pass(model, as_inputs(x)).total == counted_by_torch(model, x) > 0


@sampled(2)
@pytest.mark.parametrize("seed", few(range(20), range(8)))
def test_macs_of_random_networks_are_torchs_and_those_of_the_graph(seed: int) -> None:
    model, x = random_network(seed)
    total = counted_by_torch(model, x)
    assert forward_pass(model, as_inputs(x)).total == total
    calls = [call(node) for node in trace(model, x).nodes if node.op == "call_function"]
    dots = any("..." in str(op["equation"]) for op in calls)  # which that record declines
    assert dots or sum(map(macs, calls)) == total


@pytest.mark.parametrize(
    "equation, shapes",
    [
        ("bi,io->bo", [(3, 4), (4, 5)]),
        ("bij,ijo->bo", [(3, 4, 2), (4, 2, 5)]),
        ("bhid,bhjd->bhij", [(3, 2, 4, 5), (3, 2, 6, 5)]),
        ("bij,jo->bo", [(3, 4, 2), (2, 5)]),
    ],
)
def test_macs_of_einsum_are_counted_once(equation: str, shapes: list[tuple[int, ...]]) -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(shapes[1]))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum(equation, x, self.weight)

    net, x = Product(), torch.randn(shapes[0])
    assert forward_pass(net, as_inputs(x)).total == counted_by_torch(net, (x,))
    coupler = couple(trace(net, x))
    assert sum(product.macs for product in coupler.products) in (0, counted_by_torch(net, (x,)))
