"""Data of one's own, from files: arrays in an .npz, a table, images by class, Hugging Face's form.

Whatever the file, it becomes columns x and y of the parts train, valid and test, and these become a
`Dataset` here: which types there are, and what is a label, is decided in one place.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lissom.arguments import as_annotated
from lissom.data.dataset import Dataset, stratified_choice
from lissom.data.files import named_folder
from lissom.data.hub import read_hub, read_saved
from lissom.data.images import read_images
from lissom.data.loaders import PARTS
from lissom.data.parts import Columns, Parts
from lissom.errors import DataError, nearest

Targets = Literal["labels", "numbers"]
KNOWN = (
    "an .npz file with train_x, train_y, test_x, test_y, a .csv file with target=, a folder of "
    "images by class, or what datasets' save_to_disk wrote"
)


@as_annotated(DataError)
def load_files(
    files: str | Path,
    data_dir: Path | str | None = None,
    *,
    target: str | Sequence[str] | None = None,
    inputs: str | Sequence[str] | None = None,
    size: Sequence[int] | None = None,
    targets: Targets | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """A data set from files of one's own, told by what they are.

    `data.npz` has the arrays train_x, train_y, test_x and test_y, and valid_x and valid_y where
    some are held out; or x and y. `data.csv` has a line of names, and examples in lines. A folder
    has images in folders by class, `cat/1.png`, or these in `train`, `test` and `valid`. Or it is
    what `save_to_disk` of Hugging Face's datasets wrote.

    Floats become float32, bytes pixels in [0, 1], and other whole numbers int64, as tokens are.

    Args:
        files: the file or folder, from where Python runs, or else in `data_dir`.
        data_dir: a folder of data sets; None leaves it to the environment variable LISSOM_DATA_DIR.
        target: of a table, the column or columns to be predicted; "label" of datasets.
        inputs: of a table, the columns to predict from; all others if not given.
        size: [height, width] that images are brought to.
        targets: "labels" are classes, "numbers" are not, however they are written; None tells by
            their type: words and whole numbers in one column are labels.
        test_fraction: of the examples that are tested on, where the files do not say which are.
        seed: of that choice, in which each class has its share.

    Raises:
        DataError: files are missing, damaged or of another form; saying which, and what would work.
    """
    path = _find(Path(files).expanduser(), named_folder(data_dir))
    wanted = Columns(_names(target), _names(inputs), None if size is None else tuple(size))
    if path.is_dir():
        saved = any((path / name).exists() for name in ("dataset_dict.json", "dataset_info.json"))
        parts = read_saved(path, wanted) if saved else read_images(path, wanted)
    elif path.suffix == ".npz":
        parts = _read_npz(path, wanted)
    elif path.suffix == ".csv":
        parts = _read_csv(path, wanted)
    else:
        raise DataError(f"{path} is of no kind that is read here: {KNOWN}")
    return _dataset(path.stem, parts, targets, test_fraction, seed)


@as_annotated(DataError)
def load_hub(
    hub: str,
    *,
    config: str | None = None,
    target: str | Sequence[str] | None = None,
    inputs: str | Sequence[str] | None = None,
    size: Sequence[int] | None = None,
    targets: Targets | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """A data set by its name on the Hugging Face hub, through their library `datasets`.

    Args:
        hub: such as "ylecun/mnist".
        config: of those that it has.
        target: as of `load_files`, and the others too.
        inputs: the columns to predict from.
        size: [height, width] that images are brought to.
        targets: "labels" or "numbers".
        test_fraction: of the examples, where there is no test part.
        seed: of that choice.

    Raises:
        DataError: the library is not there, the hub is out of reach, or columns are not there.
    """
    wanted = Columns(_names(target), _names(inputs), None if size is None else tuple(size))
    return _dataset(hub, read_hub(hub, config, wanted), targets, test_fraction, seed)


def _names(given: str | Sequence[str] | None) -> tuple[str, ...] | None:
    return (given,) if isinstance(given, str) else None if given is None else tuple(given)


def _find(files: Path, data_dir: Path | None) -> Path:
    places = [files] if data_dir is None else [files, data_dir / files]
    for path in places:
        if path.exists():
            return path
    looked = " or ".join(str(path.absolute()) for path in places)
    raise DataError(
        f"there is no {looked}: name it from the folder where the command is run, or from "
        "--data-dir or LISSOM_DATA_DIR"
    )


def _read_npz(path: Path, wanted: Columns) -> Parts:
    """x and y of each part; pickled objects are not read, since they run code."""
    wanted.refuse(path, "target", "inputs", "size")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, BadZipFile, EOFError, KeyError) as error:
        raise DataError(f"{path} is no .npz file of plain arrays: {error}") from error
    known = [f"{part}_{column}" for part in PARTS for column in "xy"]
    for name in arrays:
        if name not in (*known, "x", "y"):
            raise DataError(f"{path}: unknown array {name!r}.{nearest(name, [*known, 'x', 'y'])}")
    parts = {
        part: (arrays[f"{prefix}x"], arrays[f"{prefix}y"])
        for part, prefix in (("train", ""), *((part, f"{part}_") for part in PARTS))
        if f"{prefix}x" in arrays and f"{prefix}y" in arrays
    }
    odd = set(arrays) - {f"{p}_{c}" for p in parts for c in "xy"} - {"x", "y"}
    if "train" not in parts or odd or ("x" in arrays and "train_x" in arrays):
        raise DataError(
            f"{path} holds {', '.join(arrays) or 'nothing'}: train_x, train_y, test_x, test_y are "
            "expected (valid_x and valid_y too where some are held out), or x and y"
        )
    return Parts(parts)


def _read_csv(path: Path, wanted: Columns) -> Parts:
    """Examples in lines, under a line with the names of the columns."""
    wanted.refuse(path, "size")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(number, row) for number, row in enumerate(csv.reader(file), start=1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table of UTF-8 text: {error}") from error
    if len(lines) < 2:
        raise DataError(f"{path} needs a line with the names of its columns, and examples under it")
    names = [name.strip() for name in lines[0][1]]
    inputs, target = wanted.of(path, names, last_is_target=False)
    for number, row in lines[1:]:
        if len(row) != len(names):
            what = f"{len(row)} values where {len(names)} columns are named"
            raise DataError(f"{path}, line {number}: {what}")
    x = np.stack([_numbers(path, names, lines, name) for name in inputs], axis=1)
    if len(target) > 1:
        return Parts({"train": (x, np.stack([_numbers(path, names, lines, t) for t in target], 1))})
    column = names.index(target[0])
    words = np.array([row[column].strip() for _, row in lines[1:]])
    try:
        y: NDArray[Any] = words.astype(np.int64)
    except ValueError:
        try:
            y = words.astype(np.float64)
        except ValueError:
            y = words
    return Parts({"train": (x, y)})


def _numbers(
    path: Path, names: list[str], lines: list[tuple[int, list[str]]], name: str
) -> NDArray[np.float32]:
    column, found = names.index(name), []
    for number, row in lines[1:]:
        try:
            found.append(float(row[column]))
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}: {name} is {row[column]!r}, which is no number: leave the "
                f"line out, or name the columns to predict from, as inputs = {names[:2]}"
            ) from error
    return np.array(found, dtype=np.float32)


def _dataset(
    name: str, parts: Parts, targets: Targets | None, test_fraction: float, seed: int
) -> Dataset:
    """Arrays as tensors, with labels counted, and some to test on."""
    if not 0 < test_fraction < 1:
        raise DataError(f"test_fraction is between 0 and 1, got {test_fraction}")
    read = dict(parts.columns)
    ys = [y for _, y in read.values()]
    labels, names = _labels(name, ys, targets, parts.names)
    tensors = {
        part: (_inputs(f"{name}: {part}_x", x), label)
        for (part, (x, _)), label in zip(read.items(), labels, strict=True)
    }
    classes = None
    if targets != "numbers" and labels[0].ndim == 1 and labels[0].dtype == torch.int64:
        classes = len(names) if names else max(int(y.max()) if len(y) else 0 for y in labels) + 1
    if "test" not in tensors:
        tensors |= _split(*tensors["train"], classes, test_fraction, seed)
    columns = {
        f"{part}_{key}": value
        for part, pair in tensors.items()
        for key, value in zip("xy", pair, strict=True)
    }
    return Dataset(name, **columns, classes=classes, names=names)


def _split(
    x: Tensor, y: Tensor, classes: int | None, fraction: float, seed: int
) -> dict[str, tuple[Tensor, Tensor]]:
    labels = y.numpy() if classes else np.zeros(len(y), np.int64)
    test = torch.from_numpy(stratified_choice(labels, max(1, round(fraction * len(y))), seed))
    return {"train": (x[~test], y[~test]), "test": (x[test], y[test])}


def _inputs(what: str, x: NDArray[Any]) -> Tensor:
    """float32 of floats, pixels in [0, 1] of bytes, int64 of other whole numbers."""
    if x.dtype == np.uint8:
        return torch.tensor(x).float().div_(255)
    if x.dtype.kind in "fb":
        return torch.tensor(x).float()
    if x.dtype.kind in "iu":
        return torch.tensor(x.astype(np.int64))
    raise DataError(f"{what} holds {x.dtype}, and numbers are needed")


def _labels(
    name: str, ys: list[NDArray[Any]], targets: Targets | None, names: tuple[str, ...] | None
) -> tuple[list[Tensor], tuple[str, ...] | None]:
    """The targets of all parts as tensors, and the names of classes where they have some."""
    kinds = {y.dtype.kind for y in ys}
    if kinds <= set("US"):
        if targets == "numbers":
            raise DataError(f"{name}: the targets are words, such as {str(ys[0][0])!r}, no numbers")
        known = np.unique(np.concatenate(ys))
        return [torch.tensor(np.searchsorted(known, y)) for y in ys], tuple(map(str, known))
    if kinds <= set("iub") and targets != "numbers":
        return [torch.tensor(y.astype(np.int64)) for y in ys], names
    if kinds <= set("iubf"):
        whole = all(bool((y == np.round(y)).all()) for y in ys)
        if targets == "labels" and whole and all(y.ndim == 1 for y in ys):
            return [torch.tensor(y.astype(np.int64)) for y in ys], names
        if targets == "labels":
            first = next(float(v) for y in ys for v in y.ravel() if v != round(v) or y.ndim > 1)
            raise DataError(
                f"{name}: the targets are numbers, such as {first:g}, and no labels: set "
                '[task] loss = "mse" for regression'
            )
        return [torch.tensor(y.astype(np.float32)) for y in ys], None
    raise DataError(
        f"{name}: targets are labels or numbers, got {', '.join(str(y.dtype) for y in ys)}"
    )
