"""Options: spelt once in a dataclass, shown by the verbs that take them, checked by annotation."""

import inspect
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal

import pytest
import torch
from torch import nn

import lissom
from lissom.errors import MethodError
from lissom.methods import GateOptions, LCOptions, NestedOptions, Options, ProximalOptions
from lissom.methods.options import takes
from lissom.training import TrainOptions

VERBS = {
    lissom.proximal: ProximalOptions,
    lissom.gate: GateOptions,
    lissom.lc: LCOptions,
    lissom.nested: NestedOptions,
    lissom.subgradient: Options,
    lissom.Trainer: TrainOptions,
}


@pytest.mark.parametrize(("verb", "kind"), VERBS.items(), ids=lambda x: x.__name__)
def test_a_verb_shows_the_options_of_its_class(verb: Any, kind: Any) -> None:
    parameters = inspect.signature(verb).parameters
    assert "options" not in parameters and "**options" not in verb.__doc__
    for field in fields(kind):
        shown = parameters[field.name]
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        assert shown.default == default and shown.kind is shown.KEYWORD_ONLY
        assert f"\n    {field.name}: " in inspect.getdoc(verb), field.name


@pytest.mark.parametrize("verb", [lissom.proximal, lissom.lc, lissom.subgradient])
def test_a_misspelt_option_is_answered_with_the_nearest(verb: Any) -> None:
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    penalties = {lissom.weights(net): lissom.L1(1.0)}
    with pytest.raises(MethodError, match=r"'finalise_at'\. Did you mean 'finalize_at'"):
        verb(optimizer, penalties, finalise_at=3)


def test_lc_has_to_be_told_how_long_an_l_step_is() -> None:
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(MethodError, match="option 'every' has to be given"):
        lissom.lc(optimizer, {lissom.weights(net): lissom.TopK(1)})


@dataclass(frozen=True, kw_only=True)
class Mine(Options):
    """Options of a method of one's own."""

    order: Literal["first", "last", "random"] = "first"
    side: Literal["in", "out"] | None = None
    size: float | Literal["auto"] = "auto"
    loud: bool = False


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"order": "middle"}, "order is 'first', 'last' or 'random', got 'middle'"),
        ({"order": None}, "order is 'first', 'last' or 'random', got None"),
        ({"side": "up"}, "side is 'in', 'out' or None, got 'up'"),
        ({"size": "large"}, "size is a number or 'auto', got 'large'"),
        ({"loud": 1}, "loud is true or false, got 1"),
    ],
)
def test_words_are_checked_by_annotation(given: dict[str, Any], said: str) -> None:
    with pytest.raises(MethodError) as caught:
        Mine(**given)
    assert str(caught.value) == said and caught.value.field == next(iter(given))


def test_words_that_an_annotation_allows() -> None:
    made = Mine(order="last", side="in", size=1, loud=True)
    assert (made.order, made.side, made.size, made.loud) == ("last", "in", 1, True)
    assert Mine(side=None).side is None


def test_a_verb_without_a_docstring_still_has_its_options() -> None:
    """As under python -OO, where all docstrings are gone."""

    def verb(optimizer: object, **options: object) -> None: ...

    assert "finalize_at" in inspect.signature(takes(Options)(verb)).parameters
