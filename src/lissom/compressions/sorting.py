"""Weighted numbers in ascending order, of which any stretch can be summed at once.

With x_1 ≤ … ≤ x_n and weights d_i, the sums D(i) = d_1 + … + d_i and S(i) = d_1 x_1 + … + d_i x_i
answer every question about clusters of neighbours. 100 million numbers take one copy of them (two
with weights): sums are kept for blocks of numbers only, and completed when they are asked for.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lissom.errors import CompressionError
from lissom.penalties import widen
from lissom.scratch import SMALL

BLOCK = 256  # numbers that are summed again for each question; it divides SMALL


class Sorted:
    """Numbers with their weights, ascending, without those of weight 0.

    Attributes:
        x: the numbers [n], in float32 or float64.
        d: their weights [n] > 0, or None for 1.
        shift: is subtracted from x in all sums, so that they keep their digits.
    """

    def __init__(self, x: Tensor, d: Tensor | None = None, *, centred: bool = True) -> None:
        """Sort.

        Args:
            x: finite numbers [n], n ≥ 1; overwritten.
            d: finite weights [n] ≥ 0. All zero, they count as 1.
            centred: False for shift = 0.
        """
        if d is not None:
            heavy = d > 0
            d = d if bool(heavy.any()) else None
            if d is not None and not bool(heavy.all()):
                x, d = x[heavy], d[heavy]
        self.x, self.d = _sort(x, d)
        self.shift = float(self.x[len(x) // 2]) if centred else 0.0
        blocks = [
            F.pad(y, (0, -len(y) % BLOCK)).view(-1, BLOCK).sum(1) for _, _, y in self._pieces()
        ]
        self._blocks = F.pad(torch.cat(blocks).cumsum(0), (1, 0))  # S at 0, BLOCK, 2·BLOCK, …
        self._weights: Tensor | None = None
        if self.d is not None:
            sums = [F.pad(w, (0, -len(w) % BLOCK)).view(-1, BLOCK).sum(1) for w in self._heavy()]
            self._weights = F.pad(torch.cat(sums).cumsum(0), (1, 0))

    def __len__(self) -> int:
        return len(self.x)

    def sums(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """D and S of the first `first` numbers, 0 ≤ first ≤ n, in float64 and of its shape."""
        block = first // BLOCK
        place = block.unsqueeze(-1) * BLOCK + torch.arange(BLOCK, device=first.device)
        inside = place < first.unsqueeze(-1)
        place.clamp_(max=len(self) - 1)
        y = self.x[place].double().sub_(self.shift)
        if self.d is None or self._weights is None:
            return first.double(), self._blocks[block] + (y * inside).sum(-1)
        w = self.d[place].double().mul_(inside)
        return self._weights[block] + w.sum(-1), self._blocks[block] + (y * w).sum(-1)

    def best(self, score: Callable[[Tensor, Tensor], Tensor], most: int) -> int:
        """argmax over 1 ≤ i ≤ most of score(D(i), S(i)).

        Args:
            score: of two float64 vectors, element by element.
            most: ≤ n.
        """
        found, at = -torch.inf, most
        weight, total = 0.0, 0.0
        for start, w, y in self._pieces(most):
            end = start + len(y)
            if w is None:
                ones = torch.arange(start + 1, end + 1, dtype=torch.float64, device=y.device)
            else:
                ones = w.cumsum(0).add_(weight)
                weight = float(ones[-1])
            sums = y.cumsum(0).add_(total)
            total = float(sums[-1])
            scores = score(ones, sums)
            top = scores.max(0)
            if float(top.values) > found:
                found, at = float(top.values), start + int(top.indices) + 1
        return at

    def starts(self, most: int) -> Tensor | None:
        """Where each different number first stands, or None if there are more than `most`."""
        found, count = [torch.zeros(1, dtype=torch.long, device=self.x.device)], 1
        for start in range(1, len(self), SMALL):
            new = self.x[start : start + SMALL]
            at = (new != self.x[start - 1 : start - 1 + len(new)]).nonzero().flatten()
            found.append(at + start)
            count += len(at)
            if count > most:
                return None
        return torch.cat(found)

    def _pieces(self, most: int | None = None) -> Iterator[tuple[int, Tensor | None, Tensor]]:
        """Where each piece begins, its weights and its weighted numbers, in float64."""
        for start in range(0, len(self) if most is None else most, SMALL):
            end = min(start + SMALL, len(self) if most is None else most)
            y = self.x[start:end].to(torch.float64, copy=True).sub_(self.shift)
            w = None if self.d is None else self.d[start:end].double()
            yield start, w, y if w is None else y.mul_(w)

    def _heavy(self) -> Iterator[Tensor]:
        assert self.d is not None
        for piece in self.d.split(SMALL):
            yield piece.double()


def gathered(tensors: Sequence[Tensor]) -> Tensor:
    """All numbers of some tensors as one new vector, float32 or wider."""
    return torch.cat([widen(tensor).flatten() for tensor in tensors])


def require_finite(tensors: Sequence[Tensor], what: object) -> None:
    """Refuse weights that have no nearest compressed ones.

    Raises:
        CompressionError: if any is NaN or infinite.
    """
    for i, tensor in enumerate(tensors):
        if not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise CompressionError(
                f"{what} was given {bad:,} NaN or infinite weights, in tensor {i + 1} of "
                f"{len(tensors)}, of shape {list(tensor.shape)}: has training diverged?"
            )


def require_metric(metric: Sequence[Tensor], w: Sequence[Tensor], what: object) -> None:
    """Refuse weights of weights that give no distance.

    Raises:
        CompressionError: if any d is negative, NaN or infinite, or of another shape than w.
    """
    shapes = [list(d.shape) for d in metric], [list(x.shape) for x in w]
    if shapes[0] != shapes[1]:
        raise CompressionError(f"{what}: the metric has shapes {shapes[0]}, weights {shapes[1]}")
    for i, d in enumerate(metric):
        if not bool((d.isfinite() & (d >= 0)).all()):
            raise CompressionError(
                f"{what} needs a metric d ≥ 0, and that of tensor {i + 1} of {len(metric)} has "
                "negative, NaN or infinite entries"
            )


def _sort(x: Tensor, d: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if x.device.type == "cpu" and d is None:  # NumPy's sort is vectorised: 2 × torch's
        x.numpy().sort()
        return x, None
    if x.device.type == "cpu" and d is not None and x.dtype == d.dtype == torch.float32:
        return _sort_pairs(x, d)
    x, order = x.sort()
    return x, None if d is None else d[order]


def _sort_pairs(x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """The same for float32, 4 × as fast: each pair as one integer, x in its upper half."""
    pairs = np.empty((len(x), 2), dtype="<i4")  # little-endian: the second number is the upper
    pairs[:, 0] = d.numpy().view(np.int32)
    pairs[:, 1] = _ordered(x.numpy().view(np.int32))
    pairs.view("<i8").ravel().sort()
    numbers = np.ascontiguousarray(_ordered(pairs[:, 1]), dtype=np.int32)
    weights = np.ascontiguousarray(pairs[:, 0], dtype=np.int32)
    return (
        torch.from_numpy(numbers.view(np.float32)),
        torch.from_numpy(weights.view(np.float32)),
    )


def _ordered(bits: NDArray[np.int32]) -> NDArray[np.int32]:
    """Bits of floats as integers in the same order, and back: negative ones are turned round."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
