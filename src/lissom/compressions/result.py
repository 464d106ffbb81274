"""What came out of learning–compression: the form of each tensor, and what it takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from lissom.compressions.forms import Factors, Form
from lissom.compressions.storing import save_compressed
from lissom.tables import table, text


@dataclass(frozen=True, eq=False)
class Compressed:
    """The compressed tensors of a model.

    Attributes:
        forms: by the name of the parameter.
        gap: ‖w − θ‖/‖w‖ when θ was written into the weights: what the last C step changed.
        others: bytes of the parameters that were not compressed.
    """

    forms: Mapping[str, Form]
    gap: float
    others: int

    @cached_property
    def bits(self) -> int:
        """Of all compressed tensors, indices and codebooks included."""
        return sum(form.bits() for form in self.forms.values())

    @property
    def bytes(self) -> int:
        """Of the whole model: the compressed tensors, and all others as they are."""
        return -(-self.bits // 8) + self.others

    @cached_property
    def nonzero(self) -> int:
        """Weights of the compressed tensors that are not 0."""
        return sum(int(form.value().count_nonzero()) for form in self.forms.values())

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of each tensor that has factors."""
        found = {n: form for n, form in self.forms.items() if isinstance(form, Factors)}
        return {name: form.u.shape[1] for name, form in found.items()}

    def to_dict(self) -> dict[str, Any]:
        """The sizes, as JSON has them."""
        forms = {name: form.words() for name, form in self.forms.items()}
        return {
            "bits": self.bits,
            "bytes": self.bytes,
            "nonzero": self.nonzero,
            "ranks": self.ranks,
            "gap": self.gap,
            "forms": forms,
        }

    def keep(self, model: nn.Module, folder: Path) -> dict[str, Any]:
        """Write the model in its compressed form, compressed.safetensors, into a folder.

        Returns:
            What a record says of it.
        """
        save_compressed(model, self.forms, folder / "compressed.safetensors")
        return {"compressed": self.to_dict()}

    def __str__(self) -> str:
        rows: list[list[object]] = []
        dense = 0
        for name, form in self.forms.items():
            tensor = form.value()
            dense += 8 * tensor.nbytes
            shape = "×".join(map(str, tensor.shape))
            rows.append([name, shape, form.words(), form.bits(), 8 * tensor.nbytes])
        total = ["total", "", f"‖w − θ‖/‖w‖ = {self.gap:.2g}", self.bits, dense]
        return text(table(["parameter", "shape", "form", "bits", "dense"], rows, total=total))
