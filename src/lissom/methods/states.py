"""States of methods, as checkpoints have them: what they are made of, and which fit."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lissom.arguments import first_misfit, shown

if TYPE_CHECKING:
    from lissom.methods.method import Method

STATE: dict[str, Any] = {
    "method": str,
    "step": int,
    "finalized_at": int | None,
    "alive": list[Tensor] | None,
    "steps_without": int,
    "groups": list[list[int]],
    "own": Mapping[str, Any],
}


def why_not_its_state(method: "Method", state: object) -> str | None:
    """Why a method cannot go on from a state, as far as that shows outside of its own part."""
    if not isinstance(state, Mapping):
        return f"this is no state of a method: got {shown(state)}"
    if misfit := first_misfit(state, STATE):
        return f"this is no state of a method: {misfit}"
    if state["method"] != method.name:
        return f"the state is of method {state['method']!r}, this is {method.name!r}"
    groups = [list(block.shape) for block in method.blocks()]
    if state["groups"] != groups:
        return (
            f"the state is of groups shaped {state['groups']}, and those here are {groups}: "
            "was it saved with others?"
        )
    if method.finalized and state["finalized_at"] is None:
        return "this method is finalized, and the state is of before: make a new one"
    masks, kept = state["alive"], [list(block.shape) for block in method.kept()]
    if masks is not None and [list(getattr(mask, "shape", ())) for mask in masks] != kept:
        return f"the state has other masks than of groups shaped {kept}"
    return None
