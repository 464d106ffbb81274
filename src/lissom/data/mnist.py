"""MNIST: 60,000 + 10,000 handwritten digits of 28×28 pixels (LeCun, Cortes & Burges 1998).

Read from the four IDX files where they lie on disk, checked against their published sums, or else
fetched from the Hugging Face hub.
"""

import hashlib
import importlib
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

HUB_ID = "ylecun/mnist"

# md5 of each file unpacked, so that one sum serves gzip'ed files of any origin. In the order
# train images, train labels, test images, test labels.
CHECKSUMS = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}

WHERE_TO_PUT = (
    f"Put the four files {', '.join(CHECKSUMS)} (each with or without .gz) into <data_dir>/mnist, "
    f"<data_dir> or <data_dir>/MNIST/raw, and name <data_dir> by the argument data_dir or the "
    f"environment variable {ENVIRONMENT_VARIABLE}."
)
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
    folder = named_folder(data_dir)
    return _from_hub() if folder is None else _from_disk(folder)


def _from_disk(data_dir: Path) -> Dataset:
    train_x, train_y, test_x, test_y = _find_files(data_dir)
    return Dataset(
        "mnist",
        as_images(_read_checked(train_x, dims=3)),
        as_labels(_read_checked(train_y, dims=1)),
        as_images(_read_checked(test_x, dims=3)),
        as_labels(_read_checked(test_y, dims=1)),
        classes=10,
    )


def _find_files(data_dir: Path) -> list[Path]:
    """The four files, in the order of CHECKSUMS, from the first folder that holds them all."""
    check_folder(data_dir, "MNIST", f"{WHERE_TO_PUT} {HUB_INSTEAD}")
    folders = [data_dir / "mnist", data_dir, data_dir / "MNIST" / "raw"]
    missing: dict[Path, list[str]] = {}
    for folder in folders:
        # Unpacked first: torchvision leaves both, and these need no unpacking.
        candidates = {name: [folder / name, folder / f"{name}.gz"] for name in CHECKSUMS}
        files = {
            name: next((path for path in paths if path.is_file()), None)
            for name, paths in candidates.items()
        }
        missing[folder] = [name for name, path in files.items() if path is None]
        if not missing[folder]:
            return [path for path in files.values() if path is not None]
    # A folder that holds some of them is the one that was meant.
    closest = min(folders, key=lambda folder: len(missing[folder]))
    if len(missing[closest]) < len(CHECKSUMS):
        lacking = " and ".join(missing[closest])
        raise DataError(f"MNIST: {closest} lacks {lacking}. {WHERE_TO_PUT} {HUB_INSTEAD}")
    looked = ", ".join(str(folder) for folder in folders)
    raise DataError(
        f"MNIST: none of its four files was found in {looked}. {WHERE_TO_PUT} {HUB_INSTEAD}"
    )


def _read_checked(path: Path, dims: int) -> NDArray[np.uint8]:
    content = read_unpacked(path)
    # The format first: "found a web page" or "truncated" says more than a wrong sum.
    array = decode(content, path, dims)
    expected = CHECKSUMS[path.name.removesuffix(".gz")]
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DataError(
            f"{path} is not MNIST's: its unpacked content must have the md5 {expected}, "
            f"found {found}; another data set in the same format, or a damaged copy? "
            f"{WHERE_TO_PUT}"
        )
    return array


def _from_hub() -> Dataset:
    try:
        # By name, because the extra is optional for us and for the type checker.
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            f"MNIST: no data_dir was given, {ENVIRONMENT_VARIABLE} is unset, and the library "
            f"'datasets' is not there to fetch {HUB_ID} from the Hugging Face hub ({error}): "
            f"pip install 'lissom[hub]'. Or, without the hub: {WHERE_TO_PUT}"
        ) from error
    try:
        splits = datasets.load_dataset(HUB_ID)
        train_x, train_y = _decode_split(splits["train"])
        test_x, test_y = _decode_split(splits["test"])
    # Three libraries (datasets, huggingface_hub, its HTTP client) raise here without a common base.
    except Exception as error:
        raise DataError(
            f"MNIST: {HUB_ID} could not be fetched from the Hugging Face hub and read "
            f"({type(error).__name__}: {error}). Without the hub: {WHERE_TO_PUT}"
        ) from error
    return Dataset("mnist", train_x, train_y, test_x, test_y, classes=10)


def _decode_split(split: Any) -> tuple[Tensor, Tensor]:
    """A split's PIL images and labels as tensors [n, 1, 28, 28] and [n]."""
    images = np.stack([np.asarray(image, dtype=np.uint8) for image in split["image"]])
    return as_images(images), as_labels(np.asarray(split["label"]))
