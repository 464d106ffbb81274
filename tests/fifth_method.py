"""A method of a user's own, in a file of its own: iterative magnitude pruning with rewinding.

Public names only. A recipe names it as "fifth_method:Rewinding".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lissom import TopK
from lissom.methods import Method, Options, Steps


@dataclass(frozen=True, kw_only=True)
class RewindingOptions(Options):
    """`rounds` times, after `every` steps each, weights are pruned and the others rewound."""

    every: Steps
    rounds: int = 3


class Rewinding(Method):
    """Train, prune the smallest weights, set the others back to where they were at `start`; repeat.

    After round n of R a fraction κ^(n/R) of the weights is left.

    Source: Frankle et al. 2020, *Linear mode connectivity and the lottery ticket hypothesis*.
    """

    name = "rewinding"
    takes = "TopK with a fraction"
    options_type = RewindingOptions

    @classmethod
    def accepts(cls, penalty: Any) -> bool:
        return isinstance(penalty, TopK) and penalty.fraction is not None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.round = 0
        self.early: list[Tensor] | None = None  # weights at `start`
        self.masks = [torch.ones_like(block.norms()) for block in self.blocks()]

    @torch.no_grad()
    def after_step(self) -> None:
        if self.early is None:
            self.early = [tensor.clone() for tensor in self.tensors()]
        since, options = self.step - self.options.start, self.options
        if since % options.every == 0 and self.round < options.rounds:
            self.round += 1
            self.prune()
            for tensor, early in zip(self.tensors(), self.early, strict=True):
                tensor.copy_(early)
        for block, mask in zip(self.blocks(), self.masks, strict=True):
            block.scale_(mask)

    def prune(self) -> None:
        """The masks of the weights that are left after this round."""
        self.masks = []
        for groups, penalty in self.penalties.items():
            left = penalty.at(self.now).fraction  # it may follow a schedule
            kept = left ** (self.round / self.options.rounds)
            norms = groups.norms()
            sizes = [n.numel() for n in norms]
            flat = TopK(fraction=kept).prox(torch.cat([n.flatten() for n in norms]))
            masks = (flat != 0).to(flat.dtype).split(sizes)
            self.masks += [mask.view_as(n) for mask, n in zip(masks, norms, strict=True)]

    def own_state(self) -> dict[str, Any]:
        return {"round": self.round, "early": self.early, "masks": self.masks}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        self.round, self.early, self.masks = state["round"], state["early"], state["masks"]
