"""What was measured of a model: as an object, as JSON and as tables."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from lissom.sparse_sizes import Storage
from lissom.tables import table, text
from lissom.turns import Latency


@dataclass(frozen=True)
class Variable:
    """One parameter tensor: its name, its weights and how many of them are not zero."""

    name: str
    nonzeros: int
    weights: int


@dataclass(frozen=True)
class Layer:
    """One module with parameters of its own.

    Attributes:
        name: its path in the model; "" for the model itself.
        type: the name of its class.
        nonzeros: its weights that are not zero, biases included; tied ones count at their first
            layer.
        weights: all its weights, biases and zeros included.
        shape: of its output; None if it did not run, or was not asked to.
        macs: multiply–accumulates with its weights, for one example; None without example inputs.
        effective_macs: those with its weights that are not zero.
    """

    name: str
    type: str
    nonzeros: int
    weights: int
    shape: tuple[int, ...] | None = None
    macs: int | None = None
    effective_macs: int | None = None


@dataclass(frozen=True)
class Measurement:
    """What `measure` found; printed as Henrikson's table, then by layer, then what it costs.

    Without example inputs, all from `examples` on is None.

    Attributes:
        variables: one entry for each parameter tensor, tied ones once.
        tolerance: weights with |w| ≤ tolerance were counted as zero.
        layers: one entry for each module with parameters, in the order in which they ran.
        storage: bytes of each parameter tensor, dense and in its smallest format.
        examples: how many the batch of example inputs has.
        macs: multiply–accumulates of a forward pass, for one of them.
        effective_macs: those that meet a weight that is not zero; products of activations with
            activations (attention) count in full.
        uncounted: parameters of two or more dimensions in layers that ran, which no operation with
            MACs in its record multiplied with: looked up or added ones, but also the factors of
            operations without a record. Their MACs are missing from `macs`.
        neurons: 266, 88, 33: outputs of convolutions and inputs of dense layers that are left when
            dead units are removed, in the order in which the layers run.
        shrunk_weights: all weights, biases and zeros included, of the network that `lissom.shrink`
            makes.
        unshrunk: why the last two are None though there are example inputs.
        latency: of a forward pass on the whole batch; None if not asked for.
        shrunk_latency: of the network that `lissom.shrink` makes, in turns with it; its ratio says
            what removing the zeros is worth.
    """

    variables: tuple[Variable, ...]
    tolerance: float = 0.0
    layers: tuple[Layer, ...] = ()
    storage: tuple[Storage, ...] = ()
    examples: int | None = None
    macs: int | None = None
    effective_macs: int | None = None
    uncounted: tuple[str, ...] | None = None
    neurons: tuple[int, ...] | None = None
    shrunk_weights: int | None = None
    unshrunk: str | None = None
    latency: Latency | None = None
    shrunk_latency: Latency | None = None

    @property
    def nonzeros(self) -> int:
        """Weights that are not zero, biases included."""
        return sum(variable.nonzeros for variable in self.variables)

    @property
    def weights(self) -> int:
        """All weights, biases and zeros included."""
        return sum(variable.weights for variable in self.variables)

    @property
    def sparsity(self) -> float:
        """The fraction of all weights that is zero, from 0 to 1."""
        return 1 - self.nonzeros / self.weights

    @property
    def dense_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(stored.dense for stored in self.storage)

    @property
    def sparse_bytes(self) -> int:
        """Bytes of all weights, each tensor in its smallest format, indices included."""
        return sum(stored.sparse for stored in self.storage)

    @property
    def coded_bytes(self) -> int:
        """Bytes of all weights that an arithmetic coder comes near, codebooks and zeros alike.

        For each tensor the entropy of which weights are zero, and the others as they are or by the
        entropy of a table of their values, with the table; names, shapes and frequencies are not
        counted, biases and norms are.
        """
        return sum(stored.coded for stored in self.storage)

    @property
    def notation(self) -> str | None:
        """The `neurons` as the papers write them: "266-88-33"."""
        return None if self.neurons is None else "-".join(map(str, self.neurons))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {
            "variables": [asdict(variable) for variable in self.variables],
            "nonzeros": self.nonzeros,
            "weights": self.weights,
            "sparsity": self.sparsity,
            "tolerance": self.tolerance,
            "layers": [asdict(layer) for layer in self.layers],
            "storage": [asdict(stored) for stored in self.storage],
            "dense_bytes": self.dense_bytes,
            "sparse_bytes": self.sparse_bytes,
            "coded_bytes": self.coded_bytes,
            "examples": self.examples,
            "macs": self.macs,
            "effective_macs": self.effective_macs,
            "uncounted": self.uncounted,
            "neurons": self.neurons,
            "notation": self.notation,
            "shrunk_weights": self.shrunk_weights,
            "unshrunk": self.unshrunk,
            "latency": self.latency and asdict(self.latency),
            "shrunk_latency": self.shrunk_latency and asdict(self.shrunk_latency),
        }

    def table(self) -> Table:
        """Rich tables below one another: by variable, by layer, and what all of it costs."""
        grid = Table.grid()
        grid.add_row(self._by_variable())
        if self.macs is not None:
            grid.add_row(self._by_layer())
        if costs := self._costs():
            grid.add_row(table(["in all", ""], costs))
        return grid

    def __str__(self) -> str:
        return text(self.table())

    def _by_variable(self) -> Table:
        def row(name: str, nonzeros: int, weights: int) -> list[object]:
            return [name, nonzeros, weights, f"{100 * (1 - nonzeros / max(1, weights)):.2f} %"]

        return table(
            ["variable", "non-zeros", "weights", "zeros"],
            [row(v.name, v.nonzeros, v.weights) for v in self.variables],
            total=row("total", self.nonzeros, self.weights),
        )

    def _by_layer(self) -> Table:
        def row(layer: Layer) -> list[object]:
            shape = "×".join(map(str, layer.shape)) if layer.shape else ""
            counts = [layer.nonzeros, layer.weights, layer.macs or 0, layer.effective_macs or 0]
            return [layer.name or "(model)", layer.type, shape, *counts]

        totals = [self.nonzeros, self.weights, self.macs or 0, self.effective_macs or 0]
        products = totals[2] - sum(layer.macs or 0 for layer in self.layers)
        others = [["without weights", "", "", "", "", products, products]] if products else []
        return table(
            ["layer", "type", "output", "non-zeros", "weights", "MACs", "effective"],
            [*map(row, self.layers), *others],
            total=["all layers", "", "", *totals],
        )

    def _costs(self) -> list[list[object]]:
        rows: list[list[object]] = []
        if self.storage:
            by_format: dict[str, int] = {}
            for stored in self.storage:
                by_format[stored.format] = by_format.get(stored.format, 0) + stored.sparse
            parts = ", ".join(f"{size:,} {name}" for name, size in by_format.items() if size)
            rows.append(["bytes, dense", f"{self.dense_bytes:,}"])
            rows.append(
                ["bytes, smallest", f"{self.sparse_bytes:,}" + (f" ({parts})" if parts else "")]
            )
            rows.append(["bytes, by entropy", f"{self.coded_bytes:,}"])
        if self.notation is not None:
            rows.append(["neurons left", self.notation or "none"])
        if self.shrunk_weights is not None:
            rows.append(["weights when shrunk", f"{self.shrunk_weights:,}"])
        if self.unshrunk is not None:
            rows.append(["not shrunk", self.unshrunk])
        if self.uncounted:
            rows.append(["MACs not counted", ", ".join(self.uncounted)])
        if self.examples is not None and self.examples > 1:
            rows.append(["batch", f"{self.examples:,} examples; MACs are for one"])
        if self.latency is not None:
            rows.append(["latency", str(self.latency)])
        if self.shrunk_latency is not None:
            ratio = f"{self.shrunk_latency.ratio:.2f} × as long: {self.shrunk_latency}"
            rows.append(["latency when shrunk", ratio])
        return rows
