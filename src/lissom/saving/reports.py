"""The report of `shrink` as data, so that a network that is read has it too."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from lissom.coupling import Pin
from lissom.shrinking import Shrinkage, Surgery
from lissom.shrinking.report import Kept

Index = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True)
class ReportRecord:
    """What a file says of how its network came about, in the words of `Shrinkage`.

    Attributes:
        keep: for each tensor that was cut, by dim: the indices that stayed.
    """

    families: list[tuple[str, str, int, int]]
    weights: tuple[int, int]
    folded: int
    shared: int
    kept: list[Kept]
    pinned_by: dict[str, int]
    reasons: dict[str, str]
    pins: list[Pin]
    difference: float
    tolerance: float
    attributes: dict[str, tuple[int, int]]
    keep: dict[str, dict[int, list[Index]]] = field(default_factory=dict)


def record_of_report(shrinkage: Shrinkage) -> dict[str, Any]:
    """A report as plain values."""
    told = {f.name: getattr(shrinkage, f.name) for f in fields(ReportRecord)}
    told["keep"] = {
        name: {dim: indices.tolist() for dim, indices in dims.items()}
        for name, dims in shrinkage.keep.items()
    }
    return asdict(ReportRecord(**told))


def report_of(
    told: ReportRecord | None, net: nn.Module, surgery: Surgery, *, as_graph: bool
) -> Shrinkage:
    """The report of a network that was read.

    Args:
        told: None in files of earlier versions; then only the surgery and the size are known.
        net: the small network.
        surgery: how it is cut out of a large one; the indices that stayed are added to it.
        as_graph: whether it is a traced graph.
    """
    now = sum(parameter.numel() for parameter in net.parameters())
    told = told or ReportRecord(
        [], (now, now), 0, 0, [], {}, {}, [], difference=math.nan, tolerance=math.nan, attributes={}
    )
    for name, dims in told.keep.items():
        surgery.keep[name] = {
            dim: torch.tensor(stays, dtype=torch.int64) for dim, stays in dims.items()
        }
    return Shrinkage(
        families=tuple(told.families),
        weights=told.weights,
        folded=told.folded,
        shared=told.shared,
        kept=tuple(told.kept),
        pinned_by=told.pinned_by,
        reasons=told.reasons,
        pins=tuple(told.pins),
        difference=told.difference,
        tolerance=told.tolerance,
        as_graph=as_graph,
        attributes=told.attributes,
        surgery=surgery,
        example_inputs=None,
    )
