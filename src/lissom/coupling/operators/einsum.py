"""Sums of products by letters: each dim of each factor has one, and equal ones meet.

An einsum gives the letters itself; of `bilinear` and the products of matrices with stacked weights
they follow from the shapes.
"""

from collections.abc import Iterator
from math import prod
from string import ascii_letters
from typing import Any

import torch
from torch import Tensor, fx

from lissom.coupling.constants import Constants, Known, product, zeros_where
from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import Axes, Axis, placed
from lissom.coupling.ops import Call, concrete, shape
from lissom.coupling.records import Operator, Unsupported, macs, operator
from lissom.coupling.sites import Contraction, MustVanish, Product
from lissom.groups import Role

Factors = Iterator[tuple[Any, Any, int]]
ALIKE = " "  # the letter of a dim of size 1 that is repeated along another tensor's


class SumOfProducts(Operator):
    """y = Σ a·b·…, over the letters that y does not have."""

    def factors(self, call: Call) -> list[Any]:
        """The operands a, b, …."""
        raise NotImplementedError

    def letters(self, call: Call) -> tuple[list[str], str]:
        """One letter for each dim of each factor, and of the result."""
        raise NotImplementedError

    def couple(self, c: Coupler, call: Call) -> Axes:
        return multiply(c, call, self.factors(call), *self.letters(call))

    def constant(self, k: Constants, call: Call) -> Known:
        """Of activations only zeros, since the sum may be over positions."""
        parts, (terms, right) = self.factors(call), self.letters(call)
        if all(k.get(part) is None for part in parts):
            return None

        def f(*tensors: Tensor) -> Tensor:
            narrow = [_without(x, term) for x, term in zip(tensors, terms, strict=True)]
            left = ",".join(term.replace(ALIKE, "") for term in terms)
            return torch.einsum(f"{left}->{right}", *narrow)

        if len(parts) == 2:
            return k.zeros_alone(parts, product(k.of(parts[0]), k.of(parts[1]), f))
        some = f(*((k.of(part) != 0).double() for part in parts))  # NaN is not zero
        return zeros_where(some == 0)

    def macs(self, call: Call) -> Factors:
        """Two by two; what one factor alone sums over is summed before anything is multiplied."""
        (terms, right), parts = self.letters(call), self.factors(call)
        sizes = {
            letter: n
            for term, part in zip(terms, parts, strict=True)
            for letter, n in zip(term, shape(part), strict=True)
        }
        todo: list[tuple[Any, str]] = list(zip(parts, terms, strict=True))
        path = list(concrete(call["path"]) or [])
        while len(todo) > 1:
            i, j = path[:2] or (0, 1)
            path = path[2:]
            (a, left), (b, other) = todo[i], todo[j]
            todo = [one for n, one in enumerate(todo) if n not in (i, j)]
            later = right + "".join(term for _, term in todo)
            both = set(left) & set(other) - {ALIKE}
            kept = [n for n in dict.fromkeys(left + other) if n in later or n in both]
            yield a, b, prod(sizes[n] for n in kept if n != ALIKE)
            todo.append((None, "".join(n for n in kept if n in later)))


@operator("einsum")
class Einsum(SumOfProducts):
    """Factors whose letters are given."""

    def factors(self, call: Call) -> list[Any]:
        return list(call["tensors"])

    def letters(self, call: Call) -> tuple[list[str], str]:
        left, arrow, right = str(call["equation"]).replace(" ", "").partition("->")
        terms, parts = left.split(","), self.factors(call)
        ndims = [
            len(shape(p)) - len(t.replace("...", "")) for t, p in zip(terms, parts, strict=True)
        ]
        used = set(left)
        free = "".join(n for n in ascii_letters if n not in used)[: max(ndims)]
        if not arrow:
            dots = "..." if "..." in left else ""
            right = dots + "".join(sorted(n for n in used - {",", "."} if left.count(n) == 1))
        terms = [
            t.replace("...", free[len(free) - n :] if n else "")
            for t, n in zip(terms, ndims, strict=True)
        ]
        right = right.replace("...", free)
        if any(len(set(term)) < len(term) for term in [*terms, right]):
            raise Unsupported("a letter comes twice in one factor")
        return repeated(terms, right, parts)


