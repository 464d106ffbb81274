"""Whether the objects that a `Trainer` is given belong together."""

import copy

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lissom.errors import RunError
from lissom.methods import Method, methods_on, require_plain
from lissom.methods.optimizers import parameters_of, stepping_optimizer


def check_optimizer(optimizer: Optimizer, model: nn.Module) -> None:
    """Refuse an optimizer of another model, or of the model as it was before a layer was replaced.

    Raises:
        RunError: if it holds none of the model's parameters, or lacks some and has others.
    """
    held, own = parameters_of(optimizer), set(model.parameters())
    lacks = [n for n, p in model.named_parameters() if p.requires_grad and p not in held]
    if lacks and not held <= own and held & own:
        raise RunError(
            f"the optimizer does not hold {', '.join(lacks)} of this {type(model).__name__}, and "
            "holds parameters that are not its own, as where a layer was replaced: make it of "
            "model.parameters() as they are now"
        )
    if held.isdisjoint(own):
        raise RunError(
            f"the optimizer holds no parameter of this {type(model).__name__}, which would not be "
            "trained: make it of model.parameters()"
        )


@torch.no_grad()
def check_last_batch(model: nn.Module, train_x: Tensor, batch_size: int) -> None:
    """Refuse a batch of one at the end of an epoch where the model cannot be trained on one.

    BatchNorm on vectors cannot: one number has no variance.

    Raises:
        RunError: quoting what the model says of it.
    """
    n = len(train_x)
    if n < 2 or (n - 1) % batch_size:
        return
    with torch.random.fork_rng():
        one, two = (_refused(model, train_x[:size]) for size in (1, 2))
    if one is not None and two is None:
        size = next(size for size in range(batch_size + 1, n + 2) if (n - 1) % size)
        raise RunError(
            f"the last batch of {n:,} examples has one, with batch_size={batch_size}, and "
            f"{type(model).__name__} cannot be trained on one: {one}. Take batch_size={size}",
            field="batch_size",
        ) from one


def _refused(model: nn.Module, inputs: Tensor) -> Exception | None:
    """What a copy of a model raises in training mode."""
    try:
        copy.deepcopy(model).train()(inputs)
    except Exception as error:  # a model may raise anything
        return error
    return None


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
