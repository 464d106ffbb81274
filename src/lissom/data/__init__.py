"""Real data by name: "digits" is bundled, "mnist" and "jpeg-cifar10" are read from a folder."""

from collections.abc import Callable
from pathlib import Path

from lissom.data.cifar10 import load_jpeg_cifar10
from lissom.data.dataset import Dataset
from lissom.data.digits import load_digits
from lissom.data.mnist import load_mnist
from lissom.errors import DataError, nearest

__all__ = ["Dataset", "load", "load_digits", "load_jpeg_cifar10", "load_mnist"]

_LOADERS: dict[str, Callable[[Path | str | None], Dataset]] = {
    "digits": lambda _data_dir: load_digits(),
    "jpeg-cifar10": load_jpeg_cifar10,
    "mnist": load_mnist,
}


def load(name: str, data_dir: Path | str | None = None) -> Dataset:
    """The data set called `name`: "digits", "jpeg-cifar10" or "mnist".

    Args:
        name: which one.
        data_dir: where its files lie; None leaves it to the environment variable LISSOM_DATA_DIR,
            and without that MNIST to the Hugging Face hub. The digits are bundled and ignore it.

    Raises:
        DataError: the name is unknown, or the data are missing or damaged.
    """
    if name not in _LOADERS:
        raise DataError(f"there is no data set {name!r}.{nearest(name, _LOADERS)}")
    return _LOADERS[name](data_dir)
