"""A data set in memory: tensors to train on, to choose by, and to report on.

Three parts with three uses: *train* fits weights, *valid* chooses λ, epochs and knees, *test* is
used once, for the reported figure. A figure that was chosen by its test error is too optimistic, so
`hold_out` takes the validation part out of the training examples.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lissom.arguments import as_annotated, check_fields, shown
from lissom.errors import DataError


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Examples and their targets, checked once when they are put together.

    With `classes` the targets are labels, int64 [n]. Without, they are any tensor of n rows:
    numbers [n] or [n, k] (regression), 0/1 [n, k] (several labels each), or the class of each pixel
    or token [n, …].

    Attributes:
        name: what the data set is called in logs and reports.
        train_x: real numbers [n, …]; images are float32 [n, c, h, w] with pixels in [0, 1], tokens
            int64 [n, length].
        train_y: [n, …], the targets.
        test_x: [m, …], examples of the same type and shape as in `train_x`.
        test_y: [m, …].
        classes: how many classes there are, also if a part does not hold them all; None where the
            targets are no labels.
        valid_x: [k, …], or None when nothing is held out.
        valid_y: [k, …], or None when nothing is held out.
        names: of the classes, in their order; None where they are their numbers.

    Raises:
        DataError: a part is empty, of the wrong type or shape, or has not one target per example; a
            label is outside 0 … classes − 1; only one of `valid_x` and `valid_y` is given; or there
            is not one name per class.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int | None = None
    valid_x: Tensor | None = None
    valid_y: Tensor | None = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        try:
            check_fields(self, DataError, Dataset)
        except DataError as error:
            raise DataError(f"{self.name!s:.40}: {error}") from None
        if self.classes is not None and self.classes < 1:
            raise DataError(
                f"{self.name}: classes must be a whole number ≥ 1, got {self.classes!r}"
            )
        if self.names is not None and len(self.names) != self.classes:
            raise DataError(f"{self.name}: classes={self.classes}, but names={self.names!r}")
        self._check_part("train", self.train_x, self.train_y)
        self._check_part("test", self.test_x, self.test_y)
        if self.valid_x is not None and self.valid_y is not None:
            self._check_part("valid", self.valid_x, self.valid_y)
        elif self.valid_x is not None or self.valid_y is not None:
            given, lacking = ("x", "y") if self.valid_y is None else ("y", "x")
            raise DataError(
                f"{self.name}: valid_{given} is given without valid_{lacking}; give both or neither"
            )

    def _check_part(self, part: str, x: Tensor, y: Tensor) -> None:
        where = f"{self.name}: {part}"
        check_rows(self.name, f"{part}_", x, y)
        if x.is_complex() or y.is_complex():
            column, odd = ("x", x) if x.is_complex() else ("y", y)
            raise DataError(f"{where}_{column} must hold real numbers, got {describe(odd)}")
        if self.classes is not None and (y.dtype != torch.int64 or y.ndim != 1):
            raise DataError(
                f"{where}_y must be int64 [n], got {describe(y)}; targets that are no labels go "
                "with classes=None"
            )
        for column, rows, first in (("x", x, self.train_x), ("y", y, self.train_y)):
            if rows.shape[1:] != first.shape[1:] or rows.dtype != first.dtype:
                raise DataError(
                    f"{where}_{column} holds {_one(rows)}, but train_{column} {_one(first)}"
                )
            if rows.is_floating_point() and not bool(rows.isfinite().all()):
                wrong = (~rows.isfinite()).reshape(len(rows), -1).any(1).nonzero()[:, 0]
                raise DataError(
                    f"{where}_{column} holds NaN or infinite numbers in {len(wrong):,} of "
                    f"{len(rows):,} examples, the first is number {int(wrong[0])}: leave them out"
                )
        if self.classes is None:
            return
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= self.classes:
            raise DataError(
                f"{where}_y holds labels from {low} to {high}, but with classes={self.classes} "
                f"they lie between 0 and {self.classes - 1}"
            )

    def __repr__(self) -> str:
        valid = "" if self.valid_y is None else f" {len(self.valid_y)} valid /"
        targets = f"targets {_one(self.train_y)}" if not self.classes else f"{self.classes} classes"
        return (
            f"Dataset({self.name}: {len(self.train_y)} train /{valid} {len(self.test_y)} test, "
            f"{list(self.train_x.shape[1:])}, {targets})"
        )

    @as_annotated(DataError, "n", "seed")
    def hold_out(self, n: int, seed: int) -> Self:
        """Move n training examples to validation, every class in its share.

        A class with c of the N training examples gives ⌊nc/N⌋ or ⌈nc/N⌉ of its own; which classes
        round up is decided by the largest remainders. Without classes, chance decides alone. The
        choice depends on the labels, n and seed alone, not on torch's or numpy's global state, and
        both parts keep the order they came in.

        Args:
            n: how many to move, 0 ≤ n < number of training examples; 0 changes nothing.
            seed: 0 ≤ seed < 2³².

        Returns:
            A new data set; this one stays as it is.

        Raises:
            DataError: n or seed is out of range, or validation examples are already there.
        """
        total = len(self.train_y)
        if not isinstance(n, int) or not 0 <= n < total:
            raise DataError(
                f"{self.name}: cannot hold out {shown(n)} of {total} training examples, "
                f"n must be a whole number from 0 to {total - 1}"
            )
        if self.valid_y is not None:
            raise DataError(
                f"{self.name}: {len(self.valid_y)} examples are already held out; "
                "call hold_out once, on the data set as it was loaded"
            )
        if n == 0:
            return self
        chosen = torch.from_numpy(self._choice(n, seed)).to(self.train_y.device)
        held = self._trained_on(chosen)
        moved = {name.replace("train", "valid", 1): value for name, value in held.items()}
        return replace(self, **self._trained_on(~chosen), **moved)

    def _choice(self, n: int, seed: int) -> NDArray[np.bool_]:
        """Which training examples `hold_out` moves."""
        if self.classes is None:
            return stratified_choice(np.zeros(len(self.train_y), np.int64), n, seed)
        return stratified_choice(self.train_y.cpu().numpy(), n, seed)

    def bootstrap(self, seed: int) -> Self:
        """As many training examples as there are, drawn with repetition: one network's in bagging.

        About 1 − 1/e = 63 % of them are in a draw. Hold out first: a copy of an example that is
        trained on must not be among those chosen by.

        Args:
            seed: 0 ≤ seed < 2³².

        Raises:
            DataError: the seed is out of range.

        Source: Breiman, *Bagging predictors*, 1996; Ahmed, chapter 4, proposes it.
        """
        total = len(self.train_y)
        drawn = torch.from_numpy(random_state(seed).randint(total, size=total))
        drawn = drawn.to(self.train_y.device)
        return replace(self, **self._trained_on(drawn))

    def _trained_on(self, chosen: Tensor) -> dict[str, Any]:
        """Those of the training examples that a mask or numbers choose, column by column."""
        return {
            name: value[chosen]
            for name, value in vars(self).items()
            if name.startswith("train_") and value is not None
        }

    def centered(self) -> Self:
        """The same data set with the mean of the training examples taken off every example.

        Raises:
            DataError: for examples of whole numbers, such as tokens, which have no mean.
        """
        if not self.train_x.is_floating_point():
            raise DataError(
                f"{self.name}: {_one(self.train_x)} cannot be centered: they are no floats"
            )
        mean = self.train_x.mean(0)
        return replace(
            self,
            train_x=self.train_x - mean,
            test_x=self.test_x - mean,
            valid_x=None if self.valid_x is None else self.valid_x - mean,
        )

    @as_annotated(DataError)
    def to(self, device: torch.device | str) -> Self:
        """The same data set with every tensor on `device`; this one stays where it is."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        try:
            moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in tensors.items()}
        except RuntimeError as error:
            why = str(error).splitlines()[0]
            raise DataError(f"{self.name}: no tensor can be on {str(device)!r}: {why}") from error
        return replace(self, **moved)


