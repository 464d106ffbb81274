"""k-means in one dimension, exactly or nearly so: a codebook for weights.

    min over c_1 … c_k of  Σ_i d_i min_j (x_i − c_j)²

Clusters of sorted numbers are stretches of them, so the problem is where to cut. As Σ d x² does
not change, the cuts maximise Σ_j S_j²/D_j, with D_j = Σ d and S_j = Σ d x over stretch j.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lissom.compressions.sorting import Sorted
from lissom.errors import CompressionError
from lissom.scratch import SMALL

MOST = 2**12  # different numbers that are cut exactly, or bins that more of them are put into
ROUNDS = 10_000  # of Lloyd's algorithm, which ends before where no cut moves

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Clusters:
    """Stretches of the number line, and the value that stands for each.

    Attributes:
        centers: ascending, [c] with c ≤ k.
        edges: [c − 1]; x belongs to the cluster whose number is #{edges < x}.
    """

    centers: Tensor
    edges: Tensor

    def index(self, x: Tensor) -> Tensor:
        """The number of each x's cluster, in the smallest of uint8, int16 and int32."""
        flat = x.flatten()
        found = torch.empty(flat.shape, dtype=index_dtype(len(self.centers)), device=x.device)
        # Piece by piece, since int32 numbers of all would be four times as large as the result.
        for piece, out in zip(flat.split(SMALL), found.split(SMALL), strict=True):
            wide = piece.to(self.edges.dtype)
            if len(self.edges) == 1:
                out.copy_(wide > self.edges)
            else:
                out.copy_(torch.bucketize(wide, self.edges, out_int32=True))
        return found.view(x.shape)


def kmeans(x: Tensor, k: int, d: Tensor | None = None) -> Clusters:
    """Cluster n weighted numbers.

    Exact, up to the rounding of float64, for k = 2, for at most MOST different numbers, and
    wherever k is not less than their number (which are then the centers themselves).

    More numbers are put into about MOST bins, the bins are cut exactly, and from there Lloyd's
    algorithm moves the cuts among all the numbers until none moves. That is deterministic, and
    better than seeds drawn at random, as by k-means++, since all the numbers are looked at first:
    on 200,000 normal and heavy-tailed numbers the error was within 1e-6 of the least one for
    k ≤ 16, and within 1e-3 for k = 256.

    Args:
        x: finite numbers [n], float32 or float64; overwritten.
        k: clusters, ≥ 1.
        d: weights [n], finite and ≥ 0, of which one of 0 has no say; None for 1.

    Returns:
        At most k clusters, none of them empty, in x's dtype.

    Raises:
        CompressionError: if there are no numbers.

    Source: the cuts by dynamic programming, Bruce 1965, and in O(k n log n) by the monotonicity
    of the last cut, Grønlund et al. 2017 (*Fast exact k-means, k-medians and Bregman divergence
    clustering in 1D*).
    """
    if not len(x):
        raise CompressionError("there are no weights to make a codebook of")
    data = Sorted(x, d)
    starts = data.starts(max(MOST, k))
    if starts is not None and len(starts) <= k:
        cuts = starts[1:]
    elif k == 1:
        cuts = data.x.new_empty(0, dtype=torch.long)
    elif k == 2:
        cuts = torch.tensor([_halves(data)], device=data.x.device)
    else:
        if starts is None or len(starts) > MOST:
            starts = _bins(data, max(MOST, 4 * k))
        cuts = _cut(data, starts, k)
    cuts = _settle(data, cuts)
    centers = _means(data, cuts)
    # An edge between two clusters is the middle of their centers, unless rounding put it on the
    # wrong side of a number; numbers of weight 0 may lie there.
    middle = ((centers[1:] + centers[:-1]) / 2).to(data.x.dtype)
    last, first = data.x[cuts - 1], data.x[cuts]
    edges = torch.where(middle < first, torch.maximum(middle, last), last)
    return Clusters(centers.to(data.x.dtype), edges)


def index_dtype(k: int) -> torch.dtype:
    """The smallest integers that number k values."""
    if k <= 2**8:
        return torch.uint8
    return torch.int16 if k <= 2**15 else torch.int32


def partition(weights: Floats, totals: Floats, k: int) -> NDArray[np.intp]:
    """Cut m bins into k stretches that maximise Σ_j S_j²/D_j.

    By dynamic programming over the number of stretches, in O(k m log m): the more bins there are,
    the later the best last cut. So it is found for every second bin once those between which it
    must lie are known, for all of one level together.

    Args:
        weights: D of the first 0, 1, …, m bins, [m + 1], increasing from 0.
        totals: S of the same.
        k: 1 ≤ k ≤ m.

    Returns:
        The k − 1 cuts, ascending: how many bins lie before each.
    """
    m = len(weights) - 1
    best = np.full(m + 1, -np.inf)
    best[1:] = totals[1:] ** 2 / weights[1:]
    layers = []
    for clusters in range(2, k + 1):
        best, last = _one_more(best, weights, totals, clusters)
        layers.append(last)
    cuts = [m]
    for last in reversed(layers):
        cuts.append(last[cuts[-1]])
    return np.array(cuts[:0:-1], dtype=np.intp)


