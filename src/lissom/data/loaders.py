"""Data that come in batches: a `DataLoader` of one's own, or anything that gives batches anew.

A batch is what the loader yields: a tuple (inputs …, target) for model(*inputs), or a dict, from
which the target is taken and the rest is model(**rest).
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from lissom.arguments import as_annotated, check_fields, shown
from lissom.data.dataset import Dataset, describe
from lissom.errors import DataError
from lissom.running import ExampleInputs, Inputs, gpus

TARGETS = ("labels", "label", "targets", "target", "y")  # in a dict; the first that is there
PARTS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False, repr=False)
class Loaders:
    """Batches to train on, to choose by and to report on, for data that are not one tensor.

        data = Loaders(DataLoader(train, 64, shuffle=True), DataLoader(test, 256), name="speech")

    A part is gone through once an epoch, and must give its batches again in the next: a
    `DataLoader` does, a generator does not. What it shuffles and changes at random follows from
    (seed, epoch) where it draws from torch's, NumPy's or Python's global generator, from the
    `generator` of a `DataLoader` or sampler, or by `set_epoch`; so a resumed run sees the same.

    Attributes:
        train: batches to train on; without a length it needs `Trainer(steps_per_epoch=…)`.
        test: batches that nothing is chosen by.
        valid: batches to choose λ, epochs and knees by; None when nothing is held out.
        name: what the data are called in logs and reports.
        classes: how many classes there are, where the network is made by that number.

    Raises:
        DataError: for a part that gives no batches, or gives them only once.
    """

    train: Iterable[Any]
    test: Iterable[Any]
    valid: Iterable[Any] | None = None
    name: str = "data"
    classes: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, DataError, Loaders)
        if self.classes is not None and self.classes < 1:
            raise DataError(f"classes is a whole number ≥ 1 or None, got {self.classes!r}")
        for part in PARTS:
            loader = getattr(self, part)
            if isinstance(loader, Tensor | np.ndarray | Mapping):
                raise DataError(
                    f"{part} gives batches, as a torch.utils.data.DataLoader does, got "
                    f"{shown(loader)}; tensors in memory go into lissom.data.Dataset"
                )
            if isinstance(loader, Iterator):
                raise DataError(
                    f"{part} is exhausted after one epoch, as generators are, got {shown(loader)}: "
                    "give a DataLoader, a list, or an object whose __iter__ begins anew"
                )

    def __repr__(self) -> str:
        sizes = [
            f"{_length(getattr(self, part))} {part}"
            for part in PARTS
            if getattr(self, part) is not None
        ]
        return f"Loaders({self.name}: batches of {', '.join(sizes)})"


def _length(loader: Iterable[Any]) -> str:
    found = batches_in(loader)
    return "unknown many" if found is None else f"{found:,}"


def batches_in(loader: Iterable[Any]) -> int | None:
    """How many batches a loader gives, if it knows."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):  # a DataLoader of an IterableDataset raises
        return None


def epoch_of(loader: Iterable[Any], seed: int, epoch: int) -> Iterator[Any]:
    """The batches of an epoch; samplers and generators of its own follow the seed and the epoch.

    Args:
        loader: a part of `Loaders`.
        seed: one for each pair of seed and epoch.
        epoch: for samplers and data sets with a `set_epoch`.
    """
    batches = getattr(loader, "batch_sampler", None)
    several = [loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)]
    for one in [*several, getattr(loader, "dataset", None)]:
        if isinstance(generator := getattr(one, "generator", None), torch.Generator):
            generator.manual_seed(seed)
        if callable(set_epoch := getattr(one, "set_epoch", None)):
            set_epoch(epoch)
    return iter(loader)


@contextmanager
def drawing_apart() -> Iterator[None]:
    """Let what is within draw the same each time, and leave the global generators alone."""
    kept = random.getstate(), np.random.get_state()
    cuda = gpus()
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(0)  # torch.manual_seed looks at every device: 1 ms
        if cuda:
            torch.cuda.manual_seed_all(0)
        np.random.seed(0)
        random.seed(0)
        try:
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])


