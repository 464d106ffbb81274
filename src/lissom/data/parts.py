"""What a reader of files is asked for, and gives: columns by name, and x and y by part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lissom.errors import DataError, nearest


@dataclass(frozen=True, eq=False)
class Parts:
    """x and y of "train", and of "valid" and "test" where the files have them.

    Attributes:
        columns: the two arrays of each part.
        names: of the classes, where the files say them.
    """

    columns: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Columns:
    """Which columns are wanted, and how large images.

    Attributes:
        target: to be predicted; None if it was not said.
        inputs: to predict from; None for all others.
        size: (height, width) of images; None as they are.
    """

    target: tuple[str, ...] | None = None
    inputs: tuple[str, ...] | None = None
    size: tuple[int, ...] | None = None

    def refuse(self, path: Path, *unused: str) -> None:
        """Refuse options that files of this kind do not have.

        Raises:
            DataError: naming the first.
        """
        for name in unused:
            if getattr(self, name) is not None:
                what = f"{path.suffix} files" if path.suffix else "folders of images"
                raise DataError(f"{path}: {what} have no {name} to choose: leave it out")

    def of(
        self, path: object, names: Sequence[str], *, last_is_target: bool
    ) -> tuple[list[str], list[str]]:
        """The columns to predict from, and those to be predicted, among those there are.

        Raises:
            DataError: for a column that is not there or there twice, or no target.
        """
        target = list(self.target or ())
        if not target and last_is_target:
            target = [name for name in ("label", "labels", "target", "y") if name in names][:1]
        if not target:
            what = ", ".join(names[:12])
            raise DataError(f"{path}: say which column is to be predicted: target = …, of {what}")
        inputs = list(self.inputs or (name for name in names if name not in target))
        for name in (*target, *inputs):
            if name not in names:
                raise DataError(f"{path} has no column {name!r}.{nearest(name, names)}")
            if names.count(name) > 1:
                raise DataError(
                    f"{path} has {names.count(name)} columns that are called {name!r}: give each a "
                    "name of its own"
                )
        for what, chosen in (("target", target), ("inputs", inputs)):
            if twice := [name for name in chosen if chosen.count(name) > 1]:
                raise DataError(f"{path}: {what} has {twice[0]!r} twice: name each column once")
        if both := [name for name in inputs if name in target]:
            raise DataError(f"{path}: {both[0]!r} is among inputs and is the target: choose one")
        if not inputs:
            raise DataError(f"{path} has no column beside {', '.join(target)} to predict from")
        return inputs, target
