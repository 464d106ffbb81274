"""k-means in one dimension, exactly or very nearly so: a codebook for weights.

    min over c_1 … c_k of  Σ_i d_i min_j (x_i − c_j)²

Clusters of sorted numbers are stretches of them, so the problem is where to cut. As Σ d x² does
not change, the cuts maximise Σ_j S_j²/D_j, with D_j = Σ d and S_j = Σ d x over stretch j. With
D(i) and S(i), the sums over the i smallest numbers, that of any stretch is a difference.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lissom.selection import ascending

MOST = 2**12  # different numbers that are cut exactly, or cells that more of them are put into
ROUNDS = 10_000  # of Lloyd's algorithm, which ends before where no cut moves

Floats = NDArray[np.float64]


def kmeans(x: Tensor, k: int, d: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cluster n weighted numbers.

    Exact, up to the rounding of float64, for at most MOST different numbers. More are put into as
    many cells, the cells are cut exactly, and from there Lloyd's algorithm moves the cuts among all
    the numbers until none moves. On 266,200 normal, heavy-tailed and two-humped numbers the error
    was within 2e-6 of the least there is for k ≤ 16, and within 2e-5 for k = 64.

    Args:
        x: finite numbers [n], n ≥ 1.
        k: clusters, ≥ 1.
        d: weights [n], finite and ≥ 0, of which one of 0 has no say; None, or all 0, for 1.

    Returns:
        The centers [c] with c ≤ k, ascending, and the greatest number of each cluster but the last,
        [c − 1]: x belongs to the cluster whose number is #{edges < x}. Both in x's dtype.

    Source: the cuts by dynamic programming, Bruce 1965, and in O(k n log n) by the monotonicity
    of the last cut, Grønlund et al. 2017 (*Fast exact k-means, k-medians and Bregman divergence
    clustering in 1D*).
    """
    x, d = weighted(x, d)
    n, wide = len(x), x.double()
    middle = wide[n // 2]  # subtracted, so that the sums keep their digits
    weights, totals = sums(wide - middle, d)
    new = x[1:] != x[:-1]
    most = max(MOST, k)
    cuts = new.nonzero().flatten() + 1 if int(new.sum()) < most else _cells(x, most)
    if len(cuts) >= k:
        bounds = F.pad(F.pad(cuts, (1, 0)), (0, 1), value=n)
        best = best_cuts(weights[bounds].cpu().numpy(), totals[bounds].cpu().numpy(), k)
        cuts = bounds[torch.from_numpy(best).to(bounds.device)]
    for _ in range(ROUNDS):
        bounds = F.pad(F.pad(cuts, (1, 0)), (0, 1), value=n)
        means = totals[bounds].diff() / weights[bounds].diff() + middle
        means = means.clamp(wide[bounds[:-1]], wide[bounds[1:] - 1])  # whatever rounding did
        moved = torch.searchsorted(wide, (means[1:] + means[:-1]) / 2, right=True).unique()
        moved = moved[(moved > 0) & (moved < n)]
        if len(moved) < len(cuts) or torch.equal(moved, cuts):
            break
        cuts = moved
    return means.to(x.dtype), x[cuts - 1]


def weighted(x: Tensor, d: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Numbers in ascending order with their weights, without those of weight 0."""
    if d is None or not bool(d.any()):
        return ascending(x), None
    x, order = x[d > 0].sort()
    return x, d[d > 0][order]


def sums(x: Tensor, d: Tensor | None) -> tuple[Tensor, Tensor]:
    """D and S of the first 0, 1, … n numbers in float64, [n + 1] each."""
    if d is None:
        weights = torch.arange(len(x) + 1, dtype=torch.float64, device=x.device)
        return weights, F.pad(x.cumsum(0, dtype=torch.float64), (1, 0))
    weights = F.pad(d.cumsum(0, dtype=torch.float64), (1, 0))
    return weights, F.pad((x.double() * d).cumsum(0), (1, 0))


def best_cuts(weights: Floats, totals: Floats, k: int) -> NDArray[np.intp]:
    """Cut m cells into at most k stretches that maximise Σ_j S_j²/D_j.

    By dynamic programming over the number of stretches: the more cells there are, the later the
    best last cut. So it is found for every second end once those between which it must lie are
    known, for all of one level together, in O(k m log m).

    Args:
        weights: D of the first 0, 1, …, m cells, [m + 1], increasing from 0.
        totals: S of the same.
        k: ≥ 1.

    Returns:
        The cuts, ascending: how many cells lie before each.
    """
    m = len(weights) - 1

    def gain(i: NDArray[np.intp], j: NDArray[np.intp]) -> Floats:
        d = weights[j] - weights[i]
        found: Floats = np.divide((totals[j] - totals[i]) ** 2, d, np.zeros_like(d), where=d > 0)
        return found

    best, lasts = gain(np.zeros(m + 1, np.intp), np.arange(m + 1)), []
    for _ in range(k - 1):
        last = np.zeros(m + 2, np.intp)  # the best last cut where the end is at j; m + 1 is none
        last[-1], more, step = m, np.zeros(m + 1), 1 << m.bit_length()
        while step := step >> 1:
            ends = np.arange(step, m + 1, 2 * step)
            low, high = last[ends - step], last[np.minimum(ends + step, m + 1)]
            counts = np.minimum(high, ends) - low + 1
            firsts = counts.cumsum() - counts
            i = np.arange(counts.sum()) + np.repeat(low - firsts, counts)
            j = np.repeat(ends, counts)
            found = best[i] + gain(i, j)
            more[ends] = np.maximum.reduceat(found, firsts)
            at = np.flatnonzero(found == more[j])[::-1]  # of equal ones the first
            last[j[at]] = i[at]
        best = more
        lasts.append(last)
    cuts = [m]
    for last in reversed(lasts):
        cuts.append(last[cuts[-1]])
    return np.setdiff1d(cuts, [0, m])


def _cells(x: Tensor, most: int) -> Tensor:
    """Where cells of width density^(−1/3) begin, all but the first; about `most`.

    None parts equal numbers. Many cells lose least if they are chosen so (Panter & Dite 1951):
    ∫ density^(1/3) is the same in each. It is summed over 2¹⁷ stretches of equal counts and as many
    of equal widths, for thin tails.
    """
    n, fine = len(x), 2**17
    quantiles = torch.arange(fine, device=x.device) * n // fine
    widths = torch.linspace(float(x[0]), float(x[-1]), fine, dtype=x.dtype, device=x.device)
    places = torch.cat([quantiles, torch.searchsorted(x, widths).clamp(max=n - 1)]).unique()
    mass = (x[places].double().diff().square() * places.diff()).pow(1 / 3).cumsum(0)
    parts = torch.arange(1, most, dtype=mass.dtype, device=x.device) / most * mass[-1]
    firsts = x[places[torch.searchsorted(mass, parts) + 1]]
    starts: Tensor = torch.searchsorted(x, firsts).unique()
    return starts[starts > 0]
