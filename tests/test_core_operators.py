"""Every one of torch's core operators has a decision: a rule, or a reason to keep what it reads."""

import pytest
import torch
from products import few
from random_networks import damage_, random_network
from shrink_cases import EXACT, apart, fresh, report
from torch import fx, nn

import lissom
from lissom.coupling.operators.declined import WHY, Declined
from lissom.coupling.records import RECORDS, Operator


def core_operators() -> set[str]:
    """Of all overloads that torch tags so: what every exported program can be brought down to."""
    found = set()
    for schema in torch._C._jit_get_all_schemas():
        namespace, _, name = schema.name.partition("::")
        if namespace == "aten":
            overload = getattr(getattr(torch.ops.aten, name), schema.overload_name or "default")
            if torch.Tag.core in overload.tags:
                found.add(name.removesuffix("_"))
    return found


def test_every_core_operator_has_a_decision() -> None:
    """A backward pass is none of a network in evaluation mode."""
    core = {name for name in core_operators() if not name.endswith("_backward")}
    assert len(core) > 140
    undecided = {n for n in core if n not in RECORDS or type(RECORDS[n]).couple is Operator.couple}
    assert undecided == set(), "give each a record, or a reason in coupling/operators/declined.py"


def test_reasons_are_given_by_those_that_have_no_rule() -> None:
    assert all(WHY.values())
    assert {name for name, record in RECORDS.items() if type(record) is Declined} == set(WHY)


def decomposed(model: nn.Module, x: tuple[torch.Tensor, ...]) -> nn.Module:
    """The model as a graph of core operators."""
    module = torch.export.export(model, x).run_decompositions().module()
    for node in list(module.graph.nodes):
        if node.op == "call_module" and not node.users:  # the check of the inputs' shapes
            module.graph.erase_node(node)
    return fx.GraphModule(module, module.graph)


@pytest.mark.parametrize("seed", few(range(20), [3]))
def test_networks_of_core_operators(seed: int) -> None:
    """Nothing is unknown in them, and what goes from them is exact."""
    net, x = random_network(seed)
    damage_(net.eval(), seed)
    core = decomposed(net, x)
    small = lissom.shrink(core, x)
    assert report(small).pinned_by == {}
    assert apart(net, small, fresh(x, seed)) <= EXACT
