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
from lissom.data.dataset import Dataset, check_rows, stratified_choice
from lissom.data.files import named_folder
from lissom.data.hub import read_hub, read_saved
from lissom.data.images import read_images
from lissom.data.loaders import PARTS
from lissom.data.parts import Columns, Parts
from lissom.errors import DataError, nearest

Targets = Literal["labels", "numbers"]
Lines = list[tuple[int, list[str]]]  # of a table, with their numbers
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
            their type: words and whole numbers from 0, in one column, are labels.
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
    return _dataset(path, path.stem, parts, targets, test_fraction, seed)


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
    return _dataset(hub, hub, read_hub(hub, config, wanted), targets, test_fraction, seed)


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
            reader = csv.reader(file)
            lines = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table of UTF-8 text: {error}") from error
    if len(lines) < 2:
        raise DataError(f"{path} needs a line with the names of its columns, and examples under it")
    names = [name.strip() for name in lines[0][1]]
    other = next((mark for mark in (";", "\t", "|") if mark in names[0]), None)
    if other and len(names) == 1:
        raise DataError(f"{path} has {other!r} between its columns: write the table with commas")
    inputs, target = wanted.of(path, names, last_is_target=False)
    for number, row in lines[1:]:
        if len(row) != len(names):
            what = f"{len(row)} values where {len(names)} columns are named"
            raise DataError(f"{path}, line {number}: {what}")
    x = np.stack([_numbers(path, names, lines, name) for name in inputs], axis=1)
    if len(target) > 1:
        return Parts({"train": (x, np.stack([_numbers(path, names, lines, t) for t in target], 1))})
    return Parts({"train": (x, _target(path, names, lines, target[0]))})


def _target(path: Path, names: list[str], lines: Lines, name: str) -> NDArray[Any]:
    """Whole numbers where all are, else numbers where all are, else words."""
    column = names.index(name)
    for number, row in lines[1:]:
        if not row[column].strip():
            raise DataError(f"{path}, line {number}: {name} is empty: leave the line out")
    words = np.array([row[column].strip() for _, row in lines[1:]])
    try:
        return words.astype(np.int64)
    except OverflowError as error:
        number, word = next((n, row[column]) for n, row in lines[1:] if not _is_int64(row[column]))
        raise DataError(
            f"{path}, line {number}: {name} is {word.strip()}, and whole numbers end at 2**63: "
            "number classes from 0, or write a number that is to be predicted as 1e20 is"
        ) from error
    except ValueError:
        try:
            words.astype(np.float64)
        except ValueError:
            return words
    return _numbers(path, names, lines, name)


def _is_int64(word: str) -> bool:
    return -(2**63) <= int(word) < 2**63


def _numbers(path: Path, names: list[str], lines: Lines, name: str) -> NDArray[np.float64]:
    column, found = names.index(name), []
    for number, row in lines[1:]:
        try:
            found.append(_number(row[column]))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {name} is {error}") from error
    return np.array(found)


def _number(cell: str) -> float:
    """A number that float32 holds; a ValueError says what there is instead."""
    if not cell.strip():
        raise ValueError("empty: leave the line out")
    try:
        number = float(cell)
    except ValueError:
        raise ValueError(
            f"{cell!r}, which is no number: leave the line out, or name the columns of numbers, as "
            'inputs = ["a", "b"]'
        ) from None
    if not abs(number) <= torch.finfo(torch.float32).max:
        raise ValueError(f"{cell!r}, which is no finite number of float32: leave the line out")
    return number


def _dataset(
    source: Path | str,
    name: str,
    parts: Parts,
    targets: Targets | None,
    test_fraction: float,
    seed: int,
) -> Dataset:
    """Arrays as tensors, with labels counted, and some to test on.

    What is wrong is found before examples are drawn to test on, so that it is told by the rows of
    the file.
    """
    if not 0 < test_fraction < 1:
        raise DataError(f"test_fraction is between 0 and 1, got {test_fraction}")
    called = {part: f"{part}_" for part in parts.columns}
    if "test" not in called:
        called["train"] = ""
    for part, (x, y) in parts.columns.items():
        check_rows(str(source), called[part], x, y)
    _check_types({f"{called[part]}x": x for part, (x, _) in parts.columns.items()}, source)
    ys = {f"{source}: {called[part]}y": y for part, (_, y) in parts.columns.items()}
    labels, names = _labels(source, ys, targets, parts.names)
    tensors = {
        part: (_inputs(f"{source}: {called[part]}x", x), label)
        for (part, (x, _)), label in zip(parts.columns.items(), labels, strict=True)
    }
    classes = None
    if targets != "numbers" and labels[0].ndim == 1 and labels[0].dtype == torch.int64:
        classes = _classes(source, labels, names)
    if "test" not in tensors:
        tensors |= _split(*tensors["train"], classes, test_fraction, seed)
    columns = {
        f"{part}_{key}": value
        for part, pair in tensors.items()
        for key, value in zip("xy", pair, strict=True)
    }
    return Dataset(name, **columns, classes=classes, names=names)


