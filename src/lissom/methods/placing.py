"""What a method multiplies weights by for the time of a call, so that parameters never see it.

A pre-hook puts w·z into the `__dict__` of the module that owns w, where attribute lookup finds it
before the parameter, and a hook after the call takes it out.
"""

import sys
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lissom.errors import LissomError
from lissom.groups import Partition, Spread
from lissom.methods.plain import InForward
from lissom.methods.sharing import reshard
from lissom.parametrized import has_norms

HOOKS = (  # where a module has those that act in its calls
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_always_called",
)

Multiply = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Place:
    """A parameter that is multiplied.

    Attributes:
        name: in its model.
        owners: the modules that hold it, each with its attribute's name; a tied one has several.
        factors: by the number of their block, what lays its factors out over the parameter.
        tensor: the parameter, of which this process may have a part.
        here: as factors, over the part that this process has.
    """

    name: str
    owners: list[tuple[nn.Module, str]]
    tensor: Tensor
    factors: list[tuple[int, Spread]] = field(default_factory=list)
    here: list[tuple[int, Spread]] = field(default_factory=list)

    @property
    def parameter(self) -> Tensor:
        """What the owner holds now: `torch.func.functional_call` exchanges it."""
        owner, attribute = self.owners[0]
        parameter = owner._parameters[attribute]
        assert parameter is not None
        return parameter

    def times(self, factors: Sequence[Tensor], multiply: Multiply = torch.mul) -> Tensor:
        """The parameter times the factors of each block."""
        weight = self.parameter
        for block, spread in self.factors:
            weight = multiply(weight, spread(factors[block]).to(weight.dtype))
        return weight


