"""MNIST and Fashion-MNIST: 60,000 + 10,000 images of 28×28 pixels in ten classes.

Read from the four IDX files where they lie on disk, checked against their published sums, or else
fetched from the Hugging Face hub. The files of both have the same names.

Sources: LeCun, Cortes & Burges 1998; Xiao, Rasul & Vollgraf 2017.
"""

import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lissom.arguments import as_annotated
from lissom.data.dataset import Dataset
from lissom.data.files import (
    ENVIRONMENT_VARIABLE,
    as_images,
    as_labels,
    check_folder,
    named_folder,
)
from lissom.data.idx import decode, read_unpacked
from lissom.errors import DataError

# md5 of each file unpacked, so that one sum serves gzip'ed files of any origin. In the order
# train images, train labels, test images, test labels.
CHECKSUMS = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
FASHION_CHECKSUMS = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
CLOTHES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class Published:
    """Where a data set in four IDX files is found, and how its files are known.

    Attributes:
        name: in lissom, and of its folder.
        title: in messages.
        hub: its name on the Hugging Face hub.
        raw: torchvision's folder.
        checksums: md5 of each file, unpacked.
        names: of the classes; None for their numbers.
    """

    name: str
    title: str
    hub: str
    raw: str
    checksums: Mapping[str, str]
    names: tuple[str, ...] | None = None

    @property
    def where_to_put(self) -> str:
        """What to do where files are missing."""
        return (
            f"Put the four files {', '.join(self.checksums)} (each with or without .gz) into "
            f"<data_dir>/{self.name}, <data_dir> or <data_dir>/{self.raw}, and name <data_dir> by "
            f"the argument data_dir or the environment variable {ENVIRONMENT_VARIABLE}."
        )


MNIST = Published("mnist", "MNIST", "ylecun/mnist", "MNIST/raw", CHECKSUMS)
FASHION_MNIST = Published(
    "fashion-mnist", "Fashion-MNIST", "zalando-datasets/fashion_mnist", "FashionMNIST/raw",
    FASHION_CHECKSUMS, CLOTHES,
)  # fmt: skip

HUB_INSTEAD = (
    "To fetch them from the Hugging Face hub instead, run pip install 'lissom[hub]' and leave both "
    "unset."
)


@as_annotated(DataError)
def load_mnist(data_dir: Path | str | None = None) -> Dataset:
    """MNIST from disk if a folder is named, from the Hugging Face hub if none is.

    Args:
        data_dir: the folder that holds `mnist/`, `MNIST/raw/` (torchvision's layout) or the four
            files themselves. None means the environment variable LISSOM_DATA_DIR, and if that is
            unset or empty, the hub (`ylecun/mnist`, needs the extra `lissom[hub]`). A folder that
            is named but lacks the files is an error, never a silent download.

    Returns:
        Images [60000, 1, 28, 28] and [10000, 1, 28, 28] with pixels in {0, 1/255, …, 1}.

    Raises:
        DataError: a file is missing, damaged or not the published one, or the hub is out of reach.
    """
    return _load(MNIST, data_dir)


@as_annotated(DataError)
def load_fashion_mnist(data_dir: Path | str | None = None) -> Dataset:
    """Fashion-MNIST, clothes in MNIST's format, from disk or from the Hugging Face hub.

    Args:
        data_dir: as of `load_mnist`, with `fashion-mnist/`, `FashionMNIST/raw/` or the four files.

    Returns:
        Images [60000, 1, 28, 28] and [10000, 1, 28, 28] with pixels in {0, 1/255, …, 1}.

    Raises:
        DataError: a file is missing, damaged or not the published one, or the hub is out of reach.
    """
    return _load(FASHION_MNIST, data_dir)


def _load(known: Published, data_dir: Path | str | None) -> Dataset:
    folder = named_folder(data_dir)
    return _from_hub(known) if folder is None else _from_disk(known, folder)


def _from_disk(known: Published, data_dir: Path) -> Dataset:
    train_x, train_y, test_x, test_y = _find_files(known, data_dir)
    return Dataset(
        known.name,
        as_images(_read_checked(known, train_x, dims=3)),
        as_labels(_read_checked(known, train_y, dims=1)),
        as_images(_read_checked(known, test_x, dims=3)),
        as_labels(_read_checked(known, test_y, dims=1)),
        classes=10,
        names=known.names,
    )


def _find_files(known: Published, data_dir: Path) -> list[Path]:
    """The four files, in the order of the sums, from the first folder that holds them all."""
    advice = f"{known.where_to_put} {HUB_INSTEAD}"
    check_folder(data_dir, known.title, advice)
    folders = [data_dir / known.name, data_dir, data_dir / known.raw]
    missing: dict[Path, list[str]] = {}
    for folder in folders:
        # Unpacked first: torchvision leaves both, and these need no unpacking.
        candidates = {name: [folder / name, folder / f"{name}.gz"] for name in known.checksums}
        files = {
            name: next((path for path in paths if path.is_file()), None)
            for name, paths in candidates.items()
        }
        missing[folder] = [name for name, path in files.items() if path is None]
        if not missing[folder]:
            return [path for path in files.values() if path is not None]
    # A folder that holds some of them is the one that was meant.
    closest = min(folders, key=lambda folder: len(missing[folder]))
    if len(missing[closest]) < len(known.checksums):
        lacking = " and ".join(missing[closest])
        raise DataError(f"{known.title}: {closest} lacks {lacking}. {advice}")
    looked = ", ".join(str(folder) for folder in folders)
    raise DataError(f"{known.title}: none of its four files was found in {looked}. {advice}")


def _read_checked(known: Published, path: Path, dims: int) -> NDArray[np.uint8]:
    content = read_unpacked(path)
    # The format first: "found a web page" or "truncated" says more than a wrong sum.
    array = decode(content, path, dims)
    expected = known.checksums[path.name.removesuffix(".gz")]
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DataError(
            f"{path} is not {known.title}'s: its unpacked content must have the md5 {expected}, "
            f"found {found}; another data set in the same format, or a damaged copy? "
            f"{known.where_to_put}"
        )
    return array


def _from_hub(known: Published) -> Dataset:
    try:
        # By name, because the extra is optional for us and for the type checker.
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            f"{known.title}: no data_dir was given, {ENVIRONMENT_VARIABLE} is unset, and the "
            f"library 'datasets' is not there to fetch {known.hub} from the Hugging Face hub "
            f"({error}): pip install 'lissom[hub]'. Or, without the hub: {known.where_to_put}"
        ) from error
    try:
        splits = datasets.load_dataset(known.hub)
        train_x, train_y = _decode_split(splits["train"])
        test_x, test_y = _decode_split(splits["test"])
    # Three libraries (datasets, huggingface_hub, its HTTP client) raise here without a common base.
    except Exception as error:
        raise DataError(
            f"{known.title}: {known.hub} could not be fetched from the Hugging Face hub and read "
            f"({type(error).__name__}: {error}). Without the hub: {known.where_to_put}"
        ) from error
    return Dataset(known.name, train_x, train_y, test_x, test_y, classes=10, names=known.names)


def _decode_split(split: Any) -> tuple[Tensor, Tensor]:
    """A split's PIL images and labels as tensors [n, 1, 28, 28] and [n]."""
    images = np.stack([np.asarray(image, dtype=np.uint8) for image in split["image"]])
    return as_images(images), as_labels(np.asarray(split["label"]))
