"""C steps: θ = the nearest weights that have a compressed form.

    Δ(Θ) = argmin ½‖w − Δ(Θ)‖²_D + (1/μ)·cost(Θ)

A compression is one class with `project(w, mu)`. Penalties compress too, by rescaling groups, and
compressions add up: `TopK(fraction=0.01) + Codebook(2)` keeps 1 % of the weights' corrections
beside a codebook of two values.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lissom.compressions.forms import Dense, Form, Sum
from lissom.errors import CompressionError, LissomError
from lissom.groups import Groups, Partition
from lissom.penalties import METRIC, Abilities, Asked, Penalty, refusal
from lissom.preconditioners import Preconditioner
from lissom.rescaling import rescale
from lissom.running import holding
from lissom.shards import Shard, shard_of, summed

ROUNDS = 30  # of an additive combination; it ends before where nothing improves
ENOUGH = 1e-4  # relative improvement of the distance, below which rounds end


class Compression(Abilities, ABC):
    """A set of weights that take few bits, and the projection onto it.

    What it declares is among `lissom.penalties.Abilities`: `per` says whether "all" tensors are
    compressed together or each "layer" alone, `has_metric` whether `project` knows D ≠ 1, and
    `weighed` whether it has a cost, which is weighed against μ. `in_parts` says whether the form of
    a part of a tensor follows from that of the tensor, as it does for all but factors.
    """

    error: ClassVar[type[LissomError]] = CompressionError
    in_parts: ClassVar[bool] = True

    @abstractmethod
    def project(
        self, w: Sequence[Tensor], mu: float, metric: Sequence[Tensor] | None = None
    ) -> Sequence[Form | Tensor]:
        """argmin over Θ of ½ Σ d (w − Δ(Θ))² + (1/μ)·cost(Θ).

        Args:
            w: tensors that are compressed together, not to be changed. They are on one device.
            mu: μ > 0; only a compression that has a cost depends on it.
            metric: d ≥ 0, shaped like w; None means d = 1.

        Returns:
            For each tensor its form, or simply a new tensor.
        """

    def __add__(self, other: "Compression | Penalty") -> "Additive":
        return Additive((*_parts(self), *_parts(other)))

    def __radd__(self, other: "Compression | Penalty") -> "Additive":
        return Additive((*_parts(other), *_parts(self)))


@dataclass(frozen=True, repr=False)
class Additive(Compression):
    """Δ(Θ) = Σ_i Δ_i(Θ_i): weights that are sums of compressed ones. Made by `+`.

    Found by block coordinate descent: each term in turn takes what the others leave,
    Θ_i ← argmin ½‖(w − Σ_{j≠i} Δ_j(Θ_j)) − Δ_i(Θ_i)‖²_D, which never increases the distance (or,
    where terms have a cost, the distance and that). The terms start from 0 in both orders, and the
    nearer end is kept; it is a local minimum.

    Source: Idelbayev & Carreira-Perpiñán 2021, *More general and effective model compression via
    an additive combination of compressions*.
    """

    parts: tuple["Compression | Penalty", ...]
    shards: tuple[Shard | None, ...] = ()

    @property
    def has_metric(self) -> bool:  # type: ignore[override]
        """Whether all parts know a metric."""
        return all(part.has_metric for part in self.parts)

    @property
    def weighed(self) -> bool:  # type: ignore[override]
        """Whether a part has a cost."""
        return any(part.weighed for part in self.parts)

    def require_groups(self, blocks: Sequence[Asked]) -> None:
        for part in self.parts:
            part.require_groups(blocks)

    def at(self, step: int) -> "Additive":
        return Additive(tuple(part.at(step) for part in self.parts), self.shards)

    def project(
        self, w: Sequence[Tensor], mu: float, metric: Sequence[Tensor] | None = None
    ) -> list[Form]:
        parts = [part for part in self.parts if isinstance(part, Compression)]
        if len(parts) < len(self.parts):
            raise CompressionError(f"{self} is given to lissom.lc with the groups it is for")
        orders = [list(range(len(parts))), list(range(len(parts)))[::-1]]
        ends = [self._descend(parts, order, w, mu, metric) for order in orders]
        return min(ends, key=lambda end: end[0])[1]

    def _descend(
        self,
        parts: Sequence[Compression],
        order: Sequence[int],
        w: Sequence[Tensor],
        mu: float,
        metric: Sequence[Tensor] | None,
    ) -> tuple[float, list[Form]]:
        forms: list[list[Form]] = [[Dense(torch.zeros_like(x)) for x in w] for _ in parts]
        values = [[form.value() for form in found] for found in forms]
        last = torch.inf
        for _ in range(ROUNDS):
            for i in order:
                others = values[:i] + values[i + 1 :]
                rest = [x - _sum(v[n] for v in others) for n, x in enumerate(w)]
                forms[i] = compress(parts[i], rest, mu, metric)
                values[i] = [form.value() for form in forms[i]]
            theta = [_sum(v[n] for v in values) for n in range(len(w))]
            now = distance(w, theta, metric, self.shards)
            last, before = now, last
            if not last < (1 - ENOUGH) * before:
                break
        return last, [Sum([found[n] for found in forms]) for n in range(len(w))]

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))


@dataclass(frozen=True, eq=False, repr=False)
class Rescaled(Compression):
    """A penalty on the norms of groups as a compression: its prox with t = 1/μ."""

    penalty: Penalty
    blocks: tuple[Partition, ...]

    @property
    def has_metric(self) -> bool:  # type: ignore[override]
        return self.penalty.has_metric

    def at(self, step: int) -> "Rescaled":
        return Rescaled(self.penalty.at(step), self.blocks)

    def project(
        self, w: Sequence[Tensor], mu: float, metric: Sequence[Tensor] | None = None
    ) -> list[Form]:
        owners = tensors_of(self.blocks)
        # What is zeroed with a group, such as its bias, is no part of θ.
        copies = {p: p.detach().clone() for block in self.blocks for p in block.scaled}
        copies |= {p: x.clone() for p, x in zip(owners, w, strict=True)}
        found = dict(zip(owners, metric or [], strict=False))

        def metrics(block: Partition) -> list[Preconditioner] | None:
            if metric is None:
                return None
            return [Preconditioner(found[p].square(), 1.0, 0.0) for p in block.parameters]

        with holding(list(copies), list(copies.values())):
            rescale(self.penalty, self.blocks, lambda block: 1 / mu, metrics)
        return [Dense(copies[p]) for p in owners]

    def __repr__(self) -> str:
        return repr(self.penalty)


@dataclass(frozen=True, eq=False, repr=False)
class Gathered(Compression):
    """A compression of tensors of which each process has a part: found in all of them alike.

    Attributes:
        compression: of the whole tensors, which are gathered for it.
        shards: of the tensors.
    """

    compression: Compression
    shards: tuple[Shard | None, ...]

    @property
    def has_metric(self) -> bool:  # type: ignore[override]
        return self.compression.has_metric

    @property
    def weighed(self) -> bool:  # type: ignore[override]
        return self.compression.weighed

    def at(self, step: int) -> "Gathered":
        return Gathered(self.compression.at(step), self.shards)

    def project(
        self, w: Sequence[Tensor], mu: float, metric: Sequence[Tensor] | None = None
    ) -> list[Form]:
        whole, d = (
            None if x is None else [_whole(part, s) for part, s in zip(x, self.shards, strict=True)]
            for x in (w, metric)
        )
        assert whole is not None
        forms = compress(self.compression, whole, mu, d)
        pairs = zip(forms, self.shards, strict=True)
        return [form if s is None else form.changed(s.part) for form, s in pairs]

    def __repr__(self) -> str:
        return repr(self.compression)


def _whole(part: Tensor, shard: Shard | None) -> Tensor:
    return part if shard is None else shard.gathered(part)


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    first, *others = tensors
    return sum(others, first)


def _parts(compression: Compression | Penalty) -> tuple[Compression | Penalty, ...]:
    """What a compression is a sum of: itself, if it is none."""
    if isinstance(compression, Additive):
        return compression.parts
    if isinstance(compression, Abilities):
        return (compression,)
    raise CompressionError(
        f"a compression is a penalty, such as TopK(fraction=0.02), or one of "
        f"lissom.compressions, such as Codebook(2); got {compression!r}"
    )


def bound(compression: Compression | Penalty, groups: Groups) -> Compression:
    """A compression that knows which weights it is for.

    Raises:
        CompressionError: if it compresses whole tensors, and the groups are not cut out of such.
    """
    parts = [
        Rescaled(part, groups.blocks) if isinstance(part, Penalty) else part
        for part in _parts(compression)
    ]
    whole = all(block.whole for block in groups)
    if not whole and not all(isinstance(part, Rescaled) for part in parts):
        raise CompressionError(
            f"{compression!r} compresses whole tensors, but {groups.kind} run through parts of "
            "several: choose tensors by lissom.weights(model)"
        )
    shards = tuple(shard_of(p) for p in tensors_of(groups.blocks))
    if any(shards):
        if not all(part.in_parts for part in parts):
            raise CompressionError(
                f"{compression!r} makes factors of whole matrices, and of these each process has a "
                "part: compress them by a penalty or a codebook, or without sharding"
            )
        parts = [p if isinstance(p, Rescaled) else Gathered(p, shards) for p in parts]
    return parts[0] if len(parts) == 1 else Additive(tuple(parts), shards)


def compress(
    compression: Compression, w: Sequence[Tensor], mu: float, metric: Sequence[Tensor] | None
) -> list[Form]:
    """`project`, for each tensor on its own where the compression holds per layer.

    Raises:
        CompressionError: for a metric that the compression does not know, or a result that is not
            one form of the right shape for each tensor.
    """
    if metric is not None and (what := refusal("a metric", compression, METRIC)):
        raise CompressionError(what)
    if compression.per == "layer":
        alone = [None if metric is None else [metric[i]] for i in range(len(w))]
        made = [
            _forms(compression, [x], compression.project([x], mu, d))
            for x, d in zip(w, alone, strict=True)
        ]
        return [form for each in made for form in each]
    return _forms(compression, w, compression.project(w, mu, metric))


def _forms(compression: Compression, w: Sequence[Tensor], found: object) -> list[Form]:
    """What `project` gave for w, tensors as copies that do not change with w."""
    forms: list[Any] = list(found) if isinstance(found, Iterable) else [found]
    # Of other forms the value is only known once it is computed.
    dense = [form.tensor if isinstance(form, Dense) else form for form in forms]
    shapes = [list(x.shape) if isinstance(x, Tensor) else None for x in dense]
    fits = [s is None or s == list(x.shape) for s, x in zip(shapes, w, strict=False)]
    known = all(isinstance(form, Form | Tensor) for form in forms)
    if len(forms) != len(w) or not all(fits) or not known:
        given = [type(f).__name__ if s is None else s for f, s in zip(forms, shapes, strict=True)]
        raise CompressionError(
            f"{compression!r} was given tensors of shape {[list(x.shape) for x in w]} and gave "
            f"{given}: project returns a form or a tensor for each, of the same shape"
        )
    return [Dense(form.clone()) if isinstance(form, Tensor) else form for form in forms]


def distance(
    w: Sequence[Tensor],
    theta: Sequence[Tensor],
    metric: Sequence[Tensor] | None = None,
    shards: Sequence[Shard | None] = (),
) -> float:
    """‖w − θ‖_D, over all tensors together, and the processes that hold parts of them."""
    squares = [(x.detach() - y).square() for x, y in zip(w, theta, strict=True)]
    if metric is not None:
        squares = [s * d for s, d in zip(squares, metric, strict=True)]
    sums = [s.sum(dtype=torch.float64) for s in squares]
    if any(shards):
        return math.sqrt(float(summed(sums, shards)))
    return math.sqrt(sum(map(float, sums)))


def tensors_of(blocks: Sequence[Partition]) -> list[torch.nn.Parameter]:
    """The parameters that hold the groups of these blocks, each once."""
    return list(dict.fromkeys(p for block in blocks for p in block.parameters))


def require_finite(tensors: Sequence[Tensor], what: object) -> None:
    """Refuse weights that have no nearest compressed ones.

    Raises:
        CompressionError: if any is NaN or infinite.
    """
    for i, tensor in enumerate(tensors):
        if not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise CompressionError(
                f"{what} was given {bad:,} NaN or infinite weights, in tensor {i + 1} of "
                f"{len(tensors)}, of shape {list(tensor.shape)}: has training diverged?"
            )
