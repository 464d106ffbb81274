"""One number from many: sums, means, extremes, norms and distances."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from lissom.coupling.constants import Constants, continuous, spread, uniform, wide, zeros_where
from lissom.coupling.coupler import Coupler, grown
from lissom.coupling.labels import Axes, placed, varying
from lissom.coupling.operators.along import listed
from lissom.coupling.ops import Call, shape
from lissom.coupling.records import Operator, Unsupported, operator
from lissom.coupling.sites import MustVanish


@operator(
    *"var std var_mean std_mean prod logsumexp special_logsumexp all any argmax argmin".split()
)
class Reduction(Operator):
    """One number from all along some dims, for which all of them are needed."""

    def loses_nothing(self, call: Call) -> bool:
        """Whether entries that are zero change nothing but rounding."""
        return False

    def dims(self, call: Call) -> list[int]:
        """Those that are reduced."""
        return listed(call["dim"], len(shape(call.first)))

    def couple(self, c: Coupler, call: Call) -> Axes | list[Axes]:
        x, dims = call.first, self.dims(call)
        _reduce(c, call, x, dims, self.loses_nothing(call))
        left = tuple(axis for axis in c.axes(x) if not set(varying(axis)) & set(dims))
        if not call["keepdim"]:
            left = tuple(np.squeeze(axis, tuple(dims)) for axis in left)
        return left if isinstance(call.result, Tensor) else [left for _ in call.result]


@operator("mean", "nanmean", "amax", "amin", "aminmax", "median", "nanmedian", "mode", "kthvalue")
class Mean(Reduction):
    """What does not grow with the number of entries that are alike."""

    def dims(self, call: Call) -> list[int]:
        if call["dim"] is None and call.name in ("mode", "kthvalue"):
            return [len(shape(call.first)) - 1]
        return super().dims(call)

    def constant(self, k: Constants, call: Call) -> Any:
        """Known if all that is reduced is alike."""
        x = k.get(call.first)
        if x is None or not continuous(x):
            return None
        # What differs by position has another mean elsewhere.
        dims = self.dims(call)
        alike = uniform(x, tuple(dims))
        alike = alike if call["keepdim"] else alike.squeeze(dims)
        if isinstance(call.result, Tensor):
            return alike.expand(call.shape)
        return [alike if continuous(part) else None for part in call.result]


@operator("max", "min")
class Extreme(Mean):
    """Of one tensor along a dim, with where it is; or of two, place by place."""

    def couple(self, c: Coupler, call: Call) -> Axes | list[Axes]:
        if call["other"] is not None:
            return c.meet([call["self"], call["other"]])
        return super().couple(c, call)

    def constant(self, k: Constants, call: Call) -> Any:
        if call["other"] is not None:
            known = torch.maximum if call.name == "max" else torch.minimum
            return spread(known(wide(k.of(call["self"])), wide(k.of(call["other"]))), call)
        return super().constant(k, call)


@operator("quantile", "nanquantile")
class Quantile(Mean):
    """Of the sorted entries along a dim; several of them stand along a new first dim."""

    def couple(self, c: Coupler, call: Call) -> Axes | list[Axes]:
        axes = super().couple(c, call)
        several = isinstance(call["q"], fx.Node) and len(shape(call["q"])) > 0
        return tuple(np.asarray(axis)[None] for axis in axes) if several else axes


@operator("sum", "nansum", "norm", "linalg_vector_norm", "linalg_norm", "count_nonzero")
class Sum(Reduction):
    """A sum and a norm lose nothing with a zero, and grow with the number of what is not zero."""

    def loses_nothing(self, call: Call) -> bool:
        order = call["p"] if call.name == "norm" else call["ord"]
        if isinstance(order, str):
            return order == "fro"
        vectors = call.name != "linalg_norm" or len(self.dims(call)) == 1
        return order is None or (vectors and order >= 0)

    def constant(self, k: Constants, call: Call) -> Any:
        x = k.get(call.first)
        if x is None or not continuous(x):
            return None
        if not continuous(call.result):
            return None
        zero = uniform(x, tuple(self.dims(call))).expand(x.shape) == 0
        result = k.run(call, {call.first: torch.where(zero, 0.0, 1.0).double()})
        return zeros_where(result == 0)


@operator("cosine_similarity", "pairwise_distance", "dist")
class Distance(Operator):
    """Between vectors, to which what is zero in both adds nothing."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        a, b = list(call.arguments.values())[:2]
        ndim = len(c.trace.shape(a))
        if len(c.trace.shape(b)) != ndim:
            raise Unsupported("its operands have different numbers of dims")
        dims = {"dist": None, "pairwise_distance": -1}.get(call.name, call["dim"])
        axes, along = c.meet([a, b]), listed(dims, ndim)
        nothing = not call["eps"] or call.name == "cosine_similarity"  # or it is added to each
        for node in (a, b):
            _reduce(c, call, node, along, nothing)
        left = tuple(axis for axis in c.labels.settled(axes) if not set(varying(axis)) & {*along})
        if not call["keepdim"]:
            left = tuple(np.squeeze(axis, tuple(along)) for axis in left)
        return left


@operator("cdist", "_cdist_forward")
class Distances(Operator):
    """Between all rows of one matrix and all of another."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        parts, ndim = (call["x1"], call["x2"]), len(call.shape)
        if c.tie(*(c.vector(x, -1) for x in parts)) is not None:
            for x in parts:
                _reduce(c, call, x, [len(c.trace.shape(x)) - 1], nothing=True)
        batch = [(1,) * (ndim - len(s)) + s[:-2] + (1, 1) for s in map(c.trace.shape, parts)]
        sides = [
            grown(tuple(a for a in c.axes(x) if a.shape[-2] == a.shape[-1] == 1), ndim)
            for x in parts
        ]
        rows = [(c.vector(x, -2), dim) for x, dim in zip(parts, (-2, -1), strict=True)]
        made = (placed(vector, dim, ndim) for vector, dim in rows if vector is not None)
        return (*c.align(batch, sides), *made)


@operator("pdist", "_pdist_forward")
class PairDistances(Operator):
    """Between all pairs of rows."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        c.rigid(call.first, 0)
        _reduce(c, call, call.first, [1], nothing=True)
        return ()


def _reduce(c: Coupler, call: Call, x: fx.Node, dims: list[int], nothing: bool) -> None:
    """Some dims of x are reduced, to which a zero adds `nothing`, or for which all is needed."""
    for dim in dims:
        one = [axis for axis in c.axes(x) if varying(axis) == [dim]]
        if nothing and one:
            c.sites.append(MustVanish(call.node, x, dim, one[0].ravel()))
        elif c.alive(call.node):
            c.rigid(x, dim)
