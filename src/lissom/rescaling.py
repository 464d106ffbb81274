"""The prox of a penalty on groups of weights, in place: every group rescaled, many to zero.

    w ← argmin_w ½‖w − w'‖²_D + t·P(norms of the groups of w),     among all w_g = s_g·w'_g

This is the step that a proximal optimizer takes after its own, and the compression step of
learning–compression under a penalty. The two differ in the step t and in whose D it is.
"""

from collections.abc import Callable, Container, Sequence

import torch
from torch import Tensor, nn

from lissom.groups import Partition
from lissom.penalties import Part, Penalty, widen
from lissom.penalties.penalty import proxed
from lissom.preconditioners import Preconditioner
from lissom.scratch import SMALL

Step = Callable[[Partition], float]
Metrics = Callable[[Partition], Sequence[Preconditioner] | None]


@torch.no_grad()
def rescale(
    penalty: Penalty,
    blocks: Sequence[Partition],
    step: Step,
    metrics: Metrics,
    *,
    only: Container[Partition] | None = None,
    fused: bool = True,
) -> None:
    """Apply a penalty's prox to the norms of blocks, and rescale their groups accordingly.

    Args:
        penalty: without schedules. If it holds per layer, so does its prox.
        blocks: all that it is asked of; their norms come together.
        step: t of a block, ≥ 0.
        metrics: D of a block, one for each of its parameters; None for 1 throughout.
        only: those that are rescaled now; None for all.
        fused: False runs the definition (same result, slower).
    """
    apply = _fused if fused else _reference
    chosen = [i for i, block in enumerate(blocks) if only is None or block in only]
    unequal = bool(penalty.tensors)  # numbers for each group, which come block by block
    if penalty.per == "block":
        for i in chosen:
            _in_runs(penalty, blocks[i], step, metrics)
    elif penalty.per == "layer" or unequal:
        for i in chosen:
            apply(penalty.of(i), [blocks[i]], step, metrics, whole=unequal)
    elif chosen:
        apply(penalty, [blocks[i] for i in chosen], step, metrics, whole=False)


def _reference(
    penalty: Penalty, blocks: Sequence[Partition], step: Step, metrics: Metrics, *, whole: bool
) -> None:
    """The definition: all norms at once, one prox, one scale for each group."""
    norms = [_signed(block) if penalty.signed else block.norms() for block in blocks]
    steps = [torch.full_like(n, step(b)) for n, b in zip(norms, blocks, strict=True)]
    weighted = [d for b in blocks if (d := _weighted(b, metrics)) is not None]
    metric = _joined(weighted) if weighted else None
    new = proxed(penalty, _joined(norms), _joined(steps), metric)
    sizes = [n.numel() for n in norms]
    for block, old, x in zip(blocks, norms, new.flatten().split(sizes), strict=True):
        block.scale_(_ratio(x.view_as(old), old))


def _fused(
    penalty: Penalty, blocks: Sequence[Partition], step: Step, metrics: Metrics, *, whole: bool
) -> None:
    """The same in place on single weights, and on the norms of larger groups."""
    parts: list[Part] = []
    lifted: list[tuple[Partition, Tensor, Tensor]] = []
    for block in blocks:
        t = step(block)
        if block.single and not block.parameters[0].is_complex():  # whose norms are no weights
            found = metrics(block)
            parts += _in_place(block.parameters[0], t, found[0] if found else None, whole=whole)
        else:
            norms = block.norms()
            new = norms.clone()
            metric = _weighted(block, metrics)
            parts.append(Part(new, t, None if metric is None else metric.clone))
            lifted.append((block, norms, new))
    penalty.prox_(parts)
    for block, norms, new in lifted:
        block.scale_(_ratio(new, norms))


def _in_runs(penalty: Penalty, block: Partition, step: Step, metrics: Metrics) -> None:
    """The same for each run of neighbours by itself."""
    norms = _signed(block) if penalty.signed else block.norms()
    metric = _weighted(block, metrics)
    in_runs = None if metric is None else block.in_runs(metric)
    new = proxed(penalty, block.in_runs(norms), step(block), in_runs)
    block.scale_(_ratio(block.out_of_runs(new), norms))


def _weighted(block: Partition, metrics: Metrics) -> Tensor | None:
    found = metrics(block)
    return None if found is None else block.weighted(*(d() for d in found))


def _in_place(
    parameter: nn.Parameter, t: float, metric: Preconditioner | None, *, whole: bool
) -> list[Part]:
    """The parameter itself as parts of at most SMALL weights, so that no copy of it is made.

    `whole` says that it has to stay one, as where a penalty has a number for each of its weights.
    """
    values = parameter.detach()
    if whole or values.numel() <= SMALL:
        return [Part(values, t, metric and metric.scratch)]
    rows = max(1, SMALL // values[0].numel())
    metrics = metric.parts(rows) if metric else None
    return [
        Part(part, t, metrics[i] if metrics else None) for i, part in enumerate(values.split(rows))
    ]


def _signed(block: Partition) -> Tensor:
    """The weights themselves, of a block of single ones."""
    return widen(block.parameters[0].detach())


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """One as it is, since a penalty may have numbers of the same shape; several in a vector."""
    return tensors[0] if len(tensors) == 1 else torch.cat([x.flatten() for x in tensors])


def _ratio(new: Tensor, old: Tensor) -> Tensor:
    """new/old, and 0 where old is 0: never 0/0."""
    return torch.where(old == 0, 0, new / old)
