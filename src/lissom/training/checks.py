"""Whether the objects that a `Trainer` is given belong together."""

from torch import nn
from torch.optim import Optimizer

from lissom.errors import RunError
from lissom.methods import Method, methods_on, require_plain
from lissom.methods.optimizers import parameters_of, stepping_optimizer


def check_optimizer(optimizer: Optimizer, model: nn.Module) -> None:
    """Refuse an optimizer of another model.

    Raises:
        RunError: if it holds none of the model's parameters.
    """
    if parameters_of(optimizer).isdisjoint(model.parameters()):
        raise RunError(
            f"the optimizer holds no parameter of this {type(model).__name__}, which would not be "
            "trained: make it of model.parameters()"
        )


def check_method(method: Method | None, optimizer: Optimizer, model: nn.Module) -> None:
    """Refuse a method of another optimizer or model, and one that is there and was not given.

    Raises:
        RunError: saying what would work.
        MethodError: for a model that a method has changed, which was not given.
    """
    if method is not None and not isinstance(method, Method):
        raise RunError(
            "a method is what lissom.proximal, gate, lc or a subclass of lissom.methods.Method "
            f"makes, got {method!r}"
        )
    others = [other for other in methods_on(optimizer) if other is not method]
    if others:
        raise RunError(
            f"{others[0]!r} follows this optimizer too, and the trainer would not keep its state: "
            "give it as method=…, or take it off by .remove()"
        )
    if method is None:
        require_plain(model, "a Trainer without method=…")
        return
    if method.optimizer is not stepping_optimizer(optimizer):
        raise RunError(f"{method!r} follows another optimizer than the one that is given")
    own = set(model.parameters())
    strange = [b.name for b in method.blocks() if not own.issuperset(b.parameters)]
    if strange:
        raise RunError(
            f"{', '.join(strange)} of {method!r} is no parameter of this {type(model).__name__}: "
            "make the groups from the model that is to be trained"
        )
