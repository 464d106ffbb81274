"""Whether the objects that a `Trainer` is given belong together."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lissom.data import Dataset, Loaders
from lissom.data.loaders import drawing_apart, first_batch
from lissom.errors import RunError, nearest
from lissom.methods import Method, methods_on, require_plain
from lissom.methods.optimizers import parameters_of, stepping_optimizer
from lissom.running import evaluating
from lissom.training.evaluation import Tally, judged
from lissom.training.task import Task

HOOKS = ("on_fit_start", "on_step_end", "on_epoch_end", "on_fit_end")  # of a callback


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


def check_batch(model: nn.Module, data: Dataset | Loaders, task: Task) -> None:
    """Try a batch of each part, so that what does not fit is told before hours are spent.

    Raises:
        RunError: quoting the batch, and what the model or the loss says of it.
    """
    for part in ("train", "valid", "test"):
        if isinstance(data, Dataset):
            if getattr(data, f"{part}_x") is None:
                continue
            batch: Any = getattr(data, f"{part}_x")[:2], getattr(data, f"{part}_y")[:2]
        else:
            if getattr(data, part) is None:
                continue
            batch = first_batch(getattr(data, part))
        with torch.no_grad(), evaluating(model), drawing_apart():
            where = f"the {part} batch of {data.name!r}"
            outputs, targets = judged(model, batch, task, Tally(task), where)
        if isinstance(data, Dataset) and task.forward is None:  # all that there are
            where, targets = f"{part}_y of {data.name!r}", getattr(data, f"{part}_y")
            check_labels(where, targets, outputs, task)
        check_answers(where, targets, task)


def check_labels(where: str, labels: Tensor, outputs: Any, task: Task) -> None:
    """Refuse classes that the network has no output for.

    Raises:
        RunError: naming the highest.
    """
    if task.loss == "cross_entropy" and int(labels.max()) >= outputs.shape[1]:
        raise RunError(
            f"{where} holds class {int(labels.max())}, but the network has outputs for "
            f"{outputs.shape[1]} classes, 0 to {outputs.shape[1] - 1}"
        )


def check_answers(where: str, targets: Any, task: Task) -> None:
    """Refuse targets of "bce_with_logits" that are neither no, yes, nor between.

    The loss has no minimum then, and is below 0.

    Raises:
        RunError: quoting from where to where they go.
    """
    if task.loss != "bce_with_logits" or not isinstance(targets, Tensor) or not targets.numel():
        return
    low, high = float(targets.min()), float(targets.max())
    if low < 0 or high > 1:
        raise RunError(
            f"{where} holds targets from {low:g} to {high:g}, and those of 'bce_with_logits' go "
            "from 0 (no) to 1 (yes): write masks of 0 and 255, or labels of -1 and 1, as 0 and 1"
        )


def check_callbacks(callbacks: Iterable[Any], loggers: Iterable[Any]) -> None:
    """Refuse callbacks that would never be called, and loggers that log nothing.

    Raises:
        RunError: saying what they need.
    """
    for callback in callbacks:
        if isinstance(callback, type) or not any(hasattr(callback, name) for name in HOOKS):
            own = [name for name in dir(callback) if name.startswith("on_")]
            raise RunError(
                f"a callback is an object with any of {', '.join(HOOKS)}, which are called with "
                f"the trainer, got {callback!r}.{nearest(own[0], HOOKS) if own else ''}",
                field="callbacks",
            )
    for logger in loggers:
        if isinstance(logger, type) or not callable(getattr(logger, "log_metrics", None)):
            raise RunError(
                "a logger is one of Lightning's, such as lightning_fabric.loggers.CSVLogger(folder)"
                f", or any object with log_metrics(metrics, step); got {logger!r}",
                field="loggers",
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
