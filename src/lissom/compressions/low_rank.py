"""Weights that are products of two thin matrices: of a given rank, or of the rank that pays."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lissom.arguments import as_annotated, is_number, shown, whole
from lissom.compressions.compressions import Compression, require_finite
from lissom.compressions.forms import Dense, Factors, Form
from lissom.errors import CompressionError
from lissom.penalties import widen


class Factorization(Compression):
    """θ = U·V, for each tensor on its own as a matrix [m, n] of its first dim and all the others.

    The best one of rank r is that of the r largest singular values (Eckart & Young 1936). It knows
    no metric: with weights d ≠ 1 on the entries even rank 1 has no closed form, and is NP-hard
    (Gillis & Glineur 2011). U and V are balanced, U√S and √S·Vᵀ, so that training goes on well from
    both.
    """

    per = "layer"
    has_metric = False
    in_parts = False

    @as_annotated(CompressionError)
    def project(
        self, w: Sequence[Tensor], mu: float, metric: Sequence[Tensor] | None = None
    ) -> list[Form]:
        """The nearest tensors of low rank.

        Returns:
            `Factors`, or `Dense` with the tensor itself where the rank stays full.

        Raises:
            CompressionError: if a tensor has fewer than two dims, or a weight is NaN or infinite,
                or a metric is given.
        """
        if metric is not None:
            raise CompressionError(f"{self} knows no metric: use metric='euclidean' with it")
        for x in w:
            if x.ndim < 2:
                raise CompressionError(
                    f"{self} factors matrices, and was given a tensor of shape {list(x.shape)}: "
                    "choose those with two or more dims, as lissom.weights(model) does"
                )
        require_finite(w, self)
        return [self._factor(x, mu) for x in w]

    @abstractmethod
    def _rank(self, sizes: Tensor, m: int, n: int, mu: float) -> int:
        """The rank to keep, for singular values in descending order, in float64."""

    def _factor(self, x: Tensor, mu: float) -> Form:
        matrix = widen(x).reshape(len(x), math.prod(x.shape[1:]))  # and not −1: it may be empty
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        m, n = matrix.shape
        rank = self._rank(s.double(), m, n, mu)
        if rank >= len(s):
            return Dense(x.clone())
        root = s[:rank].sqrt()
        return Factors(
            (u[:, :rank] * root).to(x.dtype), (root[:, None] * v[:rank]).to(x.dtype), x.shape
        )


@dataclass(frozen=True, repr=False)
class LowRank(Factorization):
    """rank θ ≤ r: the truncated singular value decomposition.

    A tensor whose matrix has no more than r rows or columns is kept as it is. Factors are smaller
    than the tensor where r < m·n/(m + n).

    Args:
        rank: r ≥ 1.

    Raises:
        CompressionError: if it is not a whole number ≥ 1.
    """

    rank: int

    def __post_init__(self) -> None:
        if not whole(self.rank, least=1):
            raise CompressionError(f"LowRank needs a whole rank ≥ 1, got {shown(self.rank)}")

    def _rank(self, sizes: Tensor, m: int, n: int, mu: float) -> int:
        return self.rank


@dataclass(frozen=True, repr=False)
class RankSelection(Factorization):
    """The rank that pays: argmin over r of α·cost·r(m + n) + (μ/2)·Σ_{i>r} σ_i².

    The σ² fall, so it is the number of σ_i with σ_i² > 2·α·cost·(m + n)/μ. It may be 0, all zeros.
    As μ grows, more of them are kept.

    Args:
        alpha: α ≥ 0, the strength: what a unit of cost weighs.
        cost: of one number of U or V: 1 for weights, or the positions at which a convolution
            applies it, for multiplications.

    Raises:
        CompressionError: if α or the cost is negative, infinite or NaN.

    Source: Idelbayev & Carreira-Perpiñán 2020, *Low-rank compression of neural nets: learning the
    rank of each layer* (the C step).
    """

    alpha: float
    cost: float = 1.0
    weighed = True

    def __post_init__(self) -> None:
        for name, number in (("alpha", self.alpha), ("cost", self.cost)):
            if not is_number(number) or not 0 <= number < math.inf:
                raise CompressionError(
                    f"RankSelection needs a finite {name} ≥ 0, got {shown(number)}"
                )

    def _rank(self, sizes: Tensor, m: int, n: int, mu: float) -> int:
        return int((sizes.square() * (mu / 2) > self.alpha * self.cost * (m + n)).sum())
