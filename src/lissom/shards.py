"""Tensors of which each process holds a part: torch's DTensor, as fully_shard makes them.

A process works on its part as on a tensor of its own, and what is about all of them is added up
over the processes: a few sums, never the tensor. Nothing here imports torch's classes for it, which
take long; a tensor that has `placements` is one of them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from lissom.errors import LissomError


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, of which this process may hold a part."""
    return hasattr(tensor, "placements")


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory; all of an ordinary one."""
    if not is_sharded(tensor):
        return tensor
    part: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return part


def gathered(tensor: Tensor) -> Tensor:
    """All numbers of a tensor, a copy for each process; an ordinary one as it is."""
    found: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return found


class Shard:
    """The part of a tensor that this process holds.

    Attributes:
        tensor: the DTensor.
        mesh: of the processes that hold it.
        over: the dims of the mesh along which the processes hold other parts; along the rest they
            hold the same.
        rows: for each dim of the tensor that is cut, the places along it that this process holds;
            None for the others.
    """

    def __init__(self, tensor: Any) -> None:
        self.tensor, self.mesh = tensor, tensor.device_mesh
        if any(placement.is_partial() for placement in tensor.placements):
            raise LissomError(
                f"a parameter of {list(tensor.shape)} is placed as {tensor.placements}, a sum that "
                "is still to be taken: groups are of parameters that are Shard or Replicate"
            )
        dims = [getattr(placement, "dim", None) for placement in tensor.placements]
        self._cut = [None if dim is None else dim % tensor.ndim for dim in dims]
        self.over = [i for i, dim in enumerate(self._cut) if dim is not None]
        self.rows = [self._rows(d) if d in self._cut else None for d in range(tensor.ndim)]

    @property
    def dims(self) -> set[int]:
        """Of the tensor, along which it is cut."""
        return {dim for dim in self._cut if dim is not None}

    @property
    def first(self) -> bool:
        """Whether this process is the first of those of its mesh that hold this part."""
        return not any(
            self.mesh.get_local_rank(i) for i in range(self.mesh.ndim) if i not in self.over
        )

    def sum(self, numbers: Tensor) -> Tensor:
        """Σ of numbers over the processes that hold other parts."""
        return _summed(numbers, self.mesh, self.over)

    def places(self, flat: Tensor, dims: Sequence[int]) -> Tensor:
        """Places among all rows along some dims, of places among those here."""
        whole, here = self.tensor.shape, local(self.tensor).shape
        found, more, more_here = torch.zeros_like(flat), 1, 1
        for dim in reversed(dims):
            along, rows = flat // more_here % max(1, here[dim]), self.rows[dim]
            found += more * (along if rows is None else rows.to(flat.device)[along])
            more, more_here = more * whole[dim], more_here * max(1, here[dim])
        return found

    def part(self, whole: Tensor, dims: Sequence[int] | None = None) -> Tensor:
        """What this process holds of numbers for all rows along some dims, or all."""
        dims = range(self.tensor.ndim) if dims is None else dims
        for i, dim in enumerate(dims):
            if (rows := self.rows[dim]) is not None:
                whole = whole.index_select(i, rows.to(whole.device))
        return whole

    def whole(self, part: Tensor, dims: Sequence[int] | None = None) -> Tensor:
        """A DTensor of the numbers for rows along some dims, or all, of which this is a part.

        That is how a checkpoint keeps it, to be loaded by another number of processes too.
        """
        from torch.distributed.tensor import DTensor, Replicate

        def along(placement: Any, dim: int) -> Any:
            factor = {"split_factor": placement.split_factor} if _strided(placement) else {}
            return type(placement)(dim, **factor)

        dims = range(self.tensor.ndim) if dims is None else dims
        shape = torch.Size(self.tensor.shape[d] for d in dims)
        placements = [
            Replicate() if dim is None else along(placement, dims.index(dim))
            for placement, dim in zip(self.tensor.placements, self._cut, strict=True)
        ]
        made: Tensor = DTensor.from_local(
            part.contiguous(),
            self.mesh,
            placements,
            run_check=False,
            shape=shape,
            stride=tuple(prod(shape[i + 1 :]) for i in range(len(shape))),
        )
        return made

    def gathered(self, part: Tensor) -> Tensor:
        """All of a tensor that is cut as this one is, of which this process has a part."""
        return gathered(self.whole(part))

    def _rows(self, dim: int) -> Tensor:
        """As torch cuts: evenly, the last may be shorter, and what is strided is cut last."""
        cuts = [i for i, cut in enumerate(self._cut) if cut == dim]
        strided = [i for i in cuts if _strided(self.tensor.placements[i])]
        rows = torch.arange(self.tensor.shape[dim])
        for i in [i for i in cuts if i not in strided] + strided[::-1]:
            pieces, mine = rows.chunk(self.mesh.size(i)), self.mesh.get_local_rank(i)
            rows = pieces[mine] if mine < len(pieces) else rows[:0]
        if len(rows) != local(self.tensor).shape[dim]:
            raise LissomError(
                f"a tensor of {list(self.tensor.shape)} is placed as {self.tensor.placements}, of "
                "which it is not known here which rows a process holds"
            )
        return rows


class Crowd:
    """The processes that hold some tensors together, each of them a part.

    Attributes:
        mesh: of them all: the largest that one of the tensors is on.

    Args:
        shards: of the tensors.

    Raises:
        LissomError: where no mesh has all of them.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.mesh = max((shard.mesh for shard in shards), key=lambda mesh: mesh.ndim)
        known = self._groups(self.mesh)
        for shard in shards:
            if not known.issuperset(self._groups(shard.mesh)):
                raise LissomError(
                    f"the tensors lie on several device meshes, {self.mesh} and {shard.mesh}, "
                    "neither of which is a part of the other, so that nothing can be counted over "
                    "all of them: make one mesh, and cut the others out of it"
                )

    @property
    def first(self) -> bool:
        """Whether this process is the first of them, and counts what all of them hold."""
        return not any(self.mesh.get_local_rank(i) for i in range(self.mesh.ndim))

    def counts(self, shard: Shard) -> bool:
        """Whether this process is the first of all that hold this part of a tensor."""
        its = self._groups(shard.mesh)
        others = [i for i in range(self.mesh.ndim) if self._group(self.mesh, i) not in its]
        return shard.first and not any(self.mesh.get_local_rank(i) for i in others)

    def sum(self, numbers: Tensor) -> Tensor:
        """Σ of numbers over all processes."""
        return _summed(numbers, self.mesh, range(self.mesh.ndim))

    def _groups(self, mesh: Any) -> set[str]:
        return {self._group(mesh, i) for i in range(mesh.ndim)}

    @staticmethod
    def _group(mesh: Any, dim: int) -> str:
        name: str = mesh.get_group(dim).group_name
        return name


