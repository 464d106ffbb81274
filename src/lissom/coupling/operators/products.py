"""Sums of products: dense layers, matrix products, attention, and tables of rows."""

from collections.abc import Iterator
from math import prod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lissom.coupling.constants import NAN, Constants, Known, product
from lissom.coupling.contractions import contract
from lissom.coupling.coupler import Coupler, grown
from lissom.coupling.labels import Axes, Axis, placed, varying
from lissom.coupling.ops import Call, concrete, shape
from lissom.coupling.records import Layers, Operator, Unsupported, macs, operator, products
from lissom.coupling.sites import Contraction, MustVanish, Product
from lissom.groups import Role

Factors = Iterator[tuple[Any, Any, int]]


@operator("linear")
class Linear(Operator):
    """y = x Wᵀ + b."""

    # nn.MultiheadAttention reads the weight of its `out_proj` and never calls it.
    layers: ClassVar[Layers] = {
        nn.Linear: ("in_features", -1),
        NonDynamicallyQuantizableLinear: None,
    }

    def couple(self, c: Coupler, call: Call) -> Axes:
        return contract(c, call, call["input"], call["weight"], bias=call["bias"])

    def constant(self, k: Constants, call: Call) -> Known:
        return k.layer(call, call["input"], call["weight"], call["bias"], F.linear)

    def sizes(self, call: Call, shape: Any) -> dict[str, int]:
        return {"in_features": shape(call["input"])[-1], "out_features": shape(call.node)[-1]}

    def macs(self, call: Call) -> Factors:
        yield call["input"], call["weight"], prod(call.shape) * shape(call["weight"])[-1]