def _one_more(
    best: Floats, weights: Floats, totals: Floats, clusters: int
) -> tuple[Floats, NDArray[np.intp]]:
    """max over i of best[i] + S²/D of the bins from i to j, for every j ≥ clusters, and its i."""
    m = len(weights) - 1
    size = m - clusters + 1  # of the j to be solved, at places 1 … size
    values = np.full(m + 1, -np.inf)
    last = np.full(size + 2, m, dtype=np.intp)
    last[0] = clusters - 1
    step = 1 << size.bit_length()
    while step := step >> 1:
        places = np.arange(step, size + 1, 2 * step)
        ends = places + clusters - 1
        low = last[places - step]
        counts = np.minimum(last[np.minimum(places + step, size + 1)], ends - 1) - low + 1
        firsts = np.cumsum(counts) - counts
        i = np.arange(counts.sum()) + np.repeat(low - firsts, counts)
        j = np.repeat(ends, counts)
        found = best[i] + (totals[j] - totals[i]) ** 2 / (weights[j] - weights[i])
        top = np.maximum.reduceat(found, firsts)
        at = np.flatnonzero(found == np.repeat(top, counts))[::-1]  # of equal ones the first
        last[j[at] - clusters + 1] = i[at]
        values[ends] = top
    return values, np.concatenate([np.zeros(clusters, dtype=np.intp), last[1:-1]])


def _halves(data: Sorted) -> int:
    """The best cut into two, tried at every number."""
    n = len(data)
    weight, total = (float(end) for end in data.sums(torch.tensor(n, device=data.x.device)))
    mean = total / weight

    def score(weights: Tensor, sums: Tensor) -> Tensor:  # (S − D·mean)²·(1/D + 1/(W − D))
        gain = sums.addcmul_(weights, sums.new_tensor(-mean)).square_()
        return gain.div_(weights).div_(weights.neg().add_(weight)).mul_(weight)

    return data.best(score, n - 1)


def _cut(data: Sorted, starts: Tensor, k: int) -> Tensor:
    """The best k − 1 cuts among places where bins begin."""
    ends = torch.cat([starts, starts.new_tensor([len(data)])])
    weights, totals = (sums.cpu().numpy() for sums in data.sums(ends))
    best = partition(weights, totals - weights * (totals[-1] / weights[-1]), k)
    return ends[torch.from_numpy(best).to(ends.device)]


def _bins(data: Sorted, most: int) -> Tensor:
    """Where bins begin: half of them of equal counts, half of equal widths, for thin tails.

    None parts equal numbers, and a number that would fill a bin has one of its own.
    """
    n, half = len(data), most // 2
    places = torch.arange(half, device=data.x.device) * n // half
    first, last = float(data.x[0]), float(data.x[-1])
    widths = torch.linspace(first, last, half, dtype=data.x.dtype, device=data.x.device)
    values = torch.cat([data.x[places], widths])
    left = torch.searchsorted(data.x, values)
    right = torch.searchsorted(data.x, values, right=True)
    heavy = right[right - left > n // half]
    starts: Tensor = torch.cat([left.new_zeros(1), left, heavy]).unique()
    return starts[starts < n]


def _settle(data: Sorted, cuts: Tensor) -> Tensor:
    """Lloyd's algorithm: each cut to the middle of the two means beside it, until none moves."""
    for _ in range(ROUNDS):
        centers = _means(data, cuts)
        middle = (centers[1:] + centers[:-1]) / 2
        edges = middle.to(data.x.dtype)
        over = edges.double() > middle  # rounded down, a number is never on the farther side
        edges = torch.where(over, edges.nextafter(edges.new_tensor(-torch.inf)), edges)
        moved = torch.searchsorted(data.x, edges, right=True)
        bounds = torch.cat([moved.new_zeros(1), moved, moved.new_tensor([len(data)])])
        if torch.equal(moved, cuts) or bool((bounds.diff() == 0).any()):
            break
        cuts = moved
    return cuts


def _means(data: Sorted, cuts: Tensor) -> Tensor:
    """The mean of each stretch, in float64 and within it."""
    bounds = torch.cat([cuts.new_zeros(1), cuts, cuts.new_tensor([len(data)])])
    weights, totals = data.sums(bounds)
    means = totals.diff() / weights.diff() + data.shift
    within: Tensor = means.clamp(data.x[bounds[:-1]].double(), data.x[bounds[1:] - 1].double())
    return within
