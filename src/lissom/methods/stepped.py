"""Which weights the steps of an optimizer are about: the prox leaves all others alone.

A parameter without a gradient is not stepped, nor is one whose gradients were all 0 so far: a head
that is not in use yet. Of a sparse gradient those rows (of dim 0) are that it has an index of, as
in TensorFlow's sparse ProximalAdagrad. Of a table with a dense one all are, but for rows that never
had a gradient other than 0: embeddings that were not looked up, experts that nothing was routed to.
In an optimizer's metric, where D = ε, all of these would look free to remove.
"""

from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lissom.groups import Partition
from lissom.rescaling import Chosen
from lissom.shards import Crowd, local

Rows = dict[Tensor, Tensor | None]  # a Boolean along the leading dims; None for all of them

# Of these each row makes an output at every call, and that a unit is dead is no reason to keep it.
LAYERS = (
    *(nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.MultiheadAttention),
    *(nn.RNNBase, nn.RNNCellBase, nn.PReLU),
    *(nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
)


class Stepped:
    """The rows of parameters that were stepped, since the last prox and since the beginning.

    Attributes:
        parameters: what the optimizer holds of all that the prox may change.
        tables: those of them whose rows are told apart.
        due: the rows that were stepped since the last prox, of each parameter that was.
        waiting: the rows that no step was about yet, of each parameter that has any; of what is no
            table all are one. Zeros have nothing to lose, and do not wait.
    """

    def __init__(self, blocks: Sequence[Partition], held: Container[Tensor]) -> None:
        self._blocks = list(blocks)
        scaled = dict.fromkeys(p for block in blocks for p in block.scaled)
        self.parameters = [p for p in scaled if p in held]
        shards = {m.tensor: m.shard for b in blocks for m in b.members if m.shard is not None}
        self.shards = {p: shards[p] for p in self.parameters if p in shards}
        self._crowd = Crowd(list(self.shards.values())) if self.shards else None
        alone = [b for b in blocks if len(b.members) == 1 and not isinstance(b.module, LAYERS)]
        self.tables = {p for b in alone for p in b.parameters if self._has_rows(p)}
        self.due: dict[nn.Parameter, Tensor | None] = {}
        self.waiting: dict[nn.Parameter, Tensor] = {
            p: torch.ones(self._shape(p), dtype=torch.bool) for p in self.parameters if p.numel()
        }

    @torch.no_grad()
    def note(self) -> None:
        """Called after each step, as long as its gradients are there."""
        left = self._left()
        for parameter in self.parameters:
            if parameter.grad is None:
                continue
            rows = self._stepped(parameter, local(parameter.grad), left)
            before = self.due.get(parameter, rows)
            if rows is None or before is None:
                self.due[parameter] = None
            elif rows.any() or parameter in self.shards:
                self.due[parameter] = rows | before

    @property
    def begun(self) -> bool:
        """Whether there was a step, or a state of a training with some."""
        found = [self.waiting.get(p) for p in self.parameters if p.numel()]
        return any(waiting is None or not waiting.all() for waiting in found)

    def since(self) -> Rows:
        """The rows that were stepped since the last prox."""
        return {p: self.due[p] if p in self.due else self.none_of(p) for p in self.parameters}

    def so_far(self) -> Rows:
        """The rows that any step was about."""
        return {p: ~self.waiting[p] if p in self.waiting else None for p in self.parameters}

    def none_of(self, parameter: nn.Parameter) -> Tensor:
        """False, for all rows of a parameter."""
        values = local(parameter)
        return torch.zeros(self._shape(parameter), dtype=torch.bool, device=values.device)

    def chosen(self, rows: Rows) -> dict[Partition, Chosen]:
        """The groups that lie in the given rows, with all that would be scaled or zeroed with them.

        A group of which any entry lies elsewhere is left alone as a whole. A table that processes
        share is there in all of them, also where one has none of the rows: they count together.
        """
        found: dict[Partition, Chosen] = {}
        for block in self._blocks:
            groups = block.within(rows)
            if groups is None or groups.all():
                found[block] = None
            elif groups.any() or (block.shard and self.tables.issuperset(block.parameters)):
                found[block] = groups
        return found

    def _left(self) -> dict[nn.Parameter, Tensor | None]:
        """The rows that go on waiting after this step, of what has a dense gradient; None for none.

        Where processes share a parameter it waits in all of them, or in none.
        """
        seen = {  # has a gradient that is not 0, is not 0 itself
            p: torch.stack([_any(local(x), rows) for x in (p.grad, p)])
            for p, rows in self.waiting.items()
            if p.grad is not None and not p.grad.is_sparse
        }
        seen |= self._in_any({p: flags for p, flags in seen.items() if p not in self.tables})
        left = {p: self.waiting[p].to(m.device) & ~m & alive for p, (m, alive) in seen.items()}
        some = {p: rows.any() for p, rows in left.items()}
        some |= self._in_any({p: flag for p, flag in some.items() if p in self.tables})
        return {p: rows if some[p] else None for p, rows in left.items()}

    def _in_any(self, flags: dict[nn.Parameter, Tensor]) -> dict[nn.Parameter, Tensor]:
        """The same flags, each True where it is in any process that shares the parameter."""
        shared = [(p, flag) for p, flag in flags.items() if p in self.shards]
        if self._crowd is None or not shared:
            return flags
        told = self._crowd.sum(torch.cat([flag.flatten() for _, flag in shared]).long()) > 0
        parts = told.split([flag.numel() for _, flag in shared])
        views = {p: part.view(flag.shape) for (p, flag), part in zip(shared, parts, strict=True)}
        return flags | views

    def _stepped(
        self, parameter: nn.Parameter, grad: Tensor, left: Mapping[nn.Parameter, Tensor | None]
    ) -> Tensor | None:
        """The rows that this step was about, which wait no longer."""
        waiting = self.waiting.get(parameter)
        if grad.layout is torch.sparse_coo:
            rows = torch.zeros(len(parameter), dtype=torch.bool, device=grad.device)
            rows[grad._indices()[0]] = True
            if waiting is not None:
                table = parameter in self.tables
                left_out = waiting.to(rows) & ~(rows if table else rows.any())
                self._wait(parameter, left_out if left_out.any() else None)
            return rows
        if waiting is None:
            return None
        still = left[parameter]
        self._wait(parameter, still)
        return None if still is None else ~still

    def _shape(self, parameter: nn.Parameter) -> tuple[int, ...]:
        """Of its rows: [n], or [1, …, n] of what is stretched over a batch; one, if no table."""
        if parameter not in self.tables:
            return (1,)
        first = next((d for d, size in enumerate(parameter.shape[:-1]) if size > 1), 0)
        return tuple(local(parameter).shape[: first + 1])

    def _has_rows(self, parameter: nn.Parameter) -> bool:
        """Whether each process that shares it has whole rows of it."""
        return parameter not in self.shards or self.shards[parameter].dims <= {0}

    def _wait(self, parameter: nn.Parameter, still: Tensor | None) -> None:
        if still is not None:
            self.waiting[parameter] = still
        else:
            del self.waiting[parameter]  # from now on it costs nothing

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs, in tensors of shapes that do not change with the steps."""
        due = {p: rows for p, rows in self.since().items() if rows is not None}
        left = self.waiting
        return {
            "due": [self._kept(p, due.get(p, ~self.none_of(p))) for p in self.parameters],
            "waiting": [self._kept(p, left.get(p, self.none_of(p))) for p in self.parameters],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        due = self._loaded(state["due"])
        waiting = self._loaded(state["waiting"])
        none_left, some_left, some_due = (
            self._in_any({p: of(rows) for p, rows in found.items()})
            for found, of in ((due, lambda r: (~r).any()), (waiting, torch.any), (due, torch.any))
        )
        self.due = {p: None if not none_left[p] else r for p, r in due.items() if some_due[p]}
        self.waiting = {p: rows for p, rows in waiting.items() if some_left[p]}

    def _loaded(self, rows: Sequence[Tensor | bool]) -> dict[nn.Parameter, Tensor]:
        """Rows of all parameters, which an earlier version had as True or False for all."""
        found = {}
        for parameter, given in zip(self.parameters, rows, strict=True):
            none = self.none_of(parameter)
            given = (none if given is False else ~none) if isinstance(given, bool) else local(given)
            if given.shape not in (none.shape, local(parameter).shape[:1]):
                shapes = f"{list(given.shape)} rows for a tensor of {list(parameter.shape)}"
                raise ValueError(shapes)
            found[parameter] = given.to(none.device, copy=True)
        return found

    def _kept(self, parameter: nn.Parameter, rows: Tensor) -> Tensor:
        """As a checkpoint has it: rows that processes share are a DTensor."""
        rows = rows.expand(self._shape(parameter))
        shard = self.shards.get(parameter) if parameter in self.tables else None
        return rows if shard is None else shard.whole(rows, (0,))


def _any(x: Tensor, rows: Tensor) -> Tensor:
    """Whether anything in each of its rows is not 0; `rows` has one number for each."""
    each = x.numel() // max(1, rows.numel())
    return x.reshape([*rows.shape, each]).any(-1)
