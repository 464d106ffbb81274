"""Data by name, from files of one's own, from Hugging Face's hub, or in batches of a loader."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lissom.arguments import as_annotated
from lissom.data.cifar10 import load_jpeg_cifar10
from lissom.data.dataset import Dataset
from lissom.data.digits import load_digits
from lissom.data.loaders import Loaders, first_inputs
from lissom.data.mnist import load_fashion_mnist, load_mnist
from lissom.data.modrec import load_modrec
from lissom.data.own import load_files, load_hub
from lissom.data.signals import ModRec
from lissom.errors import DataError, nearest

__all__ = [
    "Dataset",
    "Loaders",
    "ModRec",
    "first_inputs",
    "load",
    "load_digits",
    "load_fashion_mnist",
    "load_files",
    "load_hub",
    "load_jpeg_cifar10",
    "load_mnist",
    "load_modrec",
]

_LOADERS: dict[str, Callable[..., Dataset]] = {
    "digits": lambda data_dir: load_digits(),
    "fashion-mnist": load_fashion_mnist,
    "jpeg-cifar10": load_jpeg_cifar10,
    "mnist": load_mnist,
    "modrec": load_modrec,
}


@as_annotated(DataError)
def load(name: str, data_dir: Path | str | None = None, **options: Any) -> Dataset:
    """The data set called `name`: "digits", "fashion-mnist", "jpeg-cifar10", "mnist" or "modrec".

    Args:
        name: which one.
        data_dir: where its files lie; None leaves it to the environment variable LISSOM_DATA_DIR,
            and without that MNIST and Fashion-MNIST to the Hugging Face hub. The digits are bundled
            and ignore it.
        **options: the other arguments of `load_modrec`; the other data sets have none.

    Raises:
        DataError: the name is unknown, an option is not the data set's, or the data are missing or
            damaged.
    """
    if name not in _LOADERS:
        raise DataError(f"there is no data set {name!r}.{nearest(name, _LOADERS)}")
    known = [key for key in inspect.signature(_LOADERS[name]).parameters if key != "data_dir"]
    for option in options:
        if option not in known:
            what = nearest(option, known) or " It has none."
            raise DataError(f"data set {name!r} has no option {option!r}.{what}")
    return _LOADERS[name](data_dir, **options)
