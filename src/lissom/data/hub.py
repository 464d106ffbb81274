"""Data sets of Hugging Face's library `datasets`: a folder of theirs, or a name on their hub."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lissom.data.images import as_array
from lissom.data.parts import Columns, Parts
from lissom.errors import DataError

NAMED = {"train": ("train",), "valid": ("validation", "valid", "dev"), "test": ("test",)}


def read_saved(folder: Path, wanted: Columns) -> Parts:
    """What `save_to_disk` wrote.

    Raises:
        DataError: if it cannot be read, or has not the columns.
    """
    datasets = _library(str(folder))
    try:
        made = datasets.load_from_disk(str(folder))
    except Exception as error:  # several libraries raise here
        raise DataError(f"{folder}: {type(error).__name__}: {error}") from error
    return _parts(str(folder), made, wanted)


def read_hub(name: str, config: str | None, wanted: Columns) -> Parts:
    """A data set by its name on the hub.

    Raises:
        DataError: if it cannot be fetched, or has not the columns.
    """
    datasets = _library(name)
    try:
        made = datasets.load_dataset(name, config)
    # Three libraries (datasets, huggingface_hub, its HTTP client) raise here without a common base.
    except Exception as error:
        raise DataError(
            f"{name} could not be fetched from the Hugging Face hub ({type(error).__name__}: "
            f'{error}). A copy on disk is read by files = "folder"'
        ) from error
    return _parts(name, made, wanted)


def _library(what: str) -> Any:
    try:
        # By name, because the extra is optional for us and for the type checker.
        return importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            f"{what} is read by the library 'datasets' ({error}): pip install 'lissom[hub]'"
        ) from error


def _parts(name: str, made: Any, wanted: Columns) -> Parts:
    splits = dict(made) if isinstance(made, dict) else {"train": made}
    found = {
        part: splits[split]
        for part, splits_named in NAMED.items()
        for split in splits_named
        if split in splits
    }
    if "train" not in found:
        raise DataError(f"{name} has no part 'train', but {', '.join(splits)}")
    features = found["train"].features
    inputs, target = wanted.of(name, list(features), last_is_target=True)
    columns = {
        part: (
            _columns(name, split, inputs, wanted.size),
            _columns(name, split, target, None),
        )
        for part, split in found.items()
    }
    names = getattr(features[target[0]], "names", None) if len(target) == 1 else None
    return Parts(columns, None if names is None else tuple(names))


def _columns(
    name: str, split: Any, wanted: list[str], size: tuple[int, ...] | None
) -> NDArray[Any]:
    """One column as it is, several side by side."""
    if len(wanted) > 1:
        try:
            return np.stack([np.asarray(split[column]) for column in wanted], axis=1)
        except ValueError as error:
            raise DataError(f"{name}: {', '.join(wanted)} do not stand side by side") from error
    values = list(split[wanted[0]])
    if values and hasattr(values[0], "convert"):  # an image of Pillow
        return as_array(values, [f"{name}, image {i}" for i in range(len(values))], size)
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError(
            f"{name}: the rows of {wanted[0]!r} have several lengths; a function of your own that "
            'gives loaders of padded batches goes with [data] make = "…"'
        ) from error
