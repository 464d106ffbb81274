"""Weights that take few values: learned codebooks, binary and ternary ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lissom.arguments import as_annotated, shown, whole
from lissom.compressions.compressions import Compression, require_finite
from lissom.compressions.forms import Form, Quantized
from lissom.compressions.kmeans import kmeans, sums, weighted
from lissom.errors import CompressionError
from lissom.penalties import Per, check_per, widen


class Quantization(Compression):
    """θ_i ∈ C for few values C, one codebook for all tensors that come together.

    Weights of half precision are looked at in float32, and the codebook has the weights' dtype.
    """

    @as_annotated(CompressionError)
    def project(
        self, w: Sequence[Tensor], mu: float, metric: Sequence[Tensor] | None = None
    ) -> list[Form]:
        """The nearest quantized tensors.

        Raises:
            CompressionError: if a weight is NaN or infinite, or d is not ≥ 0 and finite.
        """
        require_finite(w, self)
        if metric is not None:
            _check_metric(metric, w, self)
        return self._quantize(w, metric)

    def _quantize(self, w: Sequence[Tensor], metric: Sequence[Tensor] | None) -> list[Form]:
        raise NotImplementedError

    def __post_init__(self) -> None:
        check_per(self, "all", "layer")


@dataclass(frozen=True, repr=False)
class Codebook(Quantization):
    """A learned codebook of k values: θ_i = c_{κ(i)}, with c and κ that minimise Σ d (w − θ)².

    Found as `kmeans` says: exactly for few different weights, else very nearly so. Of fewer
    than k different weights the codebook holds these.

    Args:
        k: values, ≥ 1. Each weight takes ⌈log2 k⌉ bits.
        per: "all" tensors have one codebook, or each "layer" has its own.

    Raises:
        CompressionError: if k is not a whole number ≥ 1.

    Source: Carreira-Perpiñán & Idelbayev 2017, *Model compression as constrained optimization,
    with application to neural nets. Part II: quantization* (adaptive codebook, there by k-means++).
    """

    k: int
    per: Per = field(default="all", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not whole(self.k, least=1):
            raise CompressionError(
                f"Codebook needs a whole number of values k ≥ 1, got {shown(self.k)}"
            )

    def _quantize(self, w: Sequence[Tensor], metric: Sequence[Tensor] | None) -> list[Form]:
        if not any(x.numel() for x in w):
            return [Quantized(x.flatten(), x.to(torch.uint8)) for x in w]
        centers, edges = kmeans(_vector(w), self.k, None if metric is None else _vector(metric))
        kind = index_dtype(len(centers))
        indices = (torch.bucketize(x.to(edges), edges, out_int32=True).to(kind) for x in w)
        return [Quantized(centers.to(x.dtype), i) for x, i in zip(w, indices, strict=True)]


@dataclass(frozen=True, repr=False)
class Binary(Quantization):
    """θ_i ∈ {−1, +1}: the sign, whatever d; of 0 it is +1.

    Source: Carreira-Perpiñán & Idelbayev 2017, Part II (binarization).
    """

    def _quantize(self, w: Sequence[Tensor], metric: Sequence[Tensor] | None) -> list[Form]:
        return [Quantized(_scaled(x, 1.0, (-1, 1)), (x >= 0).to(torch.uint8)) for x in w]


@dataclass(frozen=True, repr=False)
class ScaledBinary(Quantization):
    """θ_i ∈ {−c, +c} with the best c: the signs, and c = Σ d|w| / Σ d.

    The sign of 0 is +1.

    Args:
        per: "all" tensors have one scale, or each "layer" has its own.

    Source: Carreira-Perpiñán & Idelbayev 2017, Part II (binarization with scale).
    """

    per: Per = field(default="all", kw_only=True)

    def _quantize(self, w: Sequence[Tensor], metric: Sequence[Tensor] | None) -> list[Form]:
        sizes = [widen(x).abs() for x in w]
        if metric is None or not any(bool(d.any()) for d in metric):
            weight: float = sum(x.numel() for x in w)
        else:
            weight = sum(float(d.sum(dtype=torch.float64)) for d in metric)
            sizes = [x.mul_(d) for x, d in zip(sizes, metric, strict=True)]
        total = sum(float(x.sum(dtype=torch.float64)) for x in sizes)
        c = total / weight if weight else 0.0
        return [Quantized(_scaled(x, c, (-1, 1)), (x >= 0).to(torch.uint8)) for x in w]


@dataclass(frozen=True, repr=False)
class ScaledTernary(Quantization):
    """θ_i ∈ {−c, 0, +c} with the best c.

    With |w| in descending order the m first weights are kept, where (Σ_{i≤m} d|w|)² / Σ_{i≤m} d
    is largest, and c = Σ_{i≤m} d|w| / Σ_{i≤m} d. Every m is tried.

    Args:
        per: "all" tensors have one scale, or each "layer" has its own.

    Source: Carreira-Perpiñán & Idelbayev 2017, Part II (ternarization with scale).
    """

    per: Per = field(default="all", kw_only=True)

    def _quantize(self, w: Sequence[Tensor], metric: Sequence[Tensor] | None) -> list[Form]:
        if not any(x.numel() for x in w):
            return [Quantized(_scaled(x, 0.0, (-1, 0, 1)), x.to(torch.uint8)) for x in w]
        falling, d = weighted(-_vector(w).abs(), None if metric is None else _vector(metric))
        weights, totals = (sum[1:] for sum in sums(falling, d))
        last = (totals.square() / weights).argmax()
        c, least = float(-totals[last] / weights[last]), float(-falling[last])
        return [
            Quantized(
                _scaled(x, c, (-1, 0, 1)),
                (x.sign() * (x.abs() >= least) + 1).to(torch.uint8),
            )
            for x in w
        ]


def index_dtype(k: int) -> torch.dtype:
    """The smallest integers that number k values."""
    if k <= 2**8:
        return torch.uint8
    return torch.int16 if k <= 2**15 else torch.int32


def _vector(tensors: Sequence[Tensor]) -> Tensor:
    """All numbers of some tensors, float32 or wider."""
    return torch.cat([widen(tensor).flatten() for tensor in tensors])


def _check_metric(metric: Sequence[Tensor], w: Sequence[Tensor], what: object) -> None:
    """Refuse weights of weights that give no distance."""
    shapes = [list(d.shape) for d in metric], [list(x.shape) for x in w]
    if shapes[0] != shapes[1]:
        raise CompressionError(f"{what}: the metric has shapes {shapes[0]}, weights {shapes[1]}")
    for i, d in enumerate(metric):
        if not bool((d.isfinite() & (d >= 0)).all()):
            raise CompressionError(
                f"{what} needs a metric d ≥ 0, and that of tensor {i + 1} of {len(metric)} has "
                "negative, NaN or infinite entries"
            )


def _scaled(like: Tensor, c: float, values: Sequence[int]) -> Tensor:
    return like.new_tensor(values) * c + 0.0  # −0 as 0
