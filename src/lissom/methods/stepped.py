"""Which weights the steps of an optimizer are about: the prox leaves all others alone.

A parameter without a gradient is not stepped, nor is one whose gradients were all 0 so far: a head
that is not in use yet. Of a sparse gradient those rows (of dim 0) are that it has an index of, as
in TensorFlow's sparse ProximalAdagrad. Of a table with a dense one all are, but for rows that never
had a gradient other than 0: embeddings that were not looked up, experts that nothing was routed to.
In an optimizer's metric, where D = ε, all of these would look free to remove.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lissom.groups import Partition
from lissom.rescaling import Chosen

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
        scaled = dict.fromkeys(p for block in blocks for p in block.scaled)
        self.parameters = [p for p in scaled if p in held]
        alone = [b for b in blocks if len(b.members) == 1 and not isinstance(b.module, LAYERS)]
        self.tables = {p for block in alone for p in block.parameters}
        self.due: dict[nn.Parameter, Tensor | None] = {}
        self.waiting: dict[nn.Parameter, Tensor] = {
            p: torch.ones(self._shape(p), dtype=torch.bool) for p in self.parameters if p.numel()
        }

    @torch.no_grad()
    def note(self) -> None:
        """Called after each step, as long as its gradients are there."""
        for parameter in self.parameters:
            if parameter.grad is None:
                continue
            rows = self._stepped(parameter, parameter.grad)
            before = self.due.get(parameter, rows)
            if rows is None or before is None:
                self.due[parameter] = None
            elif rows.any():
                self.due[parameter] = rows | before

    @property
    def begun(self) -> bool:
        """Whether there was a step, or a state of a training with some."""
        found = [self.waiting.get(p) for p in self.parameters if p.numel()]
        return any(waiting is None or not waiting.all() for waiting in found)

    def since(self) -> Rows:
        """The rows that were stepped since the last prox."""
        return {p: self.due[p] if p in self.due else no_row(p) for p in self.parameters}

    def so_far(self) -> Rows:
        """The rows that any step was about."""
        return {p: ~self.waiting[p] if p in self.waiting else None for p in self.parameters}

    def _stepped(self, parameter: nn.Parameter, grad: Tensor) -> Tensor | None:
        """The rows that this step was about, which wait no longer."""
        waiting = self.waiting.get(parameter)
        if grad.layout is torch.sparse_coo:
            rows = torch.zeros(len(parameter), dtype=torch.bool, device=grad.device)
            rows[grad._indices()[0]] = True
            if waiting is not None:
                table = parameter in self.tables
                self._wait(parameter, waiting.to(rows) & ~(rows if table else rows.any()))
            return rows
        if waiting is None:
            return None
        moved, alive = (x.reshape([*waiting.shape, -1]).any(-1) for x in (grad, parameter))
        self._wait(parameter, waiting.to(grad.device) & ~moved & alive)
        return ~self.waiting[parameter] if parameter in self.waiting else None

    def _shape(self, parameter: nn.Parameter) -> tuple[int, ...]:
        """Of its rows: [n], or [1, …, n] of what is stretched over a batch; one, if no table."""
        if parameter not in self.tables:
            return (1,)
        first = next((d for d, size in enumerate(parameter.shape[:-1]) if size > 1), 0)
        return tuple(parameter.shape[: first + 1])

    def _wait(self, parameter: nn.Parameter, waiting: Tensor) -> None:
        if waiting.any():
            self.waiting[parameter] = waiting
        else:
            del self.waiting[parameter]  # from now on it costs nothing

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: for each parameter True or False for all rows, or a tensor."""
        due = [
            p in self.due and (True if self.due[p] is None else self.due[p])
            for p in self.parameters
        ]
        return {"due": due, "waiting": [self.waiting.get(p, False) for p in self.parameters]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        due = zip(self.parameters, state["due"], strict=True)
        waiting = zip(self.parameters, state["waiting"], strict=True)
        self.due = {p: None if r is True else self._fitting(p, r) for p, r in due if r is not False}
        self.waiting = {p: self._fitting(p, r) for p, r in waiting if r is not False}

    def _fitting(self, parameter: nn.Parameter, rows: Tensor) -> Tensor:
        if rows.shape not in (self._shape(parameter), parameter.shape[:1]):
            raise ValueError(f"{list(rows.shape)} rows for a tensor of {list(parameter.shape)}")
        return rows.to(parameter.device)


def chosen(blocks: Iterable[Partition], rows: Rows) -> dict[Partition, Chosen]:
    """The groups that lie in the given rows, with all that would be scaled or zeroed with them.

    A group of which any entry lies elsewhere is left alone as a whole.
    """
    found: dict[Partition, Chosen] = {}
    for block in blocks:
        groups = block.within(rows)
        if groups is None or groups.all():
            found[block] = None
        elif groups.any():
            found[block] = groups
    return found


def no_row(parameter: nn.Parameter) -> Tensor:
    """False, for all rows of a parameter."""
    return torch.zeros(1, dtype=torch.bool, device=parameter.device)