def places(model: nn.Module, blocks: Sequence[Partition], error: type[LissomError]) -> list[Place]:
    """Where factors of the blocks act, each parameter once.

    Raises:
        LissomError: of the given kind, if a block is not of this model.
    """
    reshard(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append((module, attribute))
    found: dict[int, Place] = {}
    for number, block in enumerate(blocks):
        for member in block.gated():
            key = id(member.tensor)
            if key not in names:
                raise error(
                    f"{block.name} is not a parameter of this {type(model).__name__}: choose the "
                    "groups from the model that the method is given"
                )
            if any(getattr(owner, "sparse", False) is True for owner, _ in owners[key]):
                raise error(
                    f"{names[key]} is of an embedding with sparse=True, and a sparse gradient does "
                    "not go back through a product: make it with sparse=False, or leave it out "
                    "with .without(…)"
                )
            place = found.setdefault(key, Place(names[key], owners[key], member.tensor))
            place.factors.append((number, member.spread_of_all))
            place.here.append((number, member.spread))
    return list(found.values())


def holders(model: nn.Module, places: Iterable[Place]) -> list[nn.Module]:
    """The model, the modules that hold what is multiplied, and all between them."""
    holding = {id(owner) for place in places for owner, _ in place.owners}
    return [m for m in model.modules() if m is model or any(id(s) in holding for s in m.modules())]


def require_module(model: object, call: str, error: type[LissomError]) -> None:
    """Refuse what is no model, such as penalties in its place.

    Raises:
        LissomError: of the given kind, with the call that works.
    """
    if not isinstance(model, nn.Module):
        raise error(f"{call}: its model is a torch.nn.Module, got {type(model).__name__}")


def require_own_weights(model: nn.Module, what: str, error: type[LissomError]) -> None:
    """Refuse a model whose weights are computed from other parameters, on which factors would act.

    Raises:
        LissomError: of the given kind, with the remedy.
    """
    if has_norms(model):
        raise error(
            f"this model computes weights from other parameters, and {what} the weights: "
            "torch.nn.utils.parametrize.remove_parametrizations first"
        )


class Placing(InForward):
    """Hooks on a model that act in each of its calls.

    Args:
        model: that has the hooks, and its modules.
        places: where factors act.
    """

    def __init__(self, model: nn.Module, places: list[Place]) -> None:
        self.model, self.places = model, places
        self.clear()
        self._handles = self._hook()

    def remove(self) -> None:
        """Take the hooks off."""
        self.clear()
        for handle in self._handles:
            handle.remove()

    def clear(self) -> None:
        """Leave no trace of a call that was interrupted: torch skips hooks after Ctrl-C."""
        self._calls: list[tuple[nn.Module, list[Tensor]]] = []  # that are running, innermost last

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the hooks off for a while: the same come back, in the same order."""
        self.clear()
        tables = [vars(module)[name] for module in self.model.modules() for name in HOOKS]
        kept = [(table, dict(table)) for table in tables if table]
        for handle in self._handles:
            handle.remove()
        try:
            yield
        finally:
            for table, hooks in kept:
                hooks.update(table)  # those of others that came meanwhile
                table.clear()
                table.update(hooks)

    @abstractmethod
    def _hook(self) -> list[RemovableHandle]: ...


class OnWeights(Placing):
    """Products stand in place of the weights, from the outermost call of the model, or of a part.

    So does a call of the model within itself ask for its own.
    """

    @abstractmethod
    def _products(self, module: nn.Module) -> list[Tensor]:
        """What stands for the parameter of each place, in a call of this module."""

    def clear(self) -> None:
        super().clear()
        self._take_out()

    def _hook(self) -> list[RemovableHandle]:
        handles: list[RemovableHandle] = []
        for module in holders(self.model, self.places):
            handles += [
                module.register_forward_pre_hook(self._before, prepend=True),
                module.register_forward_hook(self._after, always_call=True),
            ]
        return handles

    def _before(self, module: nn.Module, args: Any) -> None:
        if self._calls and module is not self.model:
            return
        products = self._products(module)
        self._install(products)
        self._calls.append((module, products))

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._calls or self._calls[-1][0] is not module:
            return
        self._calls.pop()
        if self._calls:
            self._install(self._calls[-1][1])
        else:
            self._take_out()

    def _take_out(self) -> None:
        for place in self.places:
            for owner, attribute in place.owners:
                owner.__dict__.pop(attribute, None)

    def _install(self, products: list[Tensor]) -> None:
        for place, product in zip(self.places, products, strict=True):
            for owner, attribute in place.owners:
                owner.__dict__[attribute] = product


def stay_behind(module: nn.Module, handles: Sequence[RemovableHandle]) -> None:
    """See that a copy of a module, by `copy` or `pickle`, has none of these hooks on it."""
    ids = {handle.id for handle in handles}
    vars(module)["__getstate__"] = partial(_state_of_copies, module, ids)


def go_along(module: nn.Module) -> None:
    """Undo `stay_behind`."""
    vars(module).pop("__getstate__", None)


def _state_of_copies(module: nn.Module, ids: set[int]) -> Any:
    state = type(module).__getstate__(module)
    if not isinstance(state, dict):  # of a class that says itself what its copies are
        return state
    state = {name: value for name, value in state.items() if name != "__getstate__"}
    for name in state.keys() & set(HOOKS):
        state[name] = OrderedDict((i, hook) for i, hook in state[name].items() if i not in ids)
    return state


def require_original(module: nn.Module, what: str, error: type[LissomError]) -> None:
    """Refuse a call of a copy that nn.DataParallel made.

    Raises:
        LissomError: of the given kind, with what works.
    """
    if getattr(module, "_is_replica", False):
        raise error(
            f"nn.DataParallel copies a model at each call, and its copies have no {what} of "
            "their own: use nn.parallel.DistributedDataParallel"
        )


def compile_anew() -> None:
    """Forget compiled code, since hooks have come or gone, which torch.compile takes no notice of.

    It shares what it compiled among all models of a class: one with hooks would run without them.
    """
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def uncompiled() -> AbstractContextManager[Any]:
    """For as long as it is open, compiled models run as they were written.

    What was compiled with hooks would run without them, and the other way round.
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes long
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
