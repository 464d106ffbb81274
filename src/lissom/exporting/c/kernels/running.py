"""A way to run a layer in C: its functions, its constants, its call, and what they cost."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from lissom.exporting.c.layers import Layer, unit_of

SIZES = {"int8_t": 1, "uint8_t": 1, "int16_t": 2, "uint16_t": 2}
SIZES |= {"int32_t": 4, "uint32_t": 4, "float": 4}
"""Bytes of the types of constants."""


@dataclass(frozen=True)
class Function:
    """A function of C.

    Attributes:
        name: it is written once in a file, by its name.
        text: its definition, with a comment before it.
        bytes: of its code on a Cortex-M4, compiled with -Os.
        needs: the functions that it calls.
        inlined: whether its code stands at each call.
    """

    name: str
    text: str
    bytes: int
    needs: tuple["Function", ...] = ()
    inlined: bool = False

    @property
    def all(self) -> list["Function"]:
        """It and all that it calls, each after those that it calls."""
        return [*(f for needed in self.needs for f in needed.all), self]


@dataclass(frozen=True, eq=False)
class Constant:
    """An array of constants: its type in C and its entries."""

    type: str
    entries: Tensor

    @property
    def bytes(self) -> int:
        """Of flash."""
        return SIZES[self.type] * self.entries.numel()

    @property
    def wide(self) -> str:
        """What names of functions end in that read entries of more than a byte: their bits."""
        return {"uint16_t": "16", "uint32_t": "32"}.get(self.type, "")


def in_few_bytes(entries: Tensor) -> Constant:
    """Numbers ≥ 0, such as positions, in as few bytes as they need."""
    most = int(entries.max())
    return Constant(
        "uint8_t" if most < 2**8 else "uint16_t" if most < 2**16 else "uint32_t", entries
    )


def in_16_bits(entries: Tensor) -> tuple[Constant, int]:
    """Numbers as int16_t times a power of two, if that is exact; else as int32_t times 1."""
    unit = unit_of(entries)
    if bool((entries % unit == 0).all()):
        return Constant("int16_t", entries // unit), unit
    return Constant("int32_t", entries), 1


@dataclass(frozen=True, eq=False)
class Run:
    """How one layer is run.

    Attributes:
        kernel: its name in tables and comments, such as "dense int8".
        function: what is called.
        arguments: of the call in C, in which {x}, {x1} … and {y} stand for the activations that
            are read and written, and the names of constants in braces for those.
        constants: by their names within the layer.
        cycles: an estimate for a Cortex-M4.
    """

    kernel: str
    function: Function
    arguments: tuple[str | int | float, ...]
    constants: Mapping[str, Constant] = field(default_factory=dict)
    cycles: float = 0.0

    @property
    def bytes(self) -> int:
        """Of its constants in flash; functions are shared between layers."""
        return sum(constant.bytes for constant in self.constants.values())


Kernel = Callable[[Layer], Run | None]
"""Says how it would run a layer; None if it does not fit."""
