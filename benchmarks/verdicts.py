"""Whether our figures are better than published ones, as good, or worse."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SLACK = 0.05  # of a size, within which two are the same


@dataclass(frozen=True)
class Found:
    """What our records say of a claim.

    Attributes:
        ours: our figures, in words.
        signs: by what is compared: 1 where ours is better, 0 where it is as good or the claim
            holds, -1 where it is worse or does not.
        seeds: how many there were, in words.
        published: what their figures come to, by our count.
    """

    ours: str
    signs: Mapping[str, int] = field(default_factory=dict)
    seeds: str = ""
    published: str = ""

    @property
    def verdict(self) -> str:
        """In a word, or in two with what each is about."""
        if not self.signs:
            return "not run"
        better, worse = ([k for k, v in self.signs.items() if v == sign] for sign in (1, -1))
        if better and worse:
            return f"beaten in {', '.join(better)}, contradicted in {', '.join(worse)}"
        return "contradicted" if worse else "beaten" if better else "reproduced"


def against(ours: Sequence[float], published: str, *, higher: bool = False) -> int:
    """Our figure over the seeds against one that is printed, lower ones being better.

    The two are the same within the spread over seeds, and within half of the last printed digit.
    """
    number = float(published)
    digits = len(published.partition(".")[2])
    tolerance = max(statistics.stdev(ours) if len(ours) > 1 else 0.0, 0.5 * 10**-digits)
    gain = number - statistics.mean(ours)
    return sign(-gain if higher else gain, tolerance)


def smaller(ours: float, published: float) -> int:
    """Our size against a published one."""
    return sign(published - ours, SLACK * published)


def sign(gain: float, tolerance: float) -> int:
    """1 for a gain, -1 for a loss, 0 for neither."""
    return (gain > tolerance) - (gain < -tolerance)


def holds(claim: bool) -> int:
    """The sign of a claim without a figure."""
    return 0 if claim else -1
