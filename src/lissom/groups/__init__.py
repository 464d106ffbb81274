"""What lives or dies together: groups of weights, their norms, and the scale that decides.

A `Groups` object is a choice of partitions. A partition is one tensor, or several that are coupled,
with a group number for each entry. Whatever the groups are, penalties and algorithms see only
`norms()`, `scale_()`, `weighted()` and `cost()`.
"""

from lissom.groups.choosing import Choice, Groups
from lissom.groups.making import blocks, columns, kernels, partition, tiles, weights
from lissom.groups.members import Member, Role, Spread
from lissom.groups.partitions import Partition, met_first

__all__ = [
    "Choice",
    "Groups",
    "Member",
    "Partition",
    "Role",
    "Spread",
    "blocks",
    "columns",
    "kernels",
    "met_first",
    "partition",
    "tiles",
    "weights",
]
