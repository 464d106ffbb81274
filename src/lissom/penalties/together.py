"""The κ largest of numbers that several processes hold, each of them some.

By a radix search: numbers ≥ 0 are in the order of their bits, so that the first bits of the κ-th
largest are found by one histogram that is summed over the processes, the next by a second, and the
last by a third. Of those that are equal to it the first stay, whose places are searched likewise.
It is exact, and what goes from process to process is some 35 KB however many numbers there are.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from lissom.penalties.parts import Part, zero_up_to_
from lissom.scratch import scratch
from lissom.shards import Crowd

KEYS = {torch.float32: (torch.int32, 31), torch.float64: (torch.int64, 63)}
BITS, FEW = 11, 7  # of a number, of a place, that one histogram finds


def count(parts: Sequence[Part]) -> int:
    """How many numbers there are in all parts and all processes."""
    here = sum(p.values.numel() for p in parts if p.share is None or p.share.counts)
    share = parts[0].share
    return here if share is None else int(share.crowd.sum(torch.tensor(here)))


def keep_largest_(parts: Sequence[Part], kappa: int, n: int) -> None:
    """Zero all but the κ values with the largest scores; of equal ones the first stay.

    Args:
        parts: each with its share.
        kappa: of all processes' numbers.
        n: how many these are.
    """
    assert parts[0].share is not None
    crowd = parts[0].share.crowd
    if kappa == 0:
        for part in parts:
            part.values.mul_(0)  # NaN stays NaN
        return
    if kappa >= n:
        return
    wide = any(part.values.dtype == torch.float64 for part in parts)
    dtype = torch.float64 if wide else torch.float32
    keys, bits = KEYS[dtype]
    counted = [part for part in parts if part.share and part.share.counts]

    def numbers() -> Iterator[Tensor]:
        for part in counted:
            yield _keys(_scores(part, dtype), keys).flatten()

    cut, left, tied = _kth_largest(numbers, kappa, bits, BITS, crowd)
    if cut == 0:
        return  # what would be zeroed is zero
    last: int | None = None
    if left < tied:
        most = max(part.share.before + part.share.size for part in parts if part.share)
        size = most.bit_length()
        top = (1 << size) - 1

        def places() -> Iterator[Tensor]:
            for part in counted:
                yield top - _tied(part, cut, dtype, keys)[1]

        last = top - _kth_largest(places, left, size, FEW, crowd)[0]
    threshold = torch.tensor(cut, dtype=keys).view(dtype)
    below = threshold.nextafter(torch.full_like(threshold, -torch.inf))
    for part in parts:
        if last is None and part.values.dtype == dtype and not threshold.isnan():
            zero_up_to_(part.values, _scores(part, dtype), float(below))
            continue
        keep = (_keys(_scores(part, dtype), keys) >= cut).contiguous()
        if last is not None:
            here, among_all = _tied(part, cut, dtype, keys)
            keep.view(-1)[here[among_all > last]] = False
        part.values.mul_(keep)  # and not masked: NaN stays NaN for the user to see


def in_all(
    parts: Sequence[Part],
    numbers: Sequence[Tensor],
    steps: Sequence[float | Tensor],
    metrics: Sequence[Tensor | None],
    find: Callable[..., list[Tensor]],
) -> list[Tensor]:
    """What a function of all numbers finds for those of each part, wherever the others are.

    Where parts have shares every process gets the numbers of all, and the function finds the same
    in each: what a joint penalty of one's own does, that says nothing of processes.

    Args:
        parts: with a share each, or without.
        numbers: of each part.
        steps: t of each part.
        metrics: of each part.
        find: of such lists.
    """
    share = parts[0].share
    if share is None:
        return find(numbers, steps, metrics)
    shares = [part.share for part in parts if part.share is not None]
    size = max(each.before + each.size for each in shares)
    here = [torch.arange(x.numel(), device=x.device) for x in numbers]
    places = [each.of(flat) for each, flat in zip(shares, here, strict=True)]

    def joined(found: Iterable[Tensor]) -> Tensor:
        whole = numbers[0].new_zeros(size)
        for each, flat, at in zip(shares, found, places, strict=True):
            if each.counts:
                whole[at] = flat.flatten()
        return share.crowd.sum(whole)

    ones = [torch.ones_like(x) for x in numbers]
    there = joined(ones) > 0
    some = any(metric is not None for metric in metrics)
    found = find(
        [joined(numbers)[there]],
        [joined(one * step for one, step in zip(ones, steps, strict=True))[there]],
        [joined(one if d is None else d for one, d in zip(ones, metrics, strict=True))[there]]
        if some
        else [None],
    )
    whole = numbers[0].new_zeros(size)
    whole[there] = found[0]
    return [whole[at].view_as(x) for at, x in zip(places, numbers, strict=True)]


def _kth_largest(
    numbers: Callable[[], Iterable[Tensor]], k: int, bits: int, each: int, crowd: Crowd
) -> tuple[int, int, int]:
    """The k-th largest of whole numbers < 2^bits that a crowd holds.

    Args:
        numbers: gives those that this process has, in parts, afresh at each call.
        k: 1 ≤ k ≤ how many there are in all.
        bits: of a number.
        each: bits that one histogram finds.
        crowd: the processes.

    Returns:
        It, how many of those equal to it are among the k largest, and how many there are.
    """
    found, known, here = 0, 0, 0
    while known < bits:
        now = min(each, bits - known)
        low = bits - known - now
        histogram = torch.zeros(1 << now, dtype=torch.long)
        for part in numbers():
            some = part[(part >> (low + now)) == found] if known else part
            counts = torch.bincount((some >> low) & ((1 << now) - 1), minlength=1 << now)
            histogram += counts.to(histogram.device)
        histogram = crowd.sum(histogram)
        from_here = histogram.flip(0).cumsum(0).flip(0)  # how many have these bits, or larger ones
        bin_ = int((from_here >= k).nonzero().max())
        here = int(histogram[bin_])
        k -= int(from_here[bin_]) - here
        found, known = (found << now) | bin_, known + now
    return found, k, here


def _scores(part: Part, dtype: torch.dtype) -> Tensor:
    scores = part.score(out=scratch(part.values, "scores"))
    return scores.to(dtype)


def _keys(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """Bits without the sign, which NaN may have: in the order of the scores, NaN the largest."""
    keys = scores.view(dtype)
    keys &= torch.iinfo(dtype).max
    return keys


def _tied(part: Part, cut: int, dtype: torch.dtype, keys: torch.dtype) -> tuple[Tensor, Tensor]:
    """The places here, and among all, of the numbers whose score is the threshold."""
    assert part.share is not None
    here = (_keys(_scores(part, dtype), keys) == cut).flatten().nonzero().flatten()
    return here, part.share.of(here)