def split_batch(batch: Any) -> tuple[Inputs, Any]:
    """What a model is called with, and the target.

    Raises:
        DataError: for what is neither a tuple nor a dict, or has no target.
    """
    if isinstance(batch, Mapping):
        rest = dict(batch)
        target = next((name for name in TARGETS if name in rest), None)
        if target is None or len(rest) < 2:
            raise DataError(
                f"a batch that is a dict has inputs, and its target as {', '.join(TARGETS[:-1])} "
                f"or {TARGETS[-1]}; this one has {', '.join(map(repr, rest))}. Another split: "
                "Task(forward=lambda model, batch: (model(…), target))"
            )
        answer = rest.pop(target)
        return Inputs((), rest), answer
    if isinstance(batch, tuple | list) and len(batch) >= 2:
        return Inputs(tuple(batch[:-1])), batch[-1]
    raise DataError(
        f"a batch is a tuple (inputs, target), of more inputs too, or a dict; got {shown(batch)}. "
        "Another form: Task(forward=lambda model, batch: (model(…), target))"
    )


def told(batch: Any) -> str:
    """A batch in words: `(float32 [32, 784], int64 [32])`."""
    if isinstance(batch, Tensor):
        return describe(batch)
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{name}: {told(value)}" for name, value in batch.items()) + "}"
    if isinstance(batch, tuple | list) and len(batch) <= 8:
        return "(" + ", ".join(map(told, batch)) + ")"
    return shown(batch)


def moved(batch: Any, like: nn.Module) -> Any:
    """A batch where a model is, with its floats in the precision of the model's layers.

    What stands on the model itself comes after them: numbers of a method have a precision of their
    own, as those of gates on bfloat16 do.
    """
    layers = (p for layer in like.children() for p in layer.parameters())
    first = next((p for p in chain(layers, like.parameters()) if p.is_floating_point()), None)
    return batch if first is None else _moved(batch, first.device, first.dtype)


def _moved(batch: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(batch, Tensor):
        if batch.is_floating_point() and batch.dtype != dtype:
            return batch.to(device, dtype, non_blocking=True)
        return batch if batch.device == device else batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {name: _moved(value, device, dtype) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_moved(value, device, dtype) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(_moved(value, device, dtype) for value in batch)
    return batch


@runtime_checkable
class Judged(Protocol):
    """What is known of a task here: how a batch becomes a call of the model."""

    @property
    def forward(self) -> Callable[[Any, Any], Any] | None:
        """(model, batch) → (outputs, targets); None for `split_batch`."""


@as_annotated(DataError)
def first_inputs(data: Dataset | Loaders, task: Judged | None = None, n: int = 2) -> ExampleInputs:
    """Example inputs for `lissom.channels`, `shrink` and `path`, from the first training batch.

    Args:
        data: whose training examples are asked.
        task: whose `forward` calls the model with them; None for tuples and dicts as they come.
        n: how many examples.

    Returns:
        A tensor, a tuple of arguments, or a dict of keywords.

    Raises:
        DataError: for a batch that gives no inputs.
    """
    if isinstance(data, Dataset):
        return data.train_x[:n]
    batch = first_batch(data.train)
    inputs = _call(task.forward, batch) if task is not None and task.forward else None
    inputs = (inputs or split_batch(batch)[0]).with_batch(n)
    if inputs.args and inputs.kwargs:
        return inputs
    if inputs.kwargs:
        return inputs.kwargs
    alone = len(inputs.args) == 1 and isinstance(inputs.args[0], Tensor)
    return inputs.args[0] if alone else inputs.args


def first_batch(loader: Iterable[Any]) -> Any:
    """The first batch of a loader, drawn without a change of the global generators.

    Raises:
        DataError: if there is none.
    """
    with drawing_apart():
        for batch in epoch_of(loader, 0, 0):
            return batch
    raise DataError(f"a loader gave no batch: {shown(loader)}")


class _CalledWith(Exception):  # noqa: N818
    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs


def _call(forward: Callable[[Any, Any], Any], batch: Any) -> Inputs:
    """What a function of the user's calls a model with."""

    def model(*args: Any, **kwargs: Any) -> Any:
        raise _CalledWith(Inputs(args, kwargs))

    try:
        forward(model, batch)
    except _CalledWith as found:
        return found.inputs
    except AttributeError as error:
        raise DataError(
            f"the inputs of a forward that does not call model(…) are not known ({error}): give "
            "example_inputs yourself"
        ) from error
    raise DataError("forward did not call the model")