@dataclass(frozen=True)
class Share:
    """This process's share of numbers that a crowd holds together.

    Attributes:
        crowd: whose they are.
        counts: whether they count here; another process holds the same ones otherwise.
        size: how many numbers there are of this kind, here and elsewhere.
        before: how many come before them, of other kinds.
        places: their places among all of this kind, of places here; None if they are the same.
    """

    crowd: Crowd
    counts: bool
    size: int
    before: int
    places: Callable[[Tensor], Tensor] | None = None

    def of(self, flat: Tensor) -> Tensor:
        """The places among the numbers of all kinds and processes, of places here."""
        return self.before + (flat if self.places is None else self.places(flat))

    def some(self, chosen: Tensor) -> "Share":
        """The share of some of the numbers here, by their places."""
        return self._through(lambda flat: chosen.to(flat.device)[flat])

    def behind(self, start: int) -> "Share":
        """The share of the numbers here from a place on."""
        return self._through(lambda flat: start + flat)

    def _through(self, first: Callable[[Tensor], Tensor]) -> "Share":
        then = self.places
        return replace(self, places=lambda f: first(f) if then is None else then(first(f)))


def shard_of(tensor: Tensor) -> Shard | None:
    """Which part of a tensor this process holds; None where it holds all."""
    return Shard(tensor) if is_sharded(tensor) else None


def summed(terms: Sequence[Tensor], shards: Sequence[Shard | None]) -> Tensor:
    """Σ of a term for each tensor, over the processes that hold other parts of it too.

    Args:
        terms: of equal shape, each of what this process holds.
        shards: of the tensors; None for one that it holds all of.
    """
    over: dict[Any, list[int]] = {}
    for i, shard in enumerate(shards):
        over.setdefault(shard and (shard.mesh, tuple(shard.over)), []).append(i)
    total: Tensor | None = None
    for numbers in over.values():
        first, *others = [terms[i] for i in numbers]
        found = sum((other.to(first.device) for other in others), first)
        if (shard := shards[numbers[0]]) is not None:
            found = shard.sum(found)
        total = found if total is None else total + found.to(total.device)
    assert total is not None
    return total


def require_whole(model: nn.Module, what: str) -> None:
    """Refuse a model whose weights are sharded, for `what` looks at its graph.

    Raises:
        LissomError: with what works.
    """
    cut = next((name for name, p in model.named_parameters() if is_sharded(p)), None)
    if cut is not None:
        raise LissomError(
            f"{cut} of this {type(model).__name__} is sharded over processes, and {what} needs "
            "whole weights. Choose groups before the model is sharded, and take groups.of(model) "
            "afterwards; at the end gather the weights into a model that is not: "
            "whole.load_state_dict(torch.distributed.checkpoint.state_dict.get_model_state_dict("
            "model, options=StateDictOptions(full_state_dict=True)))"
        )


def any_in_all(tensors: Sequence[Tensor]) -> bool:
    """Whether anything in them is not 0, in any process that holds a part of them."""
    some = torch.tensor(any(bool(local(tensor).any()) for tensor in tensors))
    shards = [Shard(tensor) for tensor in tensors if is_sharded(tensor)]
    return bool(Crowd(shards).sum(some.long()) if shards else some)


def _strided(placement: Any) -> bool:
    """Whether a tensor was cut by it after it was by the dims of the mesh that follow."""
    return hasattr(placement, "split_factor")


def _summed(numbers: Tensor, mesh: Any, dims: Iterable[int]) -> Tensor:
    """Σ over the processes along some dims of a mesh; a gradient goes to what is from here."""
    there = numbers.detach().to(mesh.device_type, copy=True)
    for dim in dims:
        torch.distributed.all_reduce(there, group=mesh.get_group(dim))
    total = there.to(numbers.device)
    return total + (numbers - numbers.detach()) if numbers.requires_grad else total
