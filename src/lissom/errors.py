"""One exception per kind of mistake, each a `ValueError`; warnings; help with misspelt names."""

import re
import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches

# How torch and others say, in errors of any class, that the machine has failed them.
MACHINE = re.compile(
    r"out of memory|can't allocate memory|cannot allocate|alloc_failed|no space left|quota exceeded"
    r"|file write failed|failed writing file|\(os error \d+\)|disk is full|ecc error"
    r"|dataloader worker.*(killed|exited|bus error)",
    re.IGNORECASE | re.DOTALL,
)

BETWEEN = ("lissom", "torch", "lightning_fabric", "contextlib")  # a warning and the user's own code


class LissomError(ValueError):
    """Something the user gave cannot be used; the message quotes it and says what would work.

    Attributes:
        field: the name of the option that is wrong, where it is a single one; a recipe finds the
            line by it.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class PenaltyError(LissomError):
    """A penalty with an impossible strength, count or combination."""


class GroupError(LissomError):
    """Groups that are empty, overlap, or were asked for by a name that matches nothing."""


class OperatorError(LissomError):
    """A mistake in the record of an operator."""


class OptimizerError(LissomError):
    """An optimizer, metric or schedule that the proximal step cannot work with."""


class MethodError(LissomError):
    """A training method whose options cannot be, or that is used in a way that cannot work."""


class GateError(LissomError):
    """Gates that cannot be put on a model, or a budget that they cannot meet."""


class CompressionError(LissomError):
    """A compression that cannot be applied to the weights it was given, or a μ that cannot be."""


class DataError(LissomError):
    """A data set that is missing, damaged, or of the wrong shape."""


class RecipeError(LissomError):
    """A recipe with an unknown key, a wrong type or an impossible combination."""


class PathError(LissomError):
    """A path or a question about its curve that cannot be, or a path of which nothing worked."""


class EnsembleError(LissomError):
    """Networks that cannot answer together, or numbers about them that cannot be."""


class DistillError(LissomError):
    """A network that trees cannot learn from, or a number of rounds or examples that cannot be."""


class AttackError(LissomError):
    """Inputs that cannot be attacked, or a radius, a norm or steps that cannot be."""


class RunError(LissomError):
    """A run directory that is missing, unfinished or of another recipe, or a run that diverged."""


class StorageError(RunError, OSError):
    """A file that the machine could not write: a full disk, say. What was there is untouched."""

    # Dask makes an error of another process anew by it, and ValueError's, found first, refuses.
    __new__ = OSError.__new__  # type: ignore[assignment]


def warn(message: str) -> None:
    """Warn of what may be meant and mostly is not, at the line of the user's own code."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def machine_failed(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, is a fault of the machine.

    That is a disk that is full, a folder that is lost, no memory: what would not happen again once
    it was mended, with the same arguments.
    """
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        said = not isinstance(cause, ValueError) and MACHINE.search(str(cause))
        if isinstance(cause, OSError | MemoryError) or said:
            return True
        seen.append(cause)
        cause = cause.__cause__
    return False


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the known names closest to `name`, or all of them."""
    names = sorted(set(known))
    same = [candidate for candidate in names if candidate.lower() == name.lower()]
    close = same or get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return " Did you mean " + " or ".join(repr(candidate) for candidate in close) + "?"
    return f" Known: {', '.join(names)}." if names else ""
