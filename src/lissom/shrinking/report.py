"""What shrinking did: what was removed, what was folded, what stayed and why."""

from dataclasses import dataclass, field
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from torch.optim import Optimizer

from lissom.coupling import Pin
from lissom.errors import OptimizerError
from lissom.running import ExampleInputs
from lissom.shrinking.surgery import Keep, Surgery, sliced
from lissom.tables import table, text


@dataclass(frozen=True)
class Kept:
    """Units of one family that carry nothing but zeros, and yet stay."""

    family: str
    units: int
    reason: str


@dataclass(frozen=True)
class Shrinkage:
    """The report that `shrink` leaves on its result, as `small.shrinkage`.

    Attributes:
        families: (name, kind, units before, units after) for each family of units.
        weights: all weights of the model before and after, biases and zeros included.
        folded: constant units that were removed by adding their constant to the bias of the layers
            that read them.
        shared: constant units that were removed because another constant unit stands for them,
            where no bias could take them.
        kept: units that are zero and stayed.
        pinned_by: operators whose inputs stay, and how often they kept something.
        reasons: why they do, for each of them.
        pins: widths of weights that are no units, each with the operation that keeps it.
        difference: the largest difference of outputs relative to the largest output, on the
            example inputs and on fresh random inputs.
        tolerance: what was tolerated.
        as_graph: whether the result is the traced graph instead of the model's own class.
        attributes: of the modules' own code that were changed: {"path.name": (before, after)}.
        surgery: all changes as data; `lissom.save` writes it.
        example_inputs: the inputs it was traced with; None for a network that was read.
    """

    families: tuple[tuple[str, str, int, int], ...]
    weights: tuple[int, int]
    folded: int
    shared: int
    kept: tuple[Kept, ...]
    pinned_by: dict[str, int]
    reasons: dict[str, str]
    pins: tuple[Pin, ...]
    difference: float
    tolerance: float
    as_graph: bool
    attributes: dict[str, tuple[int, int]]
    surgery: Surgery = field(repr=False)
    example_inputs: ExampleInputs | None = field(repr=False)

    @property
    def keep(self) -> Keep:
        """For each tensor that was cut, by dim: the indices that stayed."""
        return self.surgery.keep

    @property
    def removed(self) -> int:
        """How many units were removed."""
        return sum(before - after for _, _, before, after in self.families)

    def slice(self, name: str, tensor: Tensor) -> Tensor:
        """What is left of a tensor that belongs to the parameter `name`: a moment, an average."""
        return sliced(tensor, self.keep.get(name, {}))

    def slice_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of the large model (an average of its weights) cut to the small one."""
        return {name: self.slice(name, tensor) for name, tensor in state.items()}

    @torch.no_grad()
    def slice_optimizer(self, optimizer: Optimizer, named: dict[str, Tensor]) -> None:
        """Cut the moments of an optimizer that holds the parameters of `shrink(…, in_place=True)`.

        Biases that folding made are in no optimizer yet: `optimizer.add_param_group`. A proximal
        step of lissom has to be taken off and made anew, since its units are others now.

        Args:
            optimizer: its parameters are cut already, its state is not.
            named: the parameters by name: `dict(model.named_parameters())`.

        Raises:
            OptimizerError: for a state that is not shaped like its parameter (LBFGS, Adafactor).
        """
        own = {id(p): name for name, p in named.items()}
        within = {key: name.removeprefix("net.") for key, name in own.items()}  # of a `Selected`
        names = max(own, within, key=lambda names: len(self.keep.keys() & {*names.values()}))
        for parameter, state in optimizer.state.items():
            dims = self.keep.get(names.get(id(parameter), ""), {})
            for key, value in state.items():
                if not dims or not isinstance(value, Tensor) or value.numel() == 1:
                    continue
                fits = value.ndim == parameter.ndim and all(
                    size > int(dims[d].max()) if d in dims else size == parameter.shape[d]
                    for d, size in enumerate(value.shape)
                )
                if not fits:
                    raise OptimizerError(
                        f"the state {key!r} of {type(optimizer).__name__} has the shape "
                        f"{list(value.shape)}, which is not that of its parameter, so it cannot be "
                        "cut: make a new optimizer for the small network"
                    )
                state[key] = sliced(value, dims)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "families": [
                {"name": name, "kind": kind, "before": before, "after": after}
                for name, kind, before, after in self.families
            ],
            "weights_before": self.weights[0],
            "weights_after": self.weights[1],
            "removed": self.removed,
            "folded": self.folded,
            "shared": self.shared,
            "kept": [vars(kept) for kept in self.kept],
            "pinned_by": self.pinned_by,
            "reasons": self.reasons,
            "pins": [vars(pin) for pin in self.pins],
            "difference": self.difference,
            "tolerance": self.tolerance,
            "as_graph": self.as_graph,
            "attributes": {name: list(sizes) for name, sizes in self.attributes.items()},
        }

    def table(self) -> Table:
        """A rich table: the families and what is left of them."""
        rows = [[name, kind, before, after] for name, kind, before, after in self.families]
        total = ["total", "", sum(r[2] for r in rows), sum(r[3] for r in rows)]  # type: ignore[misc]
        return table(["family", "kind", "units", "left"], rows, total=total)

    def __str__(self) -> str:
        before, after = self.weights
        lines = [
            text(self.table()),
            f"{before:,} weights → {after:,}, largest difference of outputs {self.difference:.1e}",
        ]
        if self.folded:
            lines.append(f"{self.folded:,} constant units folded into biases")
        if self.shared:
            lines.append(f"{self.shared:,} constant units merged into another one")
        if self.attributes:
            said = (f"{name} {old} → {new}" for name, (old, new) in self.attributes.items())
            lines.append(f"attributes changed: {', '.join(said)}")
        lines += [f"kept {k.units:,} of {k.family}: {k.reason}" for k in self.kept]
        if self.pinned_by:
            names = (f"{name} ×{n} ({self.reasons[name]})" for name, n in self.pinned_by.items())
            lines.append(f"operators whose inputs stay: {', '.join(names)}")
        for pin in self.pins:
            if not pin.of_output:  # as every last layer is
                lines.append(f"{', '.join(pin.tensors)} stays as wide as it is: {pin}")
        if self.as_graph:
            lines.append("the result is the traced graph: the model's own code has fixed sizes")
        return "\n".join(lines)
