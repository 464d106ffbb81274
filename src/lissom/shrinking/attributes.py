"""The fewest attributes of the user's code that have to change with the sizes of its tensors."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import combinations
from types import CodeType, FunctionType

from torch import nn

from lissom.errors import warn
from lissom.shrinking.sizes import Attribute, get_size, is_torchs
from lissom.shrinking.verify import Outcome

TRIES = 80  # of one decision
COUNTS = ("n", "heads")  # how attributes begin that hold a number of things, and no width
UNCHECKED = ("_", "reset", "init", "extra_repr", "train", "eval")  # methods that compute nothing

Attempt = Callable[[Sequence[Attribute]], Outcome]
Chosen = frozenset[int]


class _TooManyTries(Exception):  # noqa: N818 - not an error
    pass


def fewest(likely: Sequence[Attribute], attempt: Attempt) -> list[Attribute] | None:
    """The fewest of these changes with which the small network computes what the large one did.

    Each of them is proved: without it the network does not run, or computes something else.

    Args:
        likely: the attributes that may change.
        attempt: runs the network with these changed.

    Returns:
        None if no choice was found that works.
    """
    known: dict[Chosen, Outcome] = {}

    def outcome(chosen: Chosen) -> Outcome:
        if chosen not in known:
            if len(known) == TRIES:
                raise _TooManyTries
            known[chosen] = attempt([likely[i] for i in sorted(chosen)])
        return known[chosen]

    def solved(base: Chosen) -> Chosen | None:
        """With what the code needs where it fails now, and then where it fails next."""
        now = outcome(base)
        if now.same:
            return base
        there = [i for i in range(len(likely)) if i not in base and _in(likely[i], now)]
        for size in range(1, len(there) + 1):
            for more in combinations(there, size):
                chosen = base.union(more)
                if _clear(likely[i] for i in chosen) and outcome(chosen).reached > now.reached:
                    found = solved(chosen)
                    if found is not None:
                        return found
        return None

    def proved(chosen: Chosen) -> Chosen:
        """Without those that are not needed beside the others."""
        for i in sorted(chosen):
            if outcome(chosen - {i}).same:
                return proved(chosen - {i})
        return chosen

    found: Chosen | None = None
    with suppress(_TooManyTries):
        found = solved(frozenset())
    known = {chosen: result for chosen, result in known.items() if not chosen}
    with suppress(_TooManyTries):
        for guess in _guesses(likely) if found is None else ():
            if found is None and outcome(guess).same:
                found = guess
        found = None if found is None else proved(found)
    return None if found is None else [likely[i] for i in sorted(found)]


def _in(attribute: Attribute, outcome: Outcome) -> bool:
    """Whether an attribute belongs to the code that failed, or that gave other numbers."""
    return outcome.stack is None or not outcome.stack.isdisjoint(attribute.paths)


def _clear(chosen: Iterable[Attribute]) -> bool:
    """Whether no attribute gets two values."""
    places = [(path, attribute.name) for attribute in chosen for path in attribute.paths]
    return len(places) == len(set(places))


def _guesses(likely: Sequence[Attribute]) -> Iterator[Chosen]:
    """All that have one new value at most, and those of them that are named like numbers."""
    clear = [
        i
        for i, one in enumerate(likely)
        if all(_clear([one, other]) for j, other in enumerate(likely) if j != i)
    ]
    yield frozenset(clear)
    yield frozenset(i for i in clear if likely[i].name.startswith(COUNTS))


def warn_of_methods(
    model: nn.Module, small: nn.Module, likely: Sequence[Attribute], changed: Sequence[Attribute]
) -> None:
    """Tell of public methods that read a size and that no check has run, since forward has not."""
    modules, cut = dict(model.named_modules()), dict(small.named_modules())
    reached = _reached(modules.values())
    told: dict[str, None] = {}
    for attribute in likely:
        path = next(path for path in attribute.paths if path in modules)
        kind, name = type(modules[path]), attribute.name
        parts = set(re.findall(r"(?:^|\.)(\w+)", name))  # "config" and "dim" of "config.dim"
        was, now = (get_size(net[path], name) for net in (modules, cut))
        if attribute in changed:
            said = f"is {now} now and was {was}"
        elif now == was:
            said = f"is still {was}, while a size of {was} became {attribute.new}"
        else:
            continue
        for method, function in _methods(kind).items():
            if method in reached or method.startswith(UNCHECKED):
                continue
            if parts <= _names(function.__code__, _methods(kind)):
                told[f"{kind.__name__}.{method} reads {name}, which {said}"] = None
    if told:
        warn(
            f"{'; '.join(told)}. shrink checks what forward computes: run such methods on both "
            "networks and compare"
        )


def _methods(kind: type) -> dict[str, FunctionType]:
    """The methods that a user's class has besides those of nn.Module."""
    found: dict[str, FunctionType] = {}
    for base in reversed(kind.__mro__[: kind.__mro__.index(nn.Module)]):
        found.update({n: f for n, f in vars(base).items() if isinstance(f, FunctionType)})
    return found


def _reached(modules: Iterable[nn.Module]) -> set[str]:
    """All names that any forward reads, itself or through the methods that it calls."""
    found: set[str] = {"forward"}
    for kind in {type(module) for module in modules if not is_torchs(module)}:
        methods = _methods(kind)
        if "forward" in methods:
            found |= _names(methods["forward"].__code__, methods)
    return found


def _names(code: CodeType, methods: dict[str, FunctionType]) -> set[str]:
    """The names that a function reads, with those of the methods among them."""
    found: set[str] = set()
    todo = [code]
    while todo:
        here = todo.pop()
        new = set(here.co_names) - found
        found |= new
        todo += [c for c in here.co_consts if isinstance(c, CodeType)]
        todo += [methods[name].__code__ for name in new if name in methods]
    return found
