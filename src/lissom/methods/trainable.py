"""Weights that no method can make zero: what is complex, mostly, and what makes weights."""

from typing import Any

from lissom.errors import MethodError
from lissom.groups import Groups
from lissom.parametrized import why_not


def require_trainable(groups: Groups, penalty: Any, method: str, *, of_complex: bool) -> None:
    """Refuse complex weights where real ones are known alone, and what makes weights.

    Args:
        groups: of the weights.
        penalty: that is asked of them; one of signed numbers knows real ones alone.
        method: its name.
        of_complex: whether the method knows complex weights.

    Raises:
        MethodError: naming the first, and what works.
    """
    signed = getattr(penalty, "signed", False)
    for block in groups.blocks:
        for member in block.normed:
            if member.tensor.is_complex() and (signed or not of_complex):
                raise MethodError(
                    f"{member.name} is complex, and {penalty if signed else method} knows "
                    "real weights only: proximal(…, metric='euclidean') takes |w| as the size "
                    "of a weight; or keep real and imaginary parts in parameters of their own"
                )
            if why := why_not(block.module, member.tensor):
                raise MethodError(f"a penalty on {member.name} cannot be: {why}")
