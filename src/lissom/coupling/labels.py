"""Labels of what must be removed together, merged by union-find; label 0 is pinned.

Every index of every dim of a tensor that may shrink carries a label. The labels of one dim, or of
several dims that only make sense together (the heads × width of attention), are an *axis*: an array
with as many dims as the tensor, of size 1 where the labels do not vary.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Axis = NDArray[np.int64]
Axes = tuple[Axis, ...]

PINNED = 0


class Labels:
    """Disjoint sets of labels; the smallest label of a set stands for it.

    Attributes:
        cause: what is at work; it is remembered for the labels that are pinned meanwhile.
    """

    def __init__(self) -> None:
        self.cause: Any = None
        self._parent = np.zeros(1, np.int64)
        self._causes: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._parent)

    def fresh(self, shape: Sequence[int]) -> Axis:
        """New labels, each alone in its set."""
        start = len(self._parent)
        new = np.arange(start, start + int(np.prod(shape)), dtype=np.int64)
        self._parent = np.concatenate([self._parent, new])
        return new.reshape(shape)

    def find(self, labels: Axis) -> Axis:
        """The label that stands for each label's set."""
        found: Axis = self._parent[labels]
        while not np.array_equal(found, up := self._parent[found]):
            found = up
        return found

    def union(self, a: Axis, b: Axis) -> None:
        """Merge the sets of a and b, element by element, with broadcasting."""
        left, right = (side.ravel() for side in np.broadcast_arrays(a, b))
        while True:
            left, right = self.find(left), self.find(right)
            differ = left != right
            if not differ.any():
                return
            left, right = left[differ], right[differ]
            high, low = np.maximum(left, right), np.minimum(left, right)
            self._parent[high] = low
            for label in np.unique(high[low == PINNED]).tolist():
                self._causes.setdefault(label, self.cause)

    def pin(self, labels: Axis) -> None:
        """What carries these labels stays."""
        self.union(labels, np.full((), PINNED))

    def pinned_by(self, label: int) -> tuple[int, Any]:
        """Of a pinned label: the set that was pinned, by its label, and the cause of that.

        Parents are never rewritten, so the way up passes the label that stood for the set then. Of
        a label that is not pinned: the one that stands for its set, and None.
        """
        while (up := int(self._parent[label])) not in (PINNED, label):
            label = up
        return label, self._causes.get(label)

    def along(self, axis: Axis, dim: int) -> Axis:
        """The axis as a vector along one dim; what varies along other dims is tied together."""
        rows = np.moveaxis(axis, dim, 0).reshape(axis.shape[dim], -1)
        self.union(rows, rows[:, :1])
        return self.find(rows[:, 0])

    def rigid(self, axis: Axis, dim: int) -> None:
        """Size `dim` must stay: its labels are tied, or pinned if they vary along it alone."""
        if axis.shape[dim] == 1:
            return
        if axis.size > axis.shape[dim]:
            self.union(axis, axis.take([0], dim))
        else:
            self.pin(axis)

    def settled(self, axes: Axes) -> Axes:
        """The axes as they are now: merged, narrowed to the dims they vary along, none pinned.

        One label for all of a dim is pinned: without its only unit the tensor would be empty.
        """
        now = [narrow(self.find(axis)) for axis in axes]
        for axis in now:
            if axis.size == 1:
                self.pin(axis)
        return tuple(axis for axis in now if axis.size > 1)

    def settle(self, axis: Axis) -> None:
        """Tie an axis over several dims so that what is left is rectangular: along its longest."""
        now = narrow(self.find(axis))
        dims = varying(now)
        if len(dims) > 1:
            self.along(now, max(dims, key=lambda dim: now.shape[dim]))


def varying(axis: Axis) -> list[int]:
    """The dims along which an axis varies."""
    return [dim for dim, size in enumerate(axis.shape) if size > 1]


def narrow(axis: Axis) -> Axis:
    """Size 1 along each dim on which the labels are all equal."""
    for dim, size in enumerate(axis.shape):
        if size > 1 and bool((axis == axis.take([0], dim)).all()):
            axis = axis.take([0], dim)
    return axis


def placed(vector: Axis, dim: int, ndim: int) -> Axis:
    """A vector of labels as an axis of a tensor with `ndim` dims."""
    return vector.reshape([-1 if d == dim % ndim else 1 for d in range(ndim)])
