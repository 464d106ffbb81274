"""Sums of products: dense layers, matrix products, attention, and tables of rows."""

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from string import ascii_lowercase, ascii_uppercase
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lissom.coupling.constants import NAN, Constants, Known, spread, zeros_where
from lissom.coupling.contractions import contract
from lissom.coupling.coupler import Coupler, grown
from lissom.coupling.labels import Axes, placed, varying
from lissom.coupling.operators.einsum import SumOfProducts, repeated
from lissom.coupling.ops import Call, concrete, shape
from lissom.coupling.records import Layers, Operator, Unsupported, macs, operator, products
from lissom.coupling.sites import Contraction, Product
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


@operator("matmul", "mm", "bmm", "linalg_matmul", "mv", "dot", "inner")
class Matmul(SumOfProducts):
    """A[…, m, k] · B[…, k, n], where either may be a weight, or a vector."""

    def factors(self, call: Call) -> list[Any]:
        """A and B."""
        return list(call.arguments.values())[:2]

    def letters(self, call: Call) -> tuple[list[str], str]:
        """K is summed over; what is before M and N is broadcast."""
        a, b = self.factors(call)
        if call.name == "inner" and min(len(shape(a)), len(shape(b))) > 0:
            left, right = ascii_lowercase[: len(shape(a)) - 1], ascii_uppercase[: len(shape(b)) - 1]
            return [f"{left}Z", f"{right}Z"], left + right
        before = ascii_lowercase[: max(len(shape(a)), len(shape(b)), 2) - 2]
        left = "K" if len(shape(a)) == 1 else before[len(before) + 2 - len(shape(a)) :] + "MK"
        right = "K" if len(shape(b)) == 1 else before[len(before) + 2 - len(shape(b)) :] + "KN"
        result = before + "M" * ("M" in left) + "N" * ("N" in right)
        return repeated([left, right], result, [a, b])

    def couple(self, c: Coupler, call: Call) -> Axes:
        a, b = self.factors(call)
        vectors = min(len(c.trace.shape(a)), len(c.trace.shape(b))) < 2 or call.name == "inner"
        if not vectors and c.trace.of_weights(b) and len(c.trace.shape(b)) == 2:
            return contract(c, call, a, b, columns=0, rows=1)
        if vectors or c.trace.of_weights(a) or c.trace.of_weights(b):
            return super().couple(c, call)
        return self.of_activations(c, call, a, b)

    def of_activations(self, c: Coupler, call: Call, a: fx.Node, b: fx.Node) -> Axes:
        """As of queries and keys: heads × width is cut along the heads."""
        shapes = [c.trace.shape(a), c.trace.shape(b)]
        _keep_heads(c, a, -1)
        _keep_heads(c, b, -2)
        depth = c.tie(c.vector(a, -1), c.vector(b, -2))
        if depth is not None:
            c.sites.append(
                Contraction(call.node, a, len(shapes[0]) - 1, depth, b, (-2, -1), c.vector(b, -1))
            )
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
        f = torch.inner if call.name == "inner" else torch.matmul
        return k.zeros_alone([a, b], k.layer(call, a, b, None, f))


@operator("baddbmm", "addbmm", "addmv")
class AddedTo(SumOfProducts):
    """y = βc + αA·B; `addbmm` sums over all the pairs of A and B."""

    def factors(self, call: Call) -> list[Any]:
        return list(call.arguments.values())[1:3]

    def letters(self, call: Call) -> tuple[list[str], str]:
        return {
            "baddbmm": (["bMK", "bKN"], "bMN"),
            "addbmm": (["bMK", "bKN"], "MN"),
            "addmv": (["MK", "K"], "M"),
        }[call.name]

    def couple(self, c: Coupler, call: Call) -> Axes:
        added, axes = call["self"], super().couple(c, call)
        sizes = c.trace.shape(added)
        beside = (1,) * (len(call.shape) - len(sizes)) + sizes
        return c.align([call.shape, beside], [axes, grown(c.axes(added), len(call.shape))])

    def constant(self, k: Constants, call: Call) -> Known:
        known, alpha, beta = super().constant(k, call), call["alpha"], call["beta"]
        if known is None or any(isinstance(n, fx.Node) for n in (alpha, beta)):
            return None
        return spread(alpha * known + beta * k.of(call["self"]), call)


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


@operator("embedding_bag", "_embedding_bag")
class EmbeddingBag(Embedding):
    """Sums, means or maxima of rows."""

    def couple(self, c: Coupler, call: Call) -> Any:
        for node in (call["offsets"], call["per_sample_weights"]):
            if node is not None:
                c.pin(node)
        axes = super().couple(c, replace(call, result=call.result[0]))
        return [axes, (), (), axes if call["mode"] == 2 else ()]

    def constant(self, k: Constants, call: Call) -> Any:
        """A column of zeros, since a bag may be empty or its rows be weighed."""
        known = super().constant(k, replace(call, result=call.result[0]))
        return [known if known is None else zeros_where(known == 0), None, None, None]


def _keep_heads(c: Coupler, node: fx.Node, dim: int) -> None:
    """A dim that is summed over, or one of tokens: heads × width is cut along the heads."""
    for axis in c.axes(node):
        if len(varying(axis)) > 1:
            c.labels.rigid(axis, dim % axis.ndim)
            c.heads += c.labels.settled((axis,))
