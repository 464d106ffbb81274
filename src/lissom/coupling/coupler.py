"""One pass over a trace that gives every tensor its axes of labels."""

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor, fx, nn

from lissom.coupling.labels import Axes, Axis, Labels, placed, varying
from lissom.coupling.ops import Call, call
from lissom.coupling.records import Unsupported, asked, record_of
from lissom.coupling.sites import Product, Site
from lissom.coupling.trace import Trace
from lissom.groups import Role


class Coupler:
    """Labels, axes, and the sites where units are read.

    Attributes:
        trace: the graph.
        labels: the union-find.
        sites: where the value of a unit matters.
        roles: of the dims of parameters, where an operation says more than the default.
        heads: axes that stand for heads of attention.
        products: of activations with one another, for all of the example inputs.
        declined: operations whose record declines them, or that have none, and the reason; their
            inputs are pinned.
        frees_inputs: whether the entries of the model's inputs are units too.
        inputs: their axes.
    """

    def __init__(self, trace: Trace, *, inputs: bool = False) -> None:
        self.trace = trace
        self.labels = Labels()
        self.sites: list[Site] = []
        self.roles: dict[tuple[fx.Node, int], set[Role]] = {}
        self.heads: list[Axis] = []
        self.products: list[Product] = []
        self.declined: list[tuple[Call, str]] = []
        self.inputs: dict[fx.Node, Axis] = {}
        self._axes: dict[fx.Node, Axes | list[Axes]] = {}
        self.frees_inputs = inputs
        self._of_memory: dict[str, Axes] = {}
        self._borne = np.zeros(0, np.int64)
        self._alive = _alive(trace)
        for node in trace.nodes:
            self._axes[node] = self._visit(node)
        self.sites = [site for site in self.sites if self.alive(site.node)]
        self._make_rectangular()

    def alive(self, node: fx.Node) -> bool:
        """Whether the output depends on a node; of others only the shapes have to fit."""
        return node in self._alive

    def axes(self, node: fx.Node, output: int | None = None) -> Axes:
        """The axes of a tensor, or of one of several outputs, as merged so far."""
        kept = self._axes.get(node, ())
        if isinstance(kept, list):
            kept = kept[output] if output is not None and output < len(kept) else ()
        return self.labels.settled(kept)

    def outputs(self, node: fx.Node) -> Axes | list[Axes]:
        """What the rule gave: axes, or a list of them for an operation with several outputs."""
        return self._axes.get(node, ())

    def fresh(self, node: fx.Node) -> Axes:
        """The labels that a parameter or buffer was given, before anything was merged."""
        return self._of_memory.get(self.trace.names.get(node, ""), ())

    def vector(self, node: fx.Node, dim: int) -> Axis | None:
        """The labels along one dim; None if nothing can go there."""
        dim %= max(1, len(self.trace.shape(node)))
        for axis in self.axes(node):
            if axis.shape[dim] > 1:
                return self.labels.along(axis, dim)
        return None

    def rigid(self, node: fx.Node, *dims: int) -> None:
        """The sizes of these dims must not change."""
        ndim = len(self.trace.shape(node))
        for dim in dims:
            for axis in self.axes(node):
                self.labels.rigid(axis, dim % ndim)

    def pin(self, node: fx.Node) -> None:
        """Nothing may go from this tensor, or from any of its outputs."""
        kept = self._axes.get(node, ())
        for axes in kept if isinstance(kept, list) else [kept]:
            for axis in axes:
                self.labels.pin(axis)

    def tie(self, *sides: Axis | None) -> Axis | None:
        """These vectors shrink together; None stands for a side that cannot."""
        vectors = [side for side in sides if side is not None]
        if len(vectors) < len(sides):
            for vector in vectors:
                self.labels.pin(vector)
            return None
        for vector in vectors[1:]:
            self.labels.union(vectors[0], vector)
        return self.labels.find(vectors[0])

    def align(self, shapes: Sequence[Sequence[int]], operands: Sequence[Axes]) -> Axes:
        """Tensors that meet element by element, broadcast: the axes of the result.

        Args:
            shapes: of the operands, all with as many dims as the result.
            operands: their axes, in the same layout.
        """
        for dim in range(len(shapes[0]) if shapes else 0):
            large = [axes for shape, axes in zip(shapes, operands, strict=True) if shape[dim] > 1]
            here = [[axis for axis in axes if axis.shape[dim] > 1] for axes in large]
            if all(here):
                continue
            for axis in (axis for found in here for axis in found):
                self.labels.rigid(axis, dim)
        result: list[Axis] = []
        for axes in operands:
            for axis in self.labels.settled(axes):
                met = [other for other in result if set(varying(other)) & set(varying(axis))]
                for other in met:
                    self._merge(other, axis)
                if not met:
                    result.append(axis)
        return self.labels.settled(tuple(result))

    def _merge(self, a: Axis, b: Axis) -> None:
        """Two axes on one dim become one.

        A table that varies along some dims of an axis alone, as of cosines for every head, decides
        nothing: what is under it stays, and the other dims may shrink.
        """
        narrow, broad = sorted((a, b), key=lambda axis: len(varying(axis)))
        if set(varying(narrow)) < set(varying(broad)) and not self.borne(narrow):
            self.labels.pin(narrow)
            for dim in varying(narrow):
                self.labels.rigid(broad, dim)
        else:
            self.labels.union(*np.broadcast_arrays(a, b))

    def meet(self, nodes: Sequence[fx.Node]) -> Axes:
        """Tensors that meet element by element, broadcast as torch does: the axes of the result."""
        shapes = [self.trace.shape(node) for node in nodes]
        ndim = max(map(len, shapes), default=0)
        padded = [(1,) * (ndim - len(shape)) + tuple(shape) for shape in shapes]
        return self.align(padded, [grown(self.axes(node), ndim) for node in nodes])

    def free(self, shape: Sequence[int], dims: Iterable[int]) -> Axes:
        """Axes of a tensor that is alike along these dims, so that any size of them will do."""
        sizes = {dim: shape[dim] for dim in dims if shape[dim] > 1}
        return tuple(placed(self.labels.fresh([n]), dim, len(shape)) for dim, n in sizes.items())

    def borne(self, axis: Axis) -> bool:
        """Whether a parameter or an input bears one of these labels; tables and copies are none."""
        return bool(np.isin(self.labels.find(axis), self.labels.find(self._borne)).any())

    def mark(self, node: fx.Node, dim: int, role: Role) -> None:
        """Say what a dim of a weight is, or of the parameters that a computed weight is made of.

        NORM is said of the rows, which make units, and CUT of the columns, which read them.
        """
        dim %= max(1, len(self.trace.shape(node)))
        if node in self.trace.names:
            self.roles.setdefault((node, dim), set()).add(role)
            return
        labels = self.vector(node, dim)
        if labels is None:
            return
        todo, seen = [node], {node}
        while todo:
            here = todo.pop()
            for axis in self.axes(here) if here in self.trace.names else ():
                if np.isin(axis, labels).all():
                    self.roles.setdefault((here, varying(axis)[0]), set()).add(role)
            record = record_of(call(here)) if here.op == "call_function" else None
            passes_on = record is not None and (record.elementwise or record.moves)
            new = [source for source in here.all_input_nodes if passes_on and source not in seen]
            seen.update(new)
            todo += new

    def _visit(self, node: fx.Node) -> Axes | list[Axes]:
        self.labels.cause = node
        axes = self._coupled(node)
        for source in node.all_input_nodes:
            self.axes(source)  # what it tied to one label is pinned, and by this node
        return axes

    def _coupled(self, node: fx.Node) -> Axes | list[Axes]:
        if node.op == "get_attr":
            return self._own(node)
        if node.op == "placeholder":
            return self._input(node)
        if node.op == "output":
            for source in node.all_input_nodes:
                self.pin(source)
            return ()
        if node.op != "call_function":
            return self._declined(Call(node, str(node.target), {}), "it is no operator")
        op = call(node)
        try:
            axes: Axes | list[Axes] = asked("couple", op, self, op)
        except Unsupported as reason:
            return self._declined(op, str(reason) or "its record declines it")
        return axes

    def _own(self, node: fx.Node) -> Axes:
        """Fresh labels for each dim of a parameter or constant; the same ones where it is tied."""
        if node not in self.trace.tensors:
            return ()
        name = self.trace.names.get(node, f"constant {node.target}")
        if name not in self._of_memory:
            shape = self.trace.shape(node)
            if node not in self.trace.names and sum(size > 1 for size in shape) > 1:
                return ()  # a constant that is no vector may be a mask of examples and positions
            self._of_memory[name] = tuple(
                placed(self.labels.fresh([size]), dim, len(shape))
                for dim, size in enumerate(shape)
                if size > 1
            )
            if isinstance(self.trace.tensors[node], nn.Parameter):
                self._bear(*self._of_memory[name])
        return self._of_memory[name]

    def _input(self, node: fx.Node) -> Axes:
        """Inputs are fixed, or free in all but their first dim, the batch."""
        value = node.meta.get("val")
        if not self.frees_inputs or not isinstance(value, Tensor) or not value.is_floating_point():
            return ()
        shape = self.trace.shape(node)
        if len(shape) < 2:
            return ()
        self.inputs[node] = self.labels.fresh([1, *shape[1:]])
        self._bear(self.inputs[node])
        return (self.inputs[node],)

    def _bear(self, *axes: Axis) -> None:
        self._borne = np.concatenate([self._borne, *(axis.ravel() for axis in axes)])

    def _declined(self, op: Call, reason: str) -> Axes:
        """Safe by default: what the operation reads stays."""
        if any(self.outputs(source) for source in op.node.all_input_nodes):
            self.declined.append((op, reason))
        for source in op.node.all_input_nodes:
            self.pin(source)
        return ()

    def _make_rectangular(self) -> None:
        """Every tensor must stay rectangular, so an axis over several dims is cut along one.

        Free inputs need not be: the small network takes them flat, if they are flattened anyway.
        """
        everything = np.arange(len(self.labels))
        given = np.concatenate([[0], *(axis.ravel() for axis in self.inputs.values())])
        while True:
            before = self.labels.find(everything)
            for node, kept in self._axes.items():
                self.labels.cause = node
                for axes in kept if isinstance(kept, list) else [kept]:
                    for axis in self.labels.settled(axes):
                        if not np.isin(axis, self.labels.find(given)).all():
                            self.labels.settle(axis)
            if np.array_equal(before, self.labels.find(everything)):
                return


def _alive(trace: Trace) -> set[fx.Node]:
    """What the output depends on, and what is done in place."""
    todo = [node for node in trace.nodes if node.op == "output" or node.is_impure()]
    found = set(todo)
    while todo:
        new = [source for source in todo.pop().all_input_nodes if source not in found]
        found.update(new)
        todo += new
    return found


def grown(axes: Axes, ndim: int) -> Axes:
    """Axes of a tensor that is broadcast to more dims, which come first."""
    return tuple(axis.reshape([1] * (ndim - axis.ndim) + list(axis.shape)) for axis in axes)
