"""Sizes that networks are made with."""

from lissom.arguments import shown, whole
from lissom.errors import LissomError


def require_whole(name: str, **sizes: object) -> None:
    """Refuse sizes of a network that are no whole numbers ≥ 1.

    Raises:
        LissomError: quoting the first.
    """
    for size, number in sizes.items():
        if not whole(number, least=1):
            raise LissomError(f"{name} needs {size} as a whole number ≥ 1, got {shown(number)}")
