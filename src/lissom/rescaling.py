"""The prox of a penalty on groups of weights, in place: every group rescaled, many to zero.

    w ← argmin_w ½‖w − w'‖²_D + t·P(norms of the groups of w),     among all w_g = s_g·w'_g

This is the step that a proximal optimizer takes after its own, and the compression step of
learning–compression under a penalty. The two differ in the step t and in whose D it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from lissom.groups import Partition
from lissom.penalties import Part, Penalty, widen
from lissom.penalties.penalty import proxed
from lissom.preconditioners import Preconditioner
from lissom.scratch import SMALL
from lissom.selection import Near
from lissom.shards import Crowd, Share

Step = Callable[[Partition], float]
Metrics = Callable[[Partition], Sequence[Preconditioner] | None]
Chosen = Tensor | None  # a Boolean over the leading dims of a block's norms; None for all groups
Nears = Mapping[Partition, Near]

# Numbers; four times as many bytes, of weights, moments and metric each. Where caches are small,
# smaller pieces cost more in calls than they gain.
CACHE = 2**18


@torch.no_grad()
def rescale(
    penalty: Penalty,
    blocks: Sequence[Partition],
    step: Step,
    metrics: Metrics,
    *,
    only: Mapping[Partition, Chosen] | None = None,
    near: Nears | None = None,
    fused: bool = True,
) -> None:
    """Apply a penalty's prox to the norms of blocks, and rescale their groups accordingly.

    Args:
        penalty: without schedules. If it holds per layer, so does its prox.
        blocks: all that it is asked of; their norms come together.
        step: t of a block, ≥ 0.
        metrics: D of a block, one for each of its parameters; None for 1 throughout.
        only: the blocks that are rescaled now, each with those of its groups that are. All others
            stay as they are, and a budget does not count them. None for all.
        near: where budgets cut the blocks at the step before; they are brought up to date.
        fused: False runs the definition (same result, slower).
    """
    shared = any(block.shard for block in blocks)
    plain = not (fused or penalty.by_family or shared)
    apply = _reference if plain else partial(_fused, near=near or {})
    chosen = dict.fromkeys(blocks) if only is None else only
    unequal = bool(penalty.tensors)  # numbers for each group, which come block by block
    if penalty.per == "all" and not unequal:
        if now := {block: chosen[block] for block in blocks if block in chosen}:
            apply(penalty, now, step, metrics, whole=False)
        return
    for i, block in enumerate(blocks):
        if block not in chosen:
            continue
        groups = chosen[block]
        if penalty.per == "block":
            _in_runs(penalty, block, groups, step, metrics)
        else:
            one = penalty.of(i)
            if unequal and (block.shard or groups is not None):
                one = one.among(partial(_those, block, groups))
            apply(one, {block: groups}, step, metrics, whole=unequal)


def _reference(
    penalty: Penalty, now: Mapping[Partition, Chosen], step: Step, metrics: Metrics, *, whole: bool
) -> None:
    """The definition: all norms at once, one prox, one scale for each group."""
    norms = [_norms(penalty, block, chosen) for block, chosen in now.items()]
    steps = [torch.full_like(n, step(b)) for n, b in zip(norms, now, strict=True)]
    found = [d for b, chosen in now.items() if (d := _weighted(b, chosen, metrics)) is not None]
    metric = _joined(found) if found else None
    new = proxed(penalty, _joined(norms), _joined(steps), metric)
    parts = new.flatten().split([n.numel() for n in norms])
    for (block, chosen), old, x in zip(now.items(), norms, parts, strict=True):
        _scale_(block, chosen, x.view_as(old), old)


def _fused(
    penalty: Penalty,
    now: Mapping[Partition, Chosen],
    step: Step,
    metrics: Metrics,
    *,
    near: Nears,
    whole: bool,
) -> None:
    """The same in place on single weights, and on the norms of larger groups."""
    shares = _shares(now) if penalty.joint else {}
    parts: list[Part] = []
    lifted: list[tuple[Partition, Chosen, Tensor, Tensor]] = []
    taken: list[tuple[Tensor, Tensor, Tensor]] = []
    for block, chosen in now.items():
        t, share = step(block), shares.get(block)
        if block.single and not block.parameters[0].is_complex():  # whose norms are no weights
            values = block.normed[0].values.detach()
            found = metrics(block)
            metric = found[0] if found else None
            if chosen is not None:
                weights, values = values, values[chosen]
                metric = metric and metric.of(chosen)
                taken.append((weights, chosen, values))
            part = Part(values, t, metric and metric.scratch, near.get(block), share)
            parts += _in_pieces(part, metric, whole=whole)
        else:
            norms = _of(chosen, block.norms())
            new = norms.clone()
            weighted = _weighted(block, chosen, metrics)
            known = None if weighted is None else weighted.clone
            parts.append(Part(new, t, known, near.get(block), share))
            lifted.append((block, chosen, new, norms))
    penalty.prox_(parts)
    for weights, chosen, values in taken:
        weights[chosen] = values
    for block, groups, new, norms in lifted:
        _scale_(block, groups, new, norms)


def _in_runs(
    penalty: Penalty, block: Partition, chosen: Chosen, step: Step, metrics: Metrics
) -> None:
    """The same for each run of neighbours by itself; all of a run are in one row."""
    norms = _norms(penalty, block, None)
    metric = _weighted(block, None, metrics)
    in_runs = None if metric is None else block.in_runs(metric)
    new = block.out_of_runs(proxed(penalty, block.in_runs(norms), step(block), in_runs))
    _scale_(block, chosen, _of(chosen, new), _of(chosen, norms))


def _norms(penalty: Penalty, block: Partition, chosen: Chosen) -> Tensor:
    """What the prox is given: norms, or the weights themselves where signs count."""
    norms = widen(block.normed[0].values.detach()) if penalty.signed else block.norms()
    return _of(chosen, norms)


def _weighted(block: Partition, chosen: Chosen, metrics: Metrics) -> Tensor | None:
    found = metrics(block)
    return None if found is None else _of(chosen, block.weighted(*(d() for d in found)))


def _those(block: Partition, chosen: Chosen, numbers: Tensor) -> Tensor:
    """Of a number for each group, those of the chosen groups that this process has."""
    return _of(chosen if chosen is None else chosen.to(numbers.device), block.part(numbers))


def _of(chosen: Chosen, numbers: Tensor) -> Tensor:
    return numbers if chosen is None else numbers[chosen]


def _scale_(block: Partition, chosen: Chosen, new: Tensor, old: Tensor) -> None:
    """Rescale the chosen groups from their old norms to new ones."""
    scales = torch.where(old == 0, 0, new / old)  # never 0/0
    if chosen is not None:
        some, scales = scales, scales.new_ones(block.shape_here)
        scales[chosen] = some
    block.scale_(scales)


def _in_pieces(part: Part, metric: Preconditioner | None, *, whole: bool) -> list[Part]:
    """The values themselves as parts, so that no copy of them is made.

    What is computed beside them stays SMALL, and with a metric, which a prox goes through again and
    again, in a CACHE. `whole` says that they have to stay one, as where a penalty has a number for
    each of them.
    """
    values = part.values
    most = CACHE if metric is not None and values.is_cpu else SMALL
    if whole or values.numel() <= most:
        return [part]
    each = values[0].numel()
    rows = max(1, most // each)
    metrics = metric.parts(rows) if metric else None
    return [
        replace(
            part,
            values=piece,
            metric=metrics[i].scratch if metrics else None,
            share=part.share and part.share.behind(i * rows * each),
        )
        for i, piece in enumerate(values.split(rows))
    ]


def _shares(now: Mapping[Partition, Chosen]) -> dict[Partition, Share]:
    """This process's share of the norms of each block, where it has some of them."""
    shards = [block.shard for block in now if block.shard is not None]
    if not shards:
        return {}
    crowd, before = Crowd(shards), 0
    shares = {}
    for block, chosen in now.items():
        shares[block] = share = block.share(crowd, before)
        before += share.size
        if chosen is not None:
            places = torch.arange(block.shape_here.numel()).view(block.shape_here)
            shares[block] = share.some(places[chosen.cpu()].flatten())
    return shares


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """One as it is, since a penalty may have numbers of the same shape; several in a vector."""
    return tensors[0] if len(tensors) == 1 else torch.cat([x.flatten() for x in tensors])