def check_rows(name: str, part: str, x: Tensor | NDArray[Any], y: Tensor | NDArray[Any]) -> None:
    """See that there are examples, and one target for each.

    Args:
        name: of the data, for messages.
        part: what stands before x and y there, such as "train_".
        x: [n, …] with at least 2 dims.
        y: [n, …].

    Raises:
        DataError: if they are of another shape.
    """
    if x.ndim < 2:
        raise DataError(f"{name}: {part}x must be [n, …] with at least 2 dims, got {describe(x)}")
    if y.ndim < 1:
        raise DataError(f"{name}: {part}y must be [n, …], a target for each of {len(x)} examples")
    if len(x) != len(y):
        raise DataError(
            f"{name}: {part}x has {len(x)} examples but {part}y has {len(y)} labels: each example "
            "needs one"
        )
    if len(x) == 0:
        raise DataError(f"{name}: {part}x is empty, it needs at least 1 example")


def stratified_choice(labels: NDArray[np.int64], n: int, seed: int) -> NDArray[np.bool_]:
    """Choose n of the examples so that each class gives its share, to within one example.

    Args:
        labels: [N] classes ≥ 0.
        n: how many to choose, 0 ≤ n ≤ N.
        seed: 0 ≤ seed < 2³².

    Returns:
        [N] true for the chosen.

    Raises:
        DataError: the seed is out of range.
    """
    order = random_state(seed).permutation(len(labels))
    counts = np.bincount(labels)
    share, remainder = np.divmod(n * counts, len(labels))
    rounded_up = np.argsort(-remainder, kind="stable")[: n - share.sum()]
    share[rounded_up] += 1

    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label, take in enumerate(share):
        chosen[order[labels[order] == label][:take]] = True
    return chosen


def random_state(seed: int) -> np.random.RandomState:
    """Draws that do not change with the release of numpy.

    RandomState's streams are frozen by NEP 19; Generator's and torch's may change by release, and
    with them every split that a published figure rests on.

    Raises:
        DataError: the seed is out of range.
    """
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise DataError(f"a seed is a whole number from 0 to 2**32 - 1, got {shown(seed)}")
    return np.random.RandomState(seed)


def describe(tensor: Tensor | NDArray[Any]) -> str:
    """Type and shape for an error message: `float64 [60000, 784]`."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _one(rows: Tensor) -> str:
    """Type and shape of each row: `float32 of shape [784]`."""
    return f"{str(rows.dtype).removeprefix('torch.')} of shape {list(rows.shape[1:])}"
