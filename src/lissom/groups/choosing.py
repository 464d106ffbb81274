"""What may vanish: a choice of groups, and how layers are chosen from it."""

from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from lissom.arguments import as_annotated, fits, shown
from lissom.errors import GroupError, nearest
from lissom.groups.partitions import Partition
from lissom.groups.printing import groups_table

Choice = str | type[nn.Module] | Callable[[Partition], bool]


class Groups:
    """A choice of groups of weights, each of which lives or dies as one.

    Made by `weights(model)`, `kernels(model)`, `channels(model, example_inputs)` and so on,
    narrowed by `only` and `without`, printed as a table, and used as the key of a
    `{groups: penalty}` mapping.

    Attributes:
        kind: what a group is: "weights", "kernels", "columns", "tiles", "channels",
            "neurons" or "heads".
        blocks: the partitions they are made of, one for each tensor or family of units.
    """

    @as_annotated(GroupError)
    def __init__(self, kind: str, blocks: Iterable[Partition]) -> None:
        self.kind = kind
        self.blocks = tuple(blocks)
        if not self.blocks:
            raise GroupError(f"no {kind} to choose from: the model has no parameter of that kind")

    @as_annotated(GroupError, "choices")
    def only(self, *choices: Choice) -> "Groups":
        """The groups of the layers that match any of the choices.

        Args:
            choices: a name pattern ("features.*", "fc1": the module or parameter of that name and
                all below it), a module class, or a function of a block.

        Raises:
            GroupError: if a choice matches nothing.
        """
        chosen = self._matched(choices)
        return Groups(self.kind, (block for block in self.blocks if block in chosen))

    @as_annotated(GroupError, "choices")
    def without(self, *choices: Choice) -> "Groups":
        """The groups of the layers that match none of the choices (see `only`)."""
        matched = self._matched(choices)
        left = [block for block in self.blocks if block not in matched]
        if not left:
            raise GroupError(f"without({_quoted(choices)}) leaves no {self.kind} at all")
        return Groups(self.kind, left)

    @as_annotated(GroupError)
    def of(self, model: nn.Module) -> "Groups":
        """The same groups, of a model that has other tensors under the same names.

            units = lissom.units(net, example_inputs)  # the pass through the graph needs it whole
            fully_shard(net)                           # which puts DTensors in the place of weights
            units = units.of(net)

        Args:
            model: the one they were chosen from, or another of the same shapes, such as a copy.

        Raises:
            GroupError: naming what it does not have, or not of this shape.
        """
        return Groups(self.kind, [block.of(model) for block in self.blocks])

    def norms(self) -> list[Tensor]:
        """The norm of every group, a tensor for each block.

        Where processes share a block, and each has some of its groups, these are its own.
        """
        return [block.norms() for block in self.blocks]

    @as_annotated(GroupError)
    def scale_(self, scales: Iterable[Tensor]) -> None:
        """Multiply every group by its scale, given as `norms` gives the norms.

        Raises:
            GroupError: if they are not shaped like the norms.
        """
        given = list(scales)
        shapes = [list(getattr(scale, "shape", ())) for scale in given]
        own = [list(block.shape_here) for block in self.blocks]
        if shapes != own or not all(fits(s, Tensor) and s.dtype != torch.bool for s in given):
            raise GroupError(f"scales are tensors shaped like the norms, {own}, got {shown(given)}")
        for block, scale in zip(self.blocks, given, strict=True):
            block.scale_(scale)

    def cost(self) -> list[Tensor]:
        """The number of weights in every group, given as `norms` gives the norms."""
        return [block.cost() for block in self.blocks]

    def __len__(self) -> int:
        return sum(block.shape.numel() for block in self.blocks)

    def __iter__(self) -> Iterator[Partition]:
        return iter(self.blocks)

    def __str__(self) -> str:
        alive = [b.count(norms != 0) for b, norms in zip(self, self.norms(), strict=True)]
        return groups_table(self.kind, self.blocks, alive)

    def __repr__(self) -> str:
        return f"<{len(self):,} {self.kind} in {len(self.blocks)} blocks>"

    def _matched(self, choices: tuple[Choice, ...]) -> list[Partition]:
        if not choices:
            raise GroupError("name at least one layer: a pattern, a module class or a function")
        matched: list[Partition] = []
        for choice in choices:
            if not fits(choice, Choice) or isinstance(choice, nn.Module):
                raise GroupError(
                    "groups are chosen by a name pattern, a module class or a function of a block, "
                    f"got {shown(choice)}"
                )
            found = [block for block in self.blocks if _matches(block, choice)]
            if not found:
                names = [p for b in self.blocks for name in b.names for p in _prefixes(name)]
                help_ = nearest(choice, names) if isinstance(choice, str) else f" Among:\n{self}"
                raise GroupError(f"{_quoted([choice])} matches none of the {self.kind}.{help_}")
            matched += found
        return matched


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _matches(block: Partition, choice: Choice) -> bool:
    if isinstance(choice, str):
        return any(fnmatchcase(p, choice) for name in block.names for p in _prefixes(name))
    if isinstance(choice, type):
        return isinstance(block.module, choice)
    return bool(choice(block))


def _quoted(choices: Iterable[Choice]) -> str:
    return ", ".join(
        repr(choice) if isinstance(choice, str) else getattr(choice, "__name__", repr(choice))
        for choice in choices
    )
