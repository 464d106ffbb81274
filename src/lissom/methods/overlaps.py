"""Where two penalties may be asked of one weight, and which of their proxes comes first."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lissom.errors import GroupError
from lissom.groups import Groups, Partition
from lissom.penalties import Abilities


def in_order(penalties: Mapping[Groups, Any], *, nests: bool) -> dict[Groups, Any]:
    """A mapping in the order of its proxes, if they are exact one after the other.

    min_w ½‖w − w'‖² + t(κ(w) + Σ_g P(‖w_g‖)) is w_g = s_g·v_g, with v = prox_κ(w') and the scales
    s_g of P's prox at ‖v_g‖, where κ(s·w) = s·κ(w) is a penalty of single weights, such as L1:
    along each direction u the objective is ½ρ² − ρ(⟨u, w'⟩ − tκ(u)) + tP(ρ), and v has the best
    one. So these come first; with L1 and L1 it is the sparse-group lasso.

    Args:
        penalties: {groups: penalty}; what a penalty may be is for a method to say.
        nests: whether the method can have both.

    Raises:
        GroupError: for what is no such mapping, and for any other overlap, naming the tensors.

    Source: Jenatton, Mairal, Obozinski & Bach 2011, *Proximal methods for hierarchical sparse
    coding*, Theorem 1 (norms); Yu 2013, *On decomposing the proximal map*, Theorem 4.
    """
    if not isinstance(penalties, Mapping) or not penalties:
        raise GroupError(f"penalties are a mapping {{groups: penalty}}, got {penalties!r}")
    for groups, penalty in penalties.items():
        if not isinstance(groups, Groups):
            raise GroupError(
                f"penalties are a mapping {{groups: penalty}}, as {{weights(net): L0(1e-4)}}; got "
                f"{groups!r}: {penalty!r}"
            )
    single = {g: p for g, p in penalties.items() if _of_single_weights(g, p)}
    others = {g: p for g, p in penalties.items() if g not in single}
    held = {id(parameter) for block in _blocks(single) for parameter in block.parameters}
    nested = [block for block in _blocks(others) if any(id(p) in held for p in block.parameters)]
    same = [block.name for block in nested if block.single or not nests]
    if twice := [*_twice(single), *_twice(others), *same]:
        raise GroupError(
            f"{', '.join(dict.fromkeys(twice))} is penalised twice; add the penalties with + where "
            "they are of the same groups, or choose disjoint layers with .only() and .without(). "
            "L1 of single weights beside a penalty of the groups they lie in is possible under "
            "'subgradient', and under 'proximal' in the Euclidean metric"
        )
    return {**single, **others} if nested else dict(penalties)


def _of_single_weights(groups: Groups, penalty: Any) -> bool:
    homogeneous = isinstance(penalty, Abilities) and penalty.homogeneous
    return homogeneous and all(block.single for block in groups)


def _blocks(chosen: Iterable[Groups]) -> Iterator[Partition]:
    for groups in chosen:
        yield from groups


def _twice(chosen: Iterable[Groups]) -> Iterator[str]:
    """The names of the blocks of which a tensor was in another choice of groups already."""
    seen: set[int] = set()
    for groups in chosen:
        yield from (b.name for b in groups if any(id(p) in seen for p in b.parameters))
        seen |= {id(parameter) for block in groups for parameter in block.parameters}