def _check_types(xs: dict[str, NDArray[Any]], source: Path | str) -> None:
    """Refuse bytes, which are scaled to [0, 1], beside numbers, which are not.

    Args:
        xs: the inputs of all parts, by their names.
        source: what was read.
    """
    found = ", ".join(f"{name} {x.dtype}" for name, x in xs.items())
    if len({x.dtype == np.uint8 for x in xs.values()}) > 1:
        raise DataError(
            f"{source} holds {found}: uint8 are pixels, which are divided by 255, and other types "
            "stay as they are. Write all parts in one type"
        )


def _classes(source: Path | str, labels: list[Tensor], names: tuple[str, ...] | None) -> int:
    """How many classes there are: those with names, or all up to the largest label.

    Raises:
        DataError: for labels below 0, and where all examples to train on are of one class.
    """
    low, high = min(int(y.min()) for y in labels), max(int(y.max()) for y in labels)
    if low < 0:
        raise DataError(
            f"{source}: labels are from {low} to {high}, and classes are numbered from 0: add "
            f'{-low} to each, or set [task] loss = "mse" if they are numbers to be predicted, or '
            '[data] targets = "numbers" for a loss of your own'
        )
    first = int(labels[0][0])
    if bool((labels[0] == first).all()):
        raise DataError(
            f"{source}: all examples to train on are of class {names[first] if names else first}, "
            "and so there is nothing to learn: give examples of another class too, or set [task] "
            'loss = "mse" if labels are numbers to be predicted'
        )
    return len(names) if names else high + 1


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
        return _floats(what, x)
    if x.dtype.kind in "iu":
        return _whole(what, x)
    raise DataError(f"{what} holds {x.dtype}, and numbers are needed")


def _labels(
    source: Path | str,
    ys: dict[str, NDArray[Any]],
    targets: Targets | None,
    names: tuple[str, ...] | None,
) -> tuple[list[Tensor], tuple[str, ...] | None]:
    """The targets of all parts as tensors, and the names of classes where they have some.

    Args:
        source: what was read.
        ys: the targets, by what they are called in messages.
        targets: as of `load_files`.
        names: of the classes, where the files say them.
    """
    every = list(ys.values())
    kinds = {y.dtype.kind for y in every}
    if kinds <= set("US"):
        if targets == "numbers":
            first = str(every[0].ravel()[0])
            raise DataError(f"{source}: the targets are words, such as {first!r}, no numbers")
        known = np.unique(np.concatenate(every))
        return [torch.tensor(np.searchsorted(known, y)) for y in every], tuple(map(str, known))
    if not kinds <= set("iubf"):
        raise DataError(
            f"{source}: targets are labels or numbers, got {', '.join(str(y.dtype) for y in every)}"
        )
    if targets == "numbers" or (targets is None and "f" in kinds):
        return [_floats(what, y) for what, y in ys.items()], None
    if "f" in kinds:
        for y in every:
            odd = y[np.isfinite(y) & ((y != np.round(y)) | (y.ndim > 1))]
            if len(odd):
                raise DataError(
                    f"{source}: the targets are numbers, such as {odd[0]:g}, and no labels: set "
                    '[task] loss = "mse" for regression'
                )
    return [_whole(what, y) for what, y in ys.items()], names


def _floats(what: str, numbers: NDArray[Any]) -> Tensor:
    """float32, which has to hold the numbers."""
    with np.errstate(over="ignore"):
        made = numbers.astype(np.float32, order="C")
    _check_held(what, numbers, np.isfinite(made), "finite number of float32: leave out")
    return torch.from_numpy(made)


def _whole(what: str, numbers: NDArray[Any]) -> Tensor:
    """int64, which has to hold the numbers."""
    with np.errstate(invalid="ignore"):
        made = numbers.astype(np.int64, order="C")
    kind = "whole number of int64: number classes and tokens from 0, or leave out"
    _check_held(what, numbers, made == numbers, kind)
    return torch.from_numpy(made)


def _check_held(what: str, numbers: NDArray[Any], held: NDArray[np.bool_], kind: str) -> None:
    """Refuse numbers that another type does not hold, with the row of the first."""
    if held.all():
        return
    rows = np.unique(np.nonzero(~held)[0])
    raise DataError(
        f"{what} holds {numbers[~held][0]} in row {rows[0]}, counted from 0, which is no {kind} "
        f"such rows, {len(rows):,} of {len(held):,}"
    )
