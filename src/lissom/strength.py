"""What a curve goes along: the number that decides how sparse a network becomes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Strength:
    """One number of a penalty or of a method's options, as a curve sees it.

    Attributes:
        label: what it is, on a page and in tables: "λ", "fraction kept".
        ramps: whether it is a size that a training reaches by and by, from that of the point
            before, and so falls from dense to empty; a λ is there at once.
        dense: where such a ramp begins for a network that was never sparse; None for nowhere, so
            that the size is there at once.
        grows: whether it grows from dense to empty, as a λ does; of a number that neither grows nor
            ramps it is not known.
    """

    label: str
    ramps: bool = False
    dense: float | None = None
    grows: bool = False
