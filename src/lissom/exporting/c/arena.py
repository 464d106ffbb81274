"""Where in the caller's memory each activation lies while it is needed."""

from dataclasses import dataclass

from lissom.exporting.c.layers import (
    Activation,
    Add,
    Gather,
    Layer,
    MaxPool,
    MeanPool,
    Multiply,
    Network,
    Pad,
    Value,
)

ALIGNMENT = 4  # bytes: of floats


@dataclass(frozen=True, eq=False)
class Arena:
    """The plan of the memory.

    Attributes:
        homes: for each value the one at whose place it lies, often itself.
        offsets: of those that lie in the arena, in bytes.
        bytes: of all.
    """

    homes: dict[Value, Value]
    offsets: dict[Value, int]
    bytes: int


@dataclass
class Span:
    """A place in memory: how large it is, and the steps from which and until which it is needed."""

    size: int
    first: int
    last: int

    def meets(self, other: "Span") -> bool:
        """Whether both are needed at one time."""
        return self.first <= other.last and other.first <= self.last


def planned(network: Network, outside: set[Value]) -> Arena:
    """Offsets such that no two values overlap that are needed at one time.

    Args:
        network: whose activations they are.
        outside: values that lie in memory of the caller, which is read or written only.
    """
    last = {value: step for step, layer in enumerate(network.layers) for value in layer.inputs}
    last[network.output] = len(network.layers)
    homes = {network.input: network.input}
    spans = {network.input: Span(network.input.bytes, -1, last.get(network.input, -1))}
    for step, layer in enumerate(network.layers):
        value = layer.output
        over = [x for x in layer.inputs if _lies_over(layer, x, spans[homes[x]].last == step)]
        home = homes[over[0]] if over else value
        renames = isinstance(layer, Gather) and layer.moves_nothing
        if not renames and (home is network.input or value in outside):
            home = value  # what the caller gave is only read
        homes[value] = home
        span = spans.setdefault(home, Span(value.bytes, step, step))
        span.size = max(span.size, value.bytes)
        span.last = max(span.last, last.get(value, step))
    offsets: dict[Value, int] = {}
    for value, span in sorted(spans.items(), key=lambda item: -item[1].size):
        if value not in outside:
            offsets[value] = _gap(span, [(at, spans[x]) for x, at in offsets.items()])
    return Arena(homes, offsets, max((at + spans[x].size for x, at in offsets.items()), default=0))


def _gap(span: Span, placed: list[tuple[int, Span]]) -> int:
    """The first offset at which it meets none of those that have theirs."""
    offset = 0
    for at, other in sorted(placed, key=lambda item: item[0]):
        if span.meets(other) and offset + span.size > at:
            offset = max(offset, -(-(at + other.size) // ALIGNMENT) * ALIGNMENT)
    return offset


def _lies_over(layer: Layer, value: Value, dies: bool) -> bool:
    """Whether a layer may write where it reads a value: it reads nothing that it has written."""
    if isinstance(layer, Gather):
        return layer.moves_nothing
    if isinstance(layer, Pad):
        return dies
    smaller = layer.output.bytes <= value.bytes and layer.output.type == value.type
    in_order = isinstance(layer, Activation | Add | Multiply | MaxPool | MeanPool)
    return in_order and smaller and dies
