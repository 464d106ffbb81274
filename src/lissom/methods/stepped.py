"""Which weights the steps of an optimizer are about: the prox leaves all others alone.

A parameter without a gradient is not stepped. Of one with a sparse gradient those rows (of dim 0)
are that have an index in it, as in TensorFlow's sparse ProximalAdagrad. Of one with a dense
gradient all are, but for those that never had a gradient other than 0: embeddings that were never
looked up, experts that nothing was routed to. In an optimizer's metric they look free to remove.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lissom.groups import Partition
from lissom.rescaling import Chosen

Rows = Tensor | None  # a Boolean for each row of a parameter; None for all of them


class Stepped:
    """The rows of parameters that were stepped, since the last prox and since the beginning.

    Attributes:
        parameters: whose rows they are.
        due: the rows that were stepped since the last prox, of each parameter that was.
        waiting: the rows that no step was about yet, of each parameter that has any. Rows of zeros
            have nothing to lose, and do not wait.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(dict.fromkeys(parameters))
        self.due: dict[nn.Parameter, Rows] = {}
        self.waiting: dict[nn.Parameter, Tensor] = {
            p: torch.ones(len(_rows(p)), dtype=torch.bool) for p in self.parameters if p.numel()
        }

    @torch.no_grad()
    def note(self) -> None:
        """Called after each step, as long as its gradients are there."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                rows = self._stepped(parameter, parameter.grad)
                before = self.due.get(parameter, rows)
                self.due[parameter] = None if rows is None or before is None else rows | before

    def so_far(self) -> dict[nn.Parameter, Rows]:
        """The rows that any step was about."""
        rows = {p: ~self.waiting[p] if p in self.waiting else None for p in self.parameters}
        return {p: stepped for p, stepped in rows.items() if stepped is None or stepped.any()}

    def _stepped(self, parameter: nn.Parameter, grad: Tensor) -> Rows:
        """The rows that this step was about, which wait no longer."""
        waiting = self.waiting.get(parameter)
        if grad.layout is torch.sparse_coo:
            rows = torch.zeros(len(parameter), dtype=torch.bool, device=grad.device)
            rows[grad._indices()[0]] = True
            if waiting is not None:
                self._wait(parameter, waiting.to(grad.device) & ~rows)
            return rows
        if waiting is None:
            return None
        waiting = waiting.to(grad.device, copy=True)
        at = waiting.nonzero().flatten()
        waiting[at] = ~_rows(grad)[at].any(1) & _rows(parameter)[at].any(1)
        self._wait(parameter, waiting)
        return ~waiting if parameter in self.waiting else None

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
        found_due = {
            p: None if rows is True else _fitting(p, rows) for p, rows in due if rows is not False
        }
        self.waiting = {p: _fitting(p, rows) for p, rows in waiting if rows is not False}
        self.due = found_due


def chosen(
    blocks: Iterable[Partition], rows: Mapping[nn.Parameter, Rows]
) -> dict[Partition, Chosen]:
    """The groups that lie in the given rows, with all that counts in their norms.

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


def _rows(tensor: Tensor) -> Tensor:
    """[rows, …]: what has one dim has rows of one number."""
    return tensor.detach().reshape(len(tensor) if tensor.ndim else 1, -1)


def _fitting(parameter: nn.Parameter, rows: Tensor) -> Tensor:
    if rows.shape != (len(_rows(parameter)),):
        raise ValueError(f"{list(rows.shape)} rows for a tensor of {list(parameter.shape)}")
    return rows.to(parameter.device)
