"""Where in the caller's memory each activation lies while it is needed."""

from dataclasses import dataclass

from lissom.exporting.c.layers import Add, Gather, Layer, MaxPool, MeanPool, Network, Pad, Value

ALIGNMENT = 4  # bytes: of floats


@dataclass(frozen=True, eq=False)
class Arena:
    """The plan of the memory.

    Attributes:
        offsets: of each value that lies in it, in bytes.
        bytes: of all.
    """

    offsets: dict[Value, int]
    bytes: int


def planned(network: Network, outside: set[Value]) -> Arena:
    """Offsets such that no two values overlap that are needed at one time.

    Args:
        network: whose activations they are.
        outside: values that lie in memory of their own, as outputs do.
    """
    first: dict[Value, int] = {network.input: -1}
    last: dict[Value, int] = {network.input: -1}
    home: dict[Value, Value] = {network.input: network.input}
    for step, layer in enumerate(network.layers):
        for value in layer.inputs:
            last[value] = step
    last[network.output] = len(network.layers)
    for step, layer in enumerate(network.layers):
        first[layer.output] = step
        last.setdefault(layer.output, step)
        home[layer.output] = layer.output
        for value in layer.inputs:
            over = last[value] == step and value is not network.input
            if _may_lie_over(layer, value) and (over or _renames(layer)):
                if layer.output not in outside and value not in outside:
                    home[layer.output] = home[value]
                elif _renames(layer):
                    outside = outside | {layer.output}
                break
    spans: dict[Value, tuple[int, int, int]] = {}
    for value, owner in home.items():
        if value not in outside:
            begin, end, size = spans.get(owner, (first[value], last[value], 0))
            spans[owner] = min(begin, first[value]), max(end, last[value]), max(size, value.bytes)
    placed: dict[Value, int] = {}
    for owner in sorted(spans, key=lambda value: -spans[value][2]):
        begin, end, size = spans[owner]
        taken = sorted(
            (offset, offset + spans[other][2])
            for other, offset in placed.items()
            if spans[other][0] <= end and begin <= spans[other][1]
        )
        offset = 0
        for start, stop in taken:
            if offset + size <= start:
                break
            offset = max(offset, -(-stop // ALIGNMENT) * ALIGNMENT)
        placed[owner] = offset
    offsets = {v: placed[home[v]] for v in home if home[v] in placed and v not in outside}
    return Arena(offsets, max((placed[o] + spans[o][2] for o in placed), default=0))


def _renames(layer: Layer) -> bool:
    return isinstance(layer, Gather) and layer.moves_nothing


def _may_lie_over(layer: Layer, value: Value) -> bool:
    """Whether a layer may write where it reads: nothing is read after it was written."""
    if isinstance(layer, Pad) or _renames(layer):
        return True
    smaller = layer.output.bytes <= value.bytes and layer.output.type == value.type
    return isinstance(layer, Add | MaxPool | MeanPool) and smaller
