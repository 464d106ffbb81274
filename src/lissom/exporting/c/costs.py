"""What a network in C takes of a microcontroller."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from lissom.exporting.c.writing import Program
from lissom.tables import table, text

# Code on a Cortex-M4 by gcc -Os, in bytes: of a call with its arguments, and of what is around.
CALL_BYTES, ENTRY_BYTES = 36, 100
STACK_BYTES = 256  # the deepest chain of calls, of gcc -Os, took up to 232 in 170 networks


@dataclass(frozen=True)
class LayerCost:
    """What a layer takes.

    Attributes:
        name: of the module in the network.
        kernel: how it is run.
        flash: bytes of its constants.
        macs: multiplications of weights and activations.
        cycles: an estimate for a Cortex-M4.
    """

    name: str
    kernel: str
    flash: int
    macs: int
    cycles: int


@dataclass(frozen=True)
class Cost:
    """What a network in C takes of a microcontroller; bytes and cycles are those of a Cortex-M4.

    Attributes:
        layers: what each takes.
        code: bytes of code, an estimate.
        arena: bytes that the caller gives.
        stack: bytes of the stack, more than it took in any network that was looked at.
        compiled: bytes of code and constants as arm-none-eabi-gcc -Os made them; None without it.
    """

    layers: tuple[LayerCost, ...]
    code: int
    arena: int
    stack: int
    compiled: int | None = None

    @property
    def flash(self) -> int:
        """Bytes of code and constants: compiled, or an estimate."""
        constants = sum(layer.flash for layer in self.layers)
        return constants + self.code if self.compiled is None else self.compiled

    @property
    def ram(self) -> int:
        """Bytes of arena and stack."""
        return self.arena + self.stack

    @property
    def macs(self) -> int:
        """Multiplications of weights and activations for one example."""
        return sum(layer.macs for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, with the sums."""
        return {**asdict(self), "flash": self.flash, "ram": self.ram, "macs": self.macs}

    def table(self) -> Table:
        """Rich tables below one another: by layer, and what all of it takes."""
        rows = [[x.name, x.kernel, x.flash, x.macs, x.cycles] for x in self.layers]
        sums = [sum(column) for column in zip(*(row[2:] for row in rows), strict=True)]
        layers = table(
            ["layer", "kernel", "constants (bytes)", "MACs", "cycles"],
            rows,
            total=["all layers", "", *(sums or [0, 0, 0])],
        )
        flash = f"{sum(x.flash for x in self.layers) + self.code:,} bytes, an estimate"
        if self.compiled is not None:
            flash = f"{self.compiled:,} bytes, compiled ({flash})"
        ram = f"{self.ram:,} bytes: {self.arena:,} of arena and up to {self.stack:,} of stack"
        grid = Table.grid()
        grid.add_row(layers)
        grid.add_row(table(["on a Cortex-M4", ""], [["flash", flash], ["RAM", ram]]))
        return grid

    def __str__(self) -> str:
        return text(self.table())


def cost_of(program: Program) -> Cost:
    """What a program takes, by estimate."""
    layers = tuple(
        LayerCost(
            layer.name,
            runs[0].kernel,
            sum(run.bytes for run in runs),
            layer.macs,
            round(sum(run.cycles for run in runs)),
        )
        for layer, runs in zip(program.network.layers, program.runs, strict=True)
        if runs
    )
    if program.order is not None:
        outputs = program.order.entries.numel()
        last = LayerCost("", "order of outputs", program.order.bytes, 0, 6 * outputs)
        layers = (*layers, last)
    calls = [run.function for runs in program.runs for run in runs]
    written = [f for f in program.functions if not f.inlined] + [f for f in calls if f.inlined]
    code = sum(f.bytes for f in written) + CALL_BYTES * len(calls) + ENTRY_BYTES
    return Cost(layers, code, program.arena.bytes, STACK_BYTES)
