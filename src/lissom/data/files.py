"""What loaders of data sets share: the folder that was named, whole files, bytes as pixels."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lissom.errors import DataError

ENVIRONMENT_VARIABLE = "LISSOM_DATA_DIR"


def named_folder(data_dir: Path | str | None) -> Path | None:
    """The folder of data sets: the argument, else LISSOM_DATA_DIR, else None."""
    named = data_dir if data_dir is not None else os.environ.get(ENVIRONMENT_VARIABLE) or None
    return None if named is None else Path(named).expanduser()


def check_folder(folder: Path, data_set: str, advice: str) -> None:
    """Refuse what is no folder.

    Raises:
        DataError: naming the data set, what is there instead, and the advice.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise DataError(f"{data_set}: expected a folder at {folder}, found {found}. {advice}")


def read(path: Path) -> bytes:
    """The content of a file.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a name that no file can have
        raise DataError(f"{str(path)!r} cannot be read: {error}") from error


def as_images(pixels: NDArray[np.uint8]) -> Tensor:
    """[n, h, w] or [n, h, w, c] bytes to [n, 1 or c, h, w] float32 in [0, 1]."""
    found = torch.tensor(pixels)
    found = found.unsqueeze(1) if found.ndim == 3 else found.permute(0, 3, 1, 2)
    return found.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def as_labels(labels: NDArray[Any] | list[int]) -> Tensor:
    """[n] whole numbers to int64."""
    return torch.tensor(labels).to(torch.int64)
