"""The attributes of modules that hold sizes, and their values after surgery."""

from collections.abc import Iterator

from torch import Tensor, fx, nn

from lissom.coupling.coupler import Coupler
from lissom.coupling.ops import Call, call, shape, sized
from lissom.coupling.records import asked, record_of
from lissom.coupling.resizing import Mask, left

Sizes = dict[str, int]


def new_sizes(
    model: nn.Module, coupler: Coupler, gone: Mask, *, counts_only: bool
) -> dict[str, Sizes]:
    """{path of a module: {attribute: new value}} for every attribute that holds an old size.

    The attributes of layers are in the record of the operation that they call. In any other module,
    an integer that equals an old size in a view, a split or a tensor of zeros there is taken to be
    that size; verification tells whether that was right. Two different new values for one attribute
    leave it as it is.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[str, dict[str, set[int]]] = {}
    for node in coupler.trace.nodes:
        if node.op != "call_function":
            continue
        path, _ = coupler.trace.module(node)
        module = modules.get(path)
        if module is None:
            continue
        for name, size in _of_node(coupler, gone, call(node), module, counts_only):
            found.setdefault(path, {}).setdefault(name, set()).add(size)
    clear = {
        path: {name: new.pop() for name, new in sizes.items() if len(new) == 1}
        for path, sizes in found.items()
    }
    return {
        path: changed
        for path, sizes in clear.items()
        if (changed := {n: v for n, v in sizes.items() if getattr(modules[path], n) != v})
    }


def _of_node(
    coupler: Coupler, gone: Mask, op: Call, module: nn.Module, counts_only: bool
) -> Iterator[tuple[str, int]]:
    def now(node: fx.Node) -> tuple[int, ...]:
        return left(coupler, gone, node)

    if record_of(op).written and sized(op):
        for old, new in _changes(coupler, gone, op.node):
            for name, value in vars(module).items():
                counts = name.startswith(("n", "heads"))
                if type(value) is int and value == old and (counts or not counts_only):
                    yield name, new
        return
    was: Sizes = asked("sizes", op, op, shape)
    for name, size in asked("sizes", op, op, now).items() if was else ():
        if getattr(module, name, None) == was[name]:
            yield name, size


def _changes(coupler: Coupler, gone: Mask, node: fx.Node) -> Iterator[tuple[int, int]]:
    value = node.meta["val"]
    outputs = [None] if isinstance(value, Tensor) else range(len(value))
    for output in outputs:
        old = shape(value if output is None else value[output])
        for before, after in zip(old, left(coupler, gone, node, output), strict=True):
            if before != after:
                yield before, after