@operator("bilinear")
class Bilinear(SumOfProducts):
    """y_o = Σ a_i w_oij b_j + bias_o."""

    def factors(self, call: Call) -> list[Any]:
        return [call["input1"], call["weight"], call["input2"]]

    def letters(self, call: Call) -> tuple[list[str], str]:
        before = ascii_letters[: len(call.shape) - 1]
        return [before + "I", "OIJ", before + "J"], before + "O"

    def couple(self, c: Coupler, call: Call) -> Axes:
        axes, bias = super().couple(c, call), call["bias"]
        if bias is not None:
            c.align([call.shape] * 2, [axes, _last(c, bias, len(call.shape))])
        return c.labels.settled(axes)

    def constant(self, k: Constants, call: Call) -> Known:
        known, bias = super().constant(k, call), call["bias"]
        return known if known is None or bias is None else known + k.of(bias)

    def sizes(self, call: Call, shape: Any) -> dict[str, int]:
        rows, first, second = shape(call["weight"])
        return {"in1_features": first, "in2_features": second, "out_features": rows}

    def macs(self, call: Call) -> Factors:
        yield call["input1"], call["weight"], prod(call.shape) * prod(shape(call["weight"])[1:])


def multiply(c: Coupler, call: Call, parts: list[fx.Node], terms: list[str], right: str) -> Axes:
    """Letters that meet shrink together; one that is summed over is read."""
    weights = [part for part in parts if c.trace.of_weights(part)]
    everywhere = "".join(terms)
    result: list[Axis] = []
    work = macs(call)
    for letter in dict.fromkeys(everywhere.replace(ALIKE, "")):
        found = [(p, t.index(letter)) for p, t in zip(parts, terms, strict=True) if letter in t]
        tied = c.tie(*(c.vector(part, dim) for part, dim in found))
        if letter not in right and len(found) > 1:
            found.sort(key=lambda end: end[0] in weights)
            if found[-1][0] in weights:
                c.mark(*found[-1], Role.CUT)
            if found[0][0] in weights:  # one weight makes what another reads
                c.mark(*found[0], Role.NORM)
        if tied is None:
            continue
        if letter in right:
            result.append(placed(tied, right.index(letter), len(right)))
        elif len(found) == 1:
            c.sites.append(MustVanish(call.node, *found[0], tied))
        else:
            (source, dim), (other, inner) = found[0], found[-1]
            outer = None
            if other in weights and len(found) == 2:
                term = terms[parts.index(other)]
                own = [n for n in term if n in right and everywhere.count(n) == 1]
                outer = term.index(own[-1]) if own else None
            rows = None if outer is None else c.vector(other, outer)
            site = Contraction(call.node, source, dim, tied, other, (inner, outer), rows)
            c.sites.append(site)
            if work:
                dims = tuple(range(-len(right), 0))
                c.products.append(Product(call.node, work, dims, tied))
                work = 0
    for part, term in zip(parts, terms, strict=True):
        for dim, letter in enumerate(term if part in weights else ""):
            if letter in right and letter != ALIKE:
                alone = everywhere.count(letter) == 1
                c.mark(part, dim, Role.NORM if alone else Role.ZEROED)
    return c.labels.settled(tuple(result))


def repeated(terms: list[str], right: str, parts: list[Any]) -> tuple[list[str], str]:
    """Dims of size 1 that meet larger ones are alike for all of them."""
    sizes = [list(zip(t, shape(p), strict=True)) for t, p in zip(terms, parts, strict=True)]
    largest: dict[str, int] = {}
    for letter, n in (one for term in sizes for one in term):
        largest[letter] = max(n, largest.get(letter, 1))
    marked = ["".join(a if n == largest[a] else ALIKE for a, n in term) for term in sizes]
    return marked, right


def _without(x: Tensor, term: str) -> Tensor:
    """Without the dims that are alike for all of another's."""
    return x.squeeze([d for d, letter in enumerate(term) if letter == ALIKE])


def _last(c: Coupler, bias: fx.Node, ndim: int) -> Axes:
    vector = c.vector(bias, -1)
    return () if vector is None else (placed(vector, -1, ndim),)
