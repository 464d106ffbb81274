"""What a compression makes of a tensor: Θ, from which the tensor follows, and its size in bits."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import Any

import torch
from torch import Tensor

from lissom.sparse_sizes import storage

State = dict[str, Any]


class Form(ABC):
    """One tensor in a compressed form.

    `value` is the tensor Δ(Θ) that the network computes with, `bits` what Θ takes on disk.
    """

    @abstractmethod
    def value(self) -> Tensor:
        """Δ(Θ), in the shape of the tensor that was compressed."""

    @abstractmethod
    def bits(self) -> int:
        """Of all its numbers and indices, without names and shapes."""

    @abstractmethod
    def words(self) -> str:
        """What it consists of, for a printed table."""

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Form":
        """The form of a part of the tensor, or of the whole that it is a part of.

        Args:
            change: makes of a tensor that is shaped like this one what is meant.
        """
        return Dense(change(self.value()))

    def state(self) -> State:
        """Θ as tensors and plain values under the name of its kind, from which `form_of` makes it.

        A form that lissom does not know is kept as the dense tensor it stands for.
        """
        return {"kind": "Dense", "tensor": self.value()}


@dataclass(frozen=True, eq=False)
class Dense(Form):
    """The tensor itself: all its numbers, or its non-zeros and their places if that is smaller."""

    tensor: Tensor

    def value(self) -> Tensor:
        return self.tensor

    def bits(self) -> int:
        return 8 * storage("", self.tensor, self.tensor == 0).sparse

    def changed(self, change: Callable[[Tensor], Tensor]) -> Form:
        return Dense(change(self.tensor))

    def words(self) -> str:
        return f"{int(self.tensor.count_nonzero()):,} of {self.tensor.numel():,} non-zero"


@dataclass(frozen=True, eq=False)
class Quantized(Form):
    """Each weight is one of k values: a codebook [k] and an index for each weight.

    Attributes:
        codebook: the k values.
        indices: of any integer dtype, shaped like the tensor.
    """

    codebook: Tensor
    indices: Tensor

    def value(self) -> Tensor:
        return self.codebook[self.indices.long()]

    def bits(self) -> int:
        each = index_bits(len(self.codebook))
        return each * self.indices.numel() + 8 * self.codebook.itemsize * len(self.codebook)

    def changed(self, change: Callable[[Tensor], Tensor]) -> Form:
        return Quantized(self.codebook, change(self.indices))

    def words(self) -> str:
        values = [f"{v:.3g}" for v in self.codebook.tolist()[:4]]
        rest = f", … ({len(self.codebook)})" if len(self.codebook) > len(values) else ""
        return f"each of {', '.join(values)}{rest}"

    def state(self) -> State:
        return {"kind": "Quantized", "codebook": self.codebook, "indices": self.indices}


@dataclass(frozen=True, eq=False)
class Factors(Form):
    """A matrix of low rank: U·V with U [m, r] and V [r, n], of a tensor [m, …] of n = ∏(…)."""

    u: Tensor
    v: Tensor
    shape: Sequence[int]

    def value(self) -> Tensor:
        return (self.u @ self.v).view(*self.shape)

    def bits(self) -> int:
        return 8 * self.u.itemsize * (self.u.numel() + self.v.numel())

    def words(self) -> str:
        m, n = self.u.shape[0], self.v.shape[1]
        return f"rank {self.u.shape[1]} of {min(m, n)}"

    def state(self) -> State:
        return {"kind": "Factors", "u": self.u, "v": self.v, "shape": tuple(self.shape)}


@dataclass(frozen=True, eq=False)
class Sum(Form):
    """The sum of several forms: a coarse one and its exact corrections, say."""

    parts: Sequence[Form]

    def value(self) -> Tensor:
        first, *others = [part.value() for part in self.parts]
        return sum(others, first)

    def bits(self) -> int:
        return sum(part.bits() for part in self.parts)

    def changed(self, change: Callable[[Tensor], Tensor]) -> Form:
        return Sum([part.changed(change) for part in self.parts])

    def words(self) -> str:
        return " + ".join(part.words() for part in self.parts)

    def state(self) -> State:
        return {"kind": "Sum", "parts": [part.state() for part in self.parts]}


def form_of(state: State, device: torch.device) -> Form:
    """The form that `state` was taken of, on a device."""
    kinds = {kind.__name__: kind for kind in (Dense, Quantized, Factors, Sum)}
    values = {name: _moved(value, device) for name, value in state.items() if name != "kind"}
    made: Form = kinds[state["kind"]](**values)
    return made


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return [form_of(part, device) for part in value] if isinstance(value, list) else value


def index_bits(k: int) -> int:
    """Bits that tell k values apart; a single value needs none."""
    return ceil(log2(k)) if k > 1 else 0
