"""Where the value of a unit is read, so that it matters whether it is zero."""

from dataclasses import dataclass

from torch import fx

from lissom.coupling.labels import Axis


@dataclass(frozen=True, eq=False)
class Contraction:
    """Σ_k x_k·w_ok: unit k matters where x_k is not zero and some w_ok of a living row o is not.

    Attributes:
        node: the operation.
        source: x, whose dim `dim` is summed over.
        dim: of x.
        labels: of the K entries of that dim.
        other: w, a weight or another activation.
        other_dims: its dims (k, o); o is None where all its rows are alive.
        rows: labels of its O rows, or None.
        groups: of a grouped convolution: x_k is read by the O/groups rows of its group.
        bias: the bias node, if the operation has one.
        pads: whether zeros are summed in beside x, so that a constant gives no constant.
        takes: the name of the bias that can take a constant; it may have to be made.
        macs: multiply–accumulate operations for all of the example inputs.
        convolves: whether w is moved over x, whose units are channels then.
    """

    node: fx.Node
    source: fx.Node
    dim: int
    labels: Axis
    other: fx.Node
    other_dims: tuple[int, int | None]
    rows: Axis | None
    groups: int = 1
    bias: fx.Node | None = None
    pads: bool = False
    takes: str | None = None
    macs: int = 0
    convolves: bool = False


@dataclass(frozen=True, eq=False)
class MustVanish:
    """A unit matters unless it is exactly zero: it is summed, or feeds back into itself.

    Attributes:
        node: the operation.
        source: the tensor that must be zero, output `output` of its node.
        dim: the dim along which the units lie.
        labels: of that dim.
        output: which of several outputs.
    """

    node: fx.Node
    source: fx.Node
    dim: int
    labels: Axis
    output: int | None = None


@dataclass(frozen=True, eq=False)
class Product:
    """Multiply–accumulates that belong to no contraction.

    Those of activations with one another, such as Q Kᵀ, and of weights with a state that no node
    of the graph is, as that of a recurrent layer.

    Attributes:
        node: the operation.
        macs: for all of the example inputs.
        dims: of the output, or of the weight, which may shrink.
        summed: labels of what is summed over, where that may shrink.
        weight: that is multiplied; None for activations.
    """

    node: fx.Node
    macs: int
    dims: tuple[int, ...]
    summed: Axis | None = None
    weight: fx.Node | None = None


Site = Contraction | MustVanish
