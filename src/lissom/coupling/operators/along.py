"""Something along some dims, which stay; place by place along all others.

What is mixed, sorted, transformed, or written by number along a dim needs all of that dim. Of the
other dims any entry can go, from all operands.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from lissom.coupling.constants import Constants, continuous, uniform, zeros_where
from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import Axes
from lissom.coupling.ops import Call, concrete, is_tensor, shape
from lissom.coupling.records import Operator, Unsupported, operator


class Along(Operator):
    """y = f(a, b, …) with all of some dims.

    Attributes:
        of_zeros: whether zeros all along these dims give zeros.
    """

    of_zeros: ClassVar[bool] = True

    def dims(self, call: Call, ndim: int) -> list[int]:
        """Those along which something happens."""
        return listed(call["dim"], ndim)

    def operands(self, call: Call) -> list[fx.Node]:
        """The tensors that lie beside one another, with equally many dims."""
        return [call.first]

    def couple(self, c: Coupler, call: Call) -> Axes | list[Axes]:
        parts, ndim = self.operands(call), len(c.trace.shape(call.first))
        along = {dim % ndim for dim in self.dims(call, ndim)}
        shapes = [list(c.trace.shape(part)) for part in parts]
        if any(len(sizes) != ndim for sizes in shapes):
            raise Unsupported("its operands have different numbers of dims")
        if c.alive(call.node):
            for part in parts:
                c.rigid(part, *along)
        beside = [[1 if d in along else n for d, n in enumerate(sizes)] for sizes in shapes]
        if len(set(map(tuple, beside))) > 1 and not self.broadcasts(call):
            raise Unsupported("its operands have different sizes")
        axes = c.align(beside, [c.axes(part) for part in parts])
        return axes if isinstance(call.result, Tensor) else [axes for _ in call.result]

    def broadcasts(self, call: Call) -> bool:
        """Whether different sizes meet as torch broadcasts them."""
        return False

    def constant(self, k: Constants, call: Call) -> Any:
        """Where all operands are zero all along: zero."""
        first = call.result if isinstance(call.result, Tensor) else call.result[0]
        if not self.of_zeros or not continuous(first):
            return None
        parts = self.operands(call)
        if any(k.get(part) is None for part in parts):
            return None
        zero = torch.ones((), dtype=torch.bool)
        for part in parts:
            dims = self.dims(call, len(shape(part)))
            zero = zero & (uniform(k.of(part), tuple(dims)) == 0)
        known = zeros_where(zero).expand(shape(first))
        if isinstance(call.result, Tensor):
            return known
        return [known, *(None for _ in call.result[1:])]


@operator(
    *"softmax log_softmax _softmax _log_softmax logcumsumexp special_softmax".split(),
    "special_log_softmax",
)
class Mixing(Along):
    """Shares, for which e⁰ counts too."""

    of_zeros = False


@operator("cumsum", "cumprod", "diff", "cumulative_trapezoid", "argsort", "msort")
class Running(Along):
    """One after the other."""

    def dims(self, call: Call, ndim: int) -> list[int]:
        return [0] if call.name == "msort" else super().dims(call, ndim)

    def operands(self, call: Call) -> list[fx.Node]:
        return [x for x in (call.first, call["prepend"], call["append"]) if x is not None]


@operator("sort", "topk", "cummax", "cummin")
class Sorting(Along):
    """Entries along a dim in another order, and where they were."""

    def constant(self, k: Constants, call: Call) -> Any:
        """What is the same all along the dim stays what it is."""
        same = uniform(k.of(call.first), tuple(self.dims(call, len(shape(call.first)))))
        return [same.expand(shape(call.result[0])), None]


@operator(
    *(f"fft_{i}{kind}fft{n}" for i in ("", "i") for kind in ("", "r", "h") for n in ("", "2", "n")),
    *"fft_fftshift fft_ifftshift _fft_r2c _fft_c2r _fft_c2c".split(),
)
class Fourier(Along):
    """A Fourier transform, or the shift of one."""

    def dims(self, call: Call, ndim: int) -> list[int]:
        dims, sizes = call["dim"], call["s"]
        if dims is None and sizes is not None:
            return list(range(ndim - len(sizes), ndim))
        return listed(dims, ndim)


@operator("tril", "triu")
class Triangle(Along):
    """Zeros on one side of the diagonal of matrices."""

    def dims(self, call: Call, ndim: int) -> list[int]:
        return [ndim - 2, ndim - 1]


@operator("renorm")
class Renorm(Along):
    """Each entry of one dim, scaled by the norm of all that it holds."""

    def dims(self, call: Call, ndim: int) -> list[int]:
        return [dim for dim in range(ndim) if dim != int(call["dim"]) % ndim]


@operator("linalg_cross", "cross")
class Cross(Along):
    """a × b along a dim of 3."""

    def dims(self, call: Call, ndim: int) -> list[int]:
        if call["dim"] is None:
            raise Unsupported("along the first dim of 3, whichever that is")
        return super().dims(call, ndim)

    def operands(self, call: Call) -> list[fx.Node]:
        return [call["self"], call["other"]]

    def broadcasts(self, call: Call) -> bool:
        return True


@operator("gather", "take_along_dim")
class Gather(Along):
    """At each place the entry whose number along the dim an index gives."""

    def dims(self, call: Call, ndim: int) -> list[int]:
        if call["dim"] is None:
            raise Unsupported("it numbers the entries of all dims")
        return super().dims(call, ndim)

    def operands(self, call: Call) -> list[fx.Node]:
        return [call["self"], call["index" if call.name == "gather" else "indices"]]

    def broadcasts(self, call: Call) -> bool:
        return call.name == "take_along_dim"

    def constant(self, k: Constants, call: Call) -> Any:
        """What is the same all along the dim, wherever it is read."""
        x = k.of(call["self"])
        same = uniform(x, tuple(self.dims(call, x.ndim)))
        return same.expand(call.shape)


@operator("scatter", "scatter_add", "scatter_reduce")
class Scatter(Along):
    """x with entries of another tensor, or a number, written or added where an index says."""

    def operands(self, call: Call) -> list[fx.Node]:
        return [call["self"], call["index"], *filter(is_tensor, [call["src"]])]

    def constant(self, k: Constants, call: Call) -> Any:
        """Where x and what is written are the same all along: that, if it stays what it is."""
        return written(k, call, call["src"] if call["src"] is not None else call["value"])


@operator(*"index_add index_copy index_fill index_reduce select_scatter slice_scatter".split())
class Rows(Along):
    """x with rows of another tensor, or a number, written or added by number."""

    def source(self, call: Call) -> Any:
        """What is written."""
        names = ("source", "src", "value")
        return next(call[name] for name in names if call[name] is not None)

    def couple(self, c: Coupler, call: Call) -> Axes | list[Axes]:
        x, source, dim = call.first, self.source(call), int(concrete(call["dim"]))
        if is_tensor(call["index"]):
            c.pin(call["index"])
        c.rigid(x, dim)
        if not is_tensor(source) or not c.trace.shape(source):
            return c.axes(x)
        sizes, dim = list(c.trace.shape(x)), dim % len(c.trace.shape(x))
        sizes[dim] = 1
        axes, single = c.axes(source), call.name == "select_scatter"
        if single:
            axes = tuple(axis.reshape([*axis.shape[:dim], 1, *axis.shape[dim:]]) for axis in axes)
        elif len(c.trace.shape(source)) != len(sizes):
            raise Unsupported("its operands have different numbers of dims")
        else:
            c.rigid(source, dim)
            axes = c.axes(source)
        return c.align([sizes, sizes], [c.axes(x), axes])

    def constant(self, k: Constants, call: Call) -> Any:
        return written(k, call, self.source(call))


def written(k: Constants, call: Call, source: Any) -> Any:
    """Of x with something written into it along a dim: its zeros, where zeros are written."""
    x, dim = k.of(call.first), int(concrete(call["dim"])) % len(call.shape)
    zero = uniform(x, (dim,)) == 0
    if is_tensor(source):
        y = k.of(source)
        if call.name == "select_scatter":
            y = y.unsqueeze(dim)
        zero = zero & ((uniform(y, (dim,)) if y.ndim else y) == 0)
    elif concrete(source) != 0:
        return None
    return zeros_where(zero).expand(call.shape)


def listed(dims: Any, ndim: int) -> list[int]:
    """The dims that an argument names: one, some, or all where it is None."""
    dims = concrete(dims)
    if dims is None:
        return list(range(ndim))
    return [int(dim) % ndim for dim in (dims if isinstance(dims, list | tuple) else [dims])]