@operator("addmm")
class Addmm(Operator):
    """y = βb + αx W."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        bias = call["self"]
        if call["alpha"] != 1 or call["beta"] != 1 or len(c.trace.shape(bias)) != 1:
            c.pin(bias)
            bias = None
        return contract(c, call, call["mat1"], call["mat2"], columns=0, rows=1, bias=bias)

    def constant(self, k: Constants, call: Call) -> Known:
        if call["alpha"] != 1 or call["beta"] != 1:
            raise Unsupported("its terms have factors")
        return k.layer(call, call["mat1"], call["mat2"], call["self"], torch.matmul)

    def sizes(self, call: Call, shape: Any) -> dict[str, int]:
        return {"nx": shape(call["mat1"])[-1], "nf": shape(call.node)[-1]}

    def macs(self, call: Call) -> Factors:
        yield call["mat1"], call["mat2"], prod(call.shape) * shape(call["mat1"])[-1]


@operator("baddbmm")
class Baddbmm(Operator):
    """y = βb + αA·B, many times."""

    def macs(self, call: Call) -> Factors:
        yield call["batch1"], call["batch2"], prod(call.shape) * shape(call["batch1"])[-1]


@operator("matmul", "mm", "bmm")
class Matmul(Operator):
    """A[…, m, k] · B[…, k, n], where either may be a weight."""

    def factors(self, call: Call) -> tuple[Any, Any]:
        """A and B."""
        return call["self"], call["mat2"] if call["other"] is None else call["other"]

    def couple(self, c: Coupler, call: Call) -> Axes:
        a, b = self.factors(call)
        shapes = [c.trace.shape(a), c.trace.shape(b)]
        if min(map(len, shapes)) < 2:
            raise Unsupported("it multiplies with a vector")
        if c.trace.of_weights(b) and len(shapes[1]) == 2:
            return contract(c, call, a, b, columns=0, rows=1)
        _keep_heads(c, a, -1)
        _keep_heads(c, b, -2)
        depth = c.tie(c.vector(a, -1), c.vector(b, -2))
        if depth is not None:
            source, other, dims = (b, a, (-1, -2)) if c.trace.of_weights(a) else (a, b, (-2, -1))
            rows = c.vector(other, dims[1])
            if c.trace.of_weights(other):
                c.mark(other, dims[0], Role.CUT)
                c.mark(other, dims[1], Role.NORM)
            dim = -1 if source is a else -2
            c.sites.append(Contraction(call.node, source, dim, depth, other, dims, rows))
        ndim = len(call.shape)
        c.products.append(Product(call.node, macs(call), tuple(range(-ndim, 0)), depth))
        batch = [(1,) * (ndim - len(s)) + s[:-2] + (1, 1) for s in shapes]
        sides = [
            grown(tuple(axis for axis in c.axes(node) if axis.shape[dim] == 1), ndim)
            for node, dim in ((a, -1), (b, -2))
        ]
        return c.align(batch, sides)

    def constant(self, k: Constants, call: Call) -> Known:
        """Of two activations only zeros, since the sum may be over positions."""
        a, b = self.factors(call)
        return k.zeros_alone([a, b], k.layer(call, a, b, None, torch.matmul))

    def macs(self, call: Call) -> Factors:
        a, b = self.factors(call)
        yield a, b, prod(call.shape) * shape(a)[-1]


@operator("scaled_dot_product_attention")
class Attention(Operator):
    """softmax(Q Kᵀ / √d) V: heads go, their width and the tokens stay."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        q, k, v, mask = (call[name] for name in ("query", "key", "value", "attn_mask"))
        for node, *dims in ((q, -1, -2), (k, -1, -2), (v, -2), (mask, -1, -2)):
            if node is not None:
                c.rigid(node, *dims)
        ndim = len(call.shape)
        shapes, sides = [], []
        for node in filter(None, (q, k, v, mask)):
            sizes = (1,) * (ndim - len(c.trace.shape(node))) + c.trace.shape(node)
            axes = grown(c.axes(node), ndim)
            if call["enable_gqa"] and node in (k, v) and ndim > 2:
                times = call.shape[-3] // sizes[-3]
                axes = tuple(a.repeat(times, -3) if a.shape[-3] > 1 else a for a in axes)
                sizes = (*sizes[:-3], sizes[-3] * times, *sizes[-2:])
            shapes.append((*sizes[:-2], 1, 1))
            sides.append(axes)
        met = c.align(shapes, sides)
        c.heads += [axis for axis in met if ndim > 2 and axis.shape[-3] > 1]
        (*_, scores), (*_, values) = products(call)
        c.products.append(Product(call.node, scores, (-3,)))
        c.products.append(Product(call.node, values, (-3, -1)))
        return met

    def constant(self, k: Constants, call: Call) -> Known:
        """A weighted mean of equal values is that value; a mask may leave no key, and then zero."""
        value, out = k.get(call["value"]), call.shape
        if value is None or float(concrete(call["dropout_p"]) or 0):
            return None
        first = value[..., :1, :]
        known = torch.where((value == first).all(-2, keepdim=True), first, NAN)
        if call["attn_mask"] is not None:
            known = torch.where(known == 0, known, NAN)
        if call["enable_gqa"] and len(out) > 2:
            known = known.repeat_interleave(out[-3] // known.shape[-3], -3)
        return known.expand(out)

    def macs(self, call: Call) -> Factors:
        q, k, v = call["query"], call["key"], call["value"]
        tokens = shape(k)[-2]
        yield q, k, tokens * prod(shape(q))
        yield None, v, tokens * prod(call.shape)


@operator("einsum")
class Einsum(Operator):
    """One or two factors, whose letters that meet shrink together."""

    def terms(self, call: Call) -> tuple[list[str], str]:
        """The letters of each operand, and of the result."""
        left, arrow, right = str(call["equation"]).replace(" ", "").partition("->")
        terms = left.split(",")
        if not arrow or "." in left or len(terms) > 2:
            raise Unsupported("its equation has more than two factors, dots, or no result")
        if any(len(set(term)) < len(term) for term in [*terms, right]):
            raise Unsupported("a letter comes twice in one factor")
        return terms, right

    def couple(self, c: Coupler, call: Call) -> Axes:
        """A letter that is summed over is read."""
        (terms, right), parts = self.terms(call), list(call["tensors"])
        weights = [part for part in parts if c.trace.of_weights(part)]
        result: list[Axis] = []
        work = macs(call)
        for letter in dict.fromkeys("".join(terms)):
            found = [(p, t.index(letter)) for p, t in zip(parts, terms, strict=True) if letter in t]
            tied = c.tie(*(c.vector(part, dim) for part, dim in found))
            if tied is None:
                continue
            if letter in right:
                result.append(placed(tied, right.index(letter), len(right)))
            elif len(found) == 1:
                c.sites.append(MustVanish(call.node, *found[0], tied))
            else:
                (source, dim), (other, inner) = sorted(found, key=lambda end: end[0] in weights)
                if other in weights:
                    c.mark(other, inner, Role.CUT)
                site = Contraction(call.node, source, dim, tied, other, (inner, None), None)
                c.sites.append(site)
                if work:
                    dims = tuple(range(-len(right), 0))
                    c.products.append(Product(call.node, work, dims, tied))
                    work = 0
        for part, term in zip(parts, terms, strict=True):
            for dim, letter in enumerate(term if part in weights else ""):
                if letter in right:
                    alone = sum(letter in other for other in terms) == 1
                    c.mark(part, dim, Role.NORM if alone else Role.ZEROED)
        return c.labels.settled(tuple(result))

    def constant(self, k: Constants, call: Call) -> Known:
        parts = list(call["tensors"])
        if len(parts) != 2:
            return k.all_known(call)  # type: ignore[no-any-return]

        def multiplied(a: Tensor, b: Tensor) -> Tensor:
            return torch.einsum(str(call["equation"]), a, b)

        if all(k.get(part) is None for part in parts):
            return None
        return k.zeros_alone(parts, product(k.of(parts[0]), k.of(parts[1]), multiplied))

    def macs(self, call: Call) -> Factors:
        """What one factor alone sums over is summed before anything is multiplied."""
        (terms, right), parts = self.terms(call), list(call["tensors"])
        if len(terms) == 2:
            sizes: dict[str, int] = {}
            for term, part in zip(terms, parts, strict=True):
                sizes |= dict(zip(term, shape(part), strict=True))
            once = [
                n
                for letter, n in sizes.items()
                if letter in right or "".join(terms).count(letter) == 2
            ]
            yield *parts, prod(once)


@operator("embedding")
class Embedding(Operator):
    """One row for each word; the columns are units."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        table = call["weight"]
        c.pin(call["indices"])
        c.rigid(table, 0)
        c.mark(table, 1, Role.NORM)
        columns = c.vector(table, 1)
        return () if columns is None else (placed(columns, -1, len(call.shape)),)

    def constant(self, k: Constants, call: Call) -> Known:
        """A column that is the same for all words."""
        table = k.get(call["weight"])
        if table is None:
            return None
        return torch.where((table == table[:1]).all(0), table[0], NAN).expand(call.shape)

    def sizes(self, call: Call, shape: Any) -> dict[str, int]:
        return {"embedding_dim": shape(call["weight"])[1]}


def _keep_heads(c: Coupler, node: fx.Node, dim: int) -> None:
    """A dim that is summed over, or one of tokens: heads × width is cut along the heads."""
    for axis in c.axes(node):
        if len(varying(axis)) > 1:
            c.labels.rigid(axis, dim % axis.ndim)
            c.heads += c.labels.settled((axis,))
