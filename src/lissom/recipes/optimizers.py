"""[optimizer]: any optimizer of torch.optim, or a class of one's own; its arguments are keys."""

from collections.abc import Iterable
from typing import Any, Self

import torch
from pydantic import model_validator
from torch import Tensor
from torch.optim import Optimizer

from lissom.errors import RecipeError, nearest
from lissom.importing import imported, parameters_in, subclasses_in
from lissom.recipes.strict import OpenSpec, Positive, complaint, refusals

UNFIT = {
    "LBFGS": "calls the network several times in a step, which a Trainer does not",
    "SparseAdam": "takes sparse gradients alone, which a Trainer does not make",
}
NAMED = subclasses_in(torch.optim, Optimizer)


class OptimizerSpec(OpenSpec):
    """[optimizer]: `name`, `lr` and further arguments; beta1 and beta2 are its `betas`."""

    name: str
    lr: Positive

    @property
    def type(self) -> type[Optimizer]:
        """The class of that name.

        Raises:
            RecipeError: if there is none that can be used.
        """
        if self.name in UNFIT:
            raise RecipeError(f"{self.name} {UNFIT[self.name]}", field="name")
        if self.name in NAMED:
            return NAMED[self.name]
        if ":" not in self.name:
            raise RecipeError(
                f"torch.optim has no optimizer, got {self.name!r}."
                f"{nearest(self.name, NAMED.keys() - UNFIT.keys())} One of your own is named by "
                "its import path, such as 'my.optimizers:Lion'",
                field="name",
            )
        return imported(
            self.name, Optimizer, what="optimizer", called="torch.optim.Optimizer",
            error=RecipeError, field="name",
        )  # fmt: skip

    def make(self, parameters: Iterable[Tensor] | Iterable[dict[str, Any]]) -> Optimizer:
        """The optimizer of these parameters or param groups."""
        given = self.arguments
        if "beta1" in given or "beta2" in given:
            given["betas"] = (given.pop("beta1", 0.9), given.pop("beta2", 0.999))
        arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        kind: Any = self.type  # the base class does not say lr
        made: Optimizer = kind(parameters, lr=self.lr, **arguments)
        return made

    @model_validator(mode="after")
    def _taken(self) -> Self:
        with refusals():
            kind = self.type
        who = f"torch.optim.{self.name}" if self.name in NAMED else self.name
        parameters, open_ended = parameters_in(kind)
        takes = [name for name in parameters if name not in ("self", "params", "lr")]
        if "betas" in takes:
            takes += ["beta1", "beta2"]
        for key in self.arguments:
            if key not in takes and not open_ended:
                raise complaint(f"not an argument of {who}.{nearest(key, takes)}", key)
        try:
            self.make([torch.zeros(1, 1)])
        except Exception as error:  # of the user's own, anything
            raise complaint(f"{who} refuses this: {error}") from error
        return self
