"""One point of a path: what it begins with, and what came out of it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lissom.turns import time_text

AXES = {
    "nonzeros": "weights and biases of the shrunk network that are not zero",
    "weights": "all weights and biases of the shrunk network",
    "macs": "multiply–accumulates of the shrunk network for one example of the batch",
    "bytes": "the shrunk network, each tensor in its smallest format, indices included",
    "bits": "8 · bytes",
    "coded": "bytes of the shrunk network that an arithmetic coder comes near, codebooks included",
    "latency": "seconds of a forward pass of the shrunk network on the example",
}
UNLISTED = ("bits", "coded")  # other ways to count bytes, for which tables have no room


def size_text(size: float, axis: str) -> str:
    """A count, or a time: 8,192, 43.1 µs."""
    return time_text(size) if axis == "latency" else f"{size:,.0f}"


FRACTION = "fraction"  # the unit of an error that is shown in percent
TRAINED, CUT, FINE_TUNED = "trained", "cut", "fine-tuned"  # how a point was made


@dataclass(frozen=True)
class ErrorScale:
    """What errors are, and how they are written: "2.3 %", "0.42 °C".

    Attributes:
        name: "error", "RMSE", ….
        unit: "fraction", which is shown in percent, a text such as "°C", or "" for none.
    """

    name: str = "error"
    unit: str = FRACTION

    @property
    def heading(self) -> str:
        """Of a column of `number`s."""
        unit = "%" if self.unit == FRACTION else self.unit
        return f"{self.name} ({unit})" if unit else self.name

    def number(self, error: float, std: float = math.nan) -> str:
        """Without the unit; with the standard deviation, if there is one."""
        times = 100 if self.unit == FRACTION else 1
        many = "" if math.isnan(std) else f" ± {times * std:.2g}"
        return f"{times * error:.4g}{many}"

    def text(self, error: float, std: float = math.nan) -> str:
        """With the unit."""
        unit = "%" if self.unit == FRACTION else self.unit
        return f"{self.number(error, std)} {unit}".rstrip()


@dataclass(frozen=True)
class Start:
    """What a point begins with, besides the network.

    Attributes:
        seed: from 0.
        number: of the point, in the order in which a seed's points are made; 0 wherever the network
            is untrained: at the dense point, at one from scratch, and as long as nothing worked.
        state: what `fit` returned at the point whose weights the network has; None for nothing. Its
            tensors are on the CPU.
        folder: for files of this point's `fit` alone; they are still there when it is called again
            after a kill. None if the path has no `out`.
    """

    seed: int
    number: int
    state: dict[str, Any] | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class Point:
    """One network of a curve, or why there is none.

    Attributes:
        strength: None for the dense network.
        seed: from 0.
        number: in the order in which the points of a seed were made; 0 for one from scratch.
        folder: what was saved of it.
        from_scratch: whether it was trained from an untrained network, as a check.
        origin: the folder's name of the point with whose weights it began; None for none.
        error: on what it may be chosen by; NaN if it failed.
        test_error: only reported; None if no test was given.
        sizes: by the name of the axis: nonzeros, weights, macs, bytes, bits, coded, latency.
        empty: whether its answer does not depend on its input any more.
        made: "trained", or with `cuts` from the dense network: "cut", where every weight is that
            of the dense network or 0, or "fine-tuned" after it.
        seconds: it took, for training and all else.
        failed: why there is no network.
    """

    strength: float | None
    seed: int
    number: int
    folder: Path
    from_scratch: bool = False
    origin: str | None = None
    error: float = math.nan
    test_error: float | None = None
    sizes: Mapping[str, float] | None = None
    empty: bool = False
    made: str = TRAINED
    seconds: float = 0.0
    failed: str | None = None

    def size(self, axis: str = "nonzeros") -> float:
        """One of the sizes; NaN if the point failed."""
        return math.nan if self.sizes is None else self.sizes[axis]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: the folder by its name, and null for NaN."""
        return {
            **asdict(self),
            "folder": self.folder.name,
            "error": self.error if math.isfinite(self.error) else None,
        }

    def __str__(self) -> str:
        how = "from scratch, " if self.from_scratch else ""
        return f"{how}{strength_text(self.strength)}, seed {self.seed}"


def label_of(strength_name: str) -> str:
    """The head of a column: "strength", or with what the strength is, "strength (λ)"."""
    return "strength" if strength_name == "strength" else f"strength ({strength_name})"


def number_or_dense(strength: float | None) -> str:
    """A strength in a column: "0.01", or "dense"."""
    return "dense" if strength is None else f"{strength:.4g}"


def strength_text(strength: float | None, label: str = "strength") -> str:
    """A strength in a sentence: "strength 0.01", "strength (λ) 0.01", or "dense"."""
    return "dense" if strength is None else f"{label} {strength:.4g}"
