"""What a loop that somebody else wrote has to do for methods, to be called at its events.

    handles = Handles(make)                    LissomCallback(make)
    handles.take([optimizer], model)           when there is an optimizer
    handles.add_penalties(optimizer)           for each step, among the other gradients
    handles.deploy() … handles.back()          around evaluation, and what is saved to be delivered
    handles.finalize()                         at the end

`state` and `load` are what a checkpoint keeps beside the weights that are delivered.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lissom.arguments import first_misfit, shown
from lissom.errors import LissomError, MethodError
from lissom.methods import Method, methods_on
from lissom.methods.optimizers import stepping_optimizer

Make = Callable[[Optimizer, nn.Module], Method]
HOW = "LissomCallback(lambda optimizer, model: lissom.proximal(optimizer, {groups: penalty}))"
STATE: dict[str, Any] = {"methods": list[Mapping[str, Any]], "training": Mapping[str, Tensor]}


class MissingError(LissomError, ImportError):
    """A framework that is not installed."""


def missing(framework: str) -> MissingError:
    """What is said where a framework cannot be imported."""
    return MissingError(
        f"{framework} is not installed, or not whole: pip install 'lissom[{framework}]'"
    )


class Handles:
    """The methods on the optimizers of a training, whichever they are.

    Attributes:
        methods: that were made or found on the optimizers.
    """

    def __init__(self, make: Make | None) -> None:
        if make is not None and not callable(make):
            what = "make is a function that makes a method of an optimizer and a model"
            raise MethodError(f"{what}, got {shown(make)}: {HOW}")
        self.make = make
        self.methods: list[Method] = []
        self._deployed = ExitStack()
        self.deployed = False

    def take(self, optimizers: Iterable[Optimizer], model: nn.Module) -> None:
        """Make the method, unless this training had one, and find all that are on the optimizers.

        Raises:
            MethodError: if there is none, or it is not clear on which optimizer to make one.
        """
        listed = list(optimizers)
        if self.make is not None and not set(_all_on(listed)) & set(self.methods):
            if len(listed) != 1:
                raise MethodError(
                    f"a method is made on one optimizer, and there are {len(listed)} here: make "
                    "one on each where they are made, and leave out the argument, "
                    "LissomCallback(), which finds them"
                )
            made = self.make(listed[0], model)
            if not isinstance(made, Method):
                raise MethodError(f"the function gives a method, got {shown(made)}: {HOW}")
        self.methods = _all_on(listed)
        if not self.methods:
            raise MethodError(f"there is no method on the optimizer: {HOW}")

    def add_penalties(self, optimizer: Optimizer, scale: float = 1.0) -> None:
        """Add the gradients of the penalties of this optimizer's methods, as if in the loss.

        Args:
            optimizer: that is about to step; it may be wrapped.
            scale: of all its gradients at this moment.
        """
        inner = stepping_optimizer(optimizer)
        with torch.enable_grad():
            for method in self.methods:
                if method.optimizer is not inner or not method.has_loss_term:
                    continue
                if (term := method.penalty()).requires_grad:
                    (term if scale == 1 else scale * term).backward()

    def deploy(self) -> None:
        """Make the network what would be delivered now, until `back`."""
        if not self.deployed:
            for method in self.methods:
                self._deployed.enter_context(method.deployed())
            self.deployed = True

    def back(self) -> None:
        """Make the network again what is trained."""
        self._deployed.close()
        self.deployed = False

    def finalize(self) -> None:
        """End all methods: plain weights, exact zeros."""
        self.back()
        for method in self.methods:
            method.finalize()

    def state(
        self, model: Callable[[], Mapping[str, Any]]
    ) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """The model as it would be delivered, and what training goes on with.

        Args:
            model: gives the model's state.

        Returns:
            The state of the model that is delivered, and what `load` takes beside it: the states
            of the methods, and those tensors that are not the same in training.
        """
        was_deployed = self.deployed
        self.back()
        training = model()
        self.deploy()
        delivered = model()
        if not was_deployed:
            self.back()
        apart = {
            name: value.clone() if isinstance(value, Tensor) else value
            for name, value in training.items()
            if name not in delivered or not _same(value, delivered[name])
        }
        return delivered, {"methods": [m.state_dict() for m in self.methods], "training": apart}

    def load(
        self,
        state: Mapping[str, Any],
        load_model: Callable[[Mapping[str, Any]], object],
    ) -> None:
        """Go on where `state` was taken; the states of optimizers are loaded afterwards.

        Args:
            state: of the methods, and what is not the same in training.
            load_model: loads what was not the same in training into the model, and the delivered
                state, where it is not there yet.

        Raises:
            MethodError: if it is of other methods.
        """
        if why := first_misfit(state, STATE) if isinstance(state, Mapping) else shown(state):
            raise MethodError(f"this is no state of a LissomCallback: {why}")
        kept = state["methods"]
        if len(kept) != len(self.methods):
            raise MethodError(
                f"the checkpoint is of {len(kept)} methods, and there are {len(self.methods)} here"
            )
        self.back()
        for method, own in zip(self.methods, kept, strict=True):
            method.load_state_dict(own)
        load_model(state["training"])


def _all_on(optimizers: Iterable[Optimizer]) -> list[Method]:
    return [method for optimizer in optimizers for method in methods_on(optimizer)]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    return bool(one == other)
