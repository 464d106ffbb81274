"""Data of one's own: every kind of file becomes a data set, and what is wrong with one is said."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from products import pairwise

from lissom.data import Dataset, load, load_files
from lissom.errors import DataError


def arrays(n: int = 6, *, parts: tuple[str, ...] = ("train", "test")) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    return {
        f"{part}_{c}": v
        for part in parts
        for c, v in (("x", draw.normal(size=(n, 3))), ("y", np.arange(n) % 3))
    }


X = np.arange(40.0).reshape(20, 2)
Y = np.arange(20, dtype=np.uint64) % 3


def npz(folder: Path, **columns: Any) -> Path:
    np.savez(folder / "own.npz", **columns)
    return folder / "own.npz"


def picture(path: Path, mode: str = "L", size: tuple[int, int] = (4, 3), value: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(path)


def test_an_npz_has_its_parts(tmp_path: Path) -> None:
    given = arrays(parts=("train", "valid", "test"))
    data = load_files(npz(tmp_path, **given))
    assert (data.name, data.classes, data.train_x.dtype) == ("own", 3, torch.float32)
    for part in ("train", "valid", "test"):
        x, y = getattr(data, f"{part}_x"), getattr(data, f"{part}_y")
        assert torch.equal(x, torch.tensor(given[f"{part}_x"]).float())
        assert y.tolist() == given[f"{part}_y"].tolist()


def test_x_and_y_alone_are_split_by_class(tmp_path: Path) -> None:
    path = npz(tmp_path, x=np.zeros((40, 2)), y=np.arange(40) % 4)
    data = load_files(path, test_fraction=0.25, seed=3)
    assert data.test_y.bincount().tolist() == [3, 2, 3, 2] or len(data.test_y) == 10
    assert len(data.train_y) == 30
    other = load_files(path, test_fraction=0.25, seed=3)
    assert torch.equal(data.test_y, other.test_y)


@pytest.mark.parametrize(
    ("x", "y", "targets", "kinds"),
    [
        (np.full((4, 2), 255, np.uint8), np.arange(4), None, ("float32", "int64", 4)),
        (np.zeros((4, 2)), np.array(["b", "a", "b", "a"]), None, ("float32", "int64", 2)),
        (np.zeros((4, 2)), np.linspace(0, 1, 4), None, ("float32", "float32", None)),
        (np.zeros((4, 2)), np.arange(4), "numbers", ("float32", "float32", None)),
        (np.zeros((4, 2)), np.arange(4.0), "labels", ("float32", "int64", 4)),
        (np.arange(8).reshape(4, 2), np.arange(4), None, ("int64", "int64", 4)),
        (np.zeros((4, 1, 2, 2)), np.ones((4, 2, 2), int), None, ("float32", "int64", None)),
        (np.zeros((4, 2)), np.eye(4)[:, :3], "numbers", ("float32", "float32", None)),
    ],
)
def test_types_say_what_is_what(
    tmp_path: Path, x: Any, y: Any, targets: Any, kinds: tuple[str, str, int | None]
) -> None:
    data = load_files(npz(tmp_path, train_x=x, train_y=y, test_x=x, test_y=y), targets=targets)
    found = (*(str(t.dtype).removeprefix("torch.") for t in (data.train_x, data.train_y)),)
    assert (*found, data.classes) == kinds
    if x.dtype == np.uint8:
        assert data.train_x.max() == 1
    if y.dtype.kind == "U":
        assert data.names == ("a", "b") and data.train_y.tolist() == [1, 0, 1, 0]


def test_a_table_has_a_target(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,kind\n" + "".join(f"{i},{i / 2},{'xy'[i % 2]}\n" for i in range(10)))
    data = load_files(path, target="kind")
    assert data.names == ("x", "y") and (len(data.train_x), len(data.test_x)) == (8, 2)
    rows = torch.cat([data.train_x, data.test_x])
    assert torch.equal(rows[:, 0], 2 * rows[:, 1]) and sorted(rows[:, 0].tolist()) == [*range(10)]
    number = load_files(path, target="b", inputs="a")
    assert number.classes is None and torch.equal(number.train_x[:, 0], 2 * number.train_y)


def test_images_lie_in_folders_by_class(tmp_path: Path) -> None:
    for i in range(5):
        picture(tmp_path / "cat" / f"{i}.png", value=0)
        picture(tmp_path / "dog" / f"{i}.png")
    data = load_files(tmp_path)
    assert data.names == ("cat", "dog") and data.train_x.shape[1:] == (1, 3, 4)
    assert torch.equal(data.train_x.amax((1, 2, 3)), data.train_y.float())
    for part in ("train", "val", "test"):
        for name in ("a", "b"):
            picture(tmp_path / "parts" / part / name / "1.png", "RGB")
    data = load_files(tmp_path / "parts", size=[6, 5])
    assert data.train_x.shape == (2, 3, 6, 5) and data.valid_y is not None
    assert data.train_x[0, :, 0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("size", [None, (2, 2)])
def test_images_of_more_than_8_bits_are_not_cut_off(tmp_path: Path, dtype: Any, size: Any) -> None:
    for name, value in (("near", 1000), ("far", 60000)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((3, 4), value, dtype)).save(tmp_path / name / "1.tiff")
    with pytest.raises(DataError, match=r"far/1.tiff has pixels of more than 8 bits \(mode '[IF]"):
        load_files(tmp_path, size=size)


def test_hidden_files_and_folders_are_no_images_and_no_classes(tmp_path: Path) -> None:
    for name in ("a", "b", ".ipynb_checkpoints"):
        picture(tmp_path / name / "1.png")
        picture(tmp_path / name / "2.png")
    (tmp_path / ".empty").mkdir()
    (tmp_path / "a" / "._1.png").write_bytes(b"of macOS")
    data = load_files(tmp_path, test_fraction=0.5)
    assert data.names == ("a", "b") and len(data.train_x) == len(data.test_x) == 2


@pytest.mark.parametrize("other", [np.float32, np.int64, np.uint16, bool])
def test_bytes_beside_other_types_are_refused(tmp_path: Path, other: Any) -> None:
    x, y = np.ones((4, 2)), np.arange(4) % 2
    path = npz(tmp_path, train_x=x.astype(other), train_y=y, test_x=x.astype(np.uint8), test_y=y)
    what = f"holds train_x {np.dtype(other)}, test_x uint8: uint8 are pixels"
    with pytest.raises(DataError, match=what):
        load_files(path)


def test_what_datasets_saved_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    label, x = datasets.ClassLabel(names=["n", "p"]), datasets.Sequence(datasets.Value("float32"))
    features = datasets.Features({"x": x, "label": label})
    rows = {"x": [[0.0, i] for i in range(6)], "label": [i % 2 for i in range(6)]}
    made = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": made, "validation": made, "test": made}).save_to_disk(tmp_path)
    data = load_files(tmp_path)
    assert data.names == ("n", "p") and data.train_y.tolist() == rows["label"]
    assert data.valid_x is not None and data.valid_x[:, 1].tolist() == [*range(6)]


def test_files_are_looked_for_in_the_folder_of_data_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npz(tmp_path, **arrays())
    monkeypatch.chdir(tmp_path.parent)
    assert isinstance(load_files("own.npz", tmp_path), Dataset)
    with pytest.raises(DataError, match=r"there is no .*own\.npz: name it from the folder"):
        load_files("own.npz")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"X_train": 1}, r"unknown array 'X_train'\. Did you mean 'x_?train|'train_x'"),
        ({"train_x": 1, "train_y": 1, "test_x": 1}, r"holds train_x, train_y, test_x: train_x, tr"),
        ({}, r"holds nothing: train_x"),
        ({"x": np.zeros((2, 2)), "y": np.array([{}, {}])}, r"no \.npz file of plain arrays"),
        ({"x": np.array([["a"], ["b"]]), "y": np.arange(2)}, r"own\.npz: x holds <U1"),
        ({"x": X, "y": Y[:-3]}, r"own\.npz: x has 20 examples but y has 17 labels: each example"),
        ({"x": X, "y": 3}, r"own\.npz: y must be \[n, …\], a target for each of 20 examples"),
        ({"x": X[:0], "y": Y[:0]}, r"own\.npz: x is empty, it needs at least 1 example"),
        (
            {"x": X, "y": Y.astype(int) - 1},
            r"own\.npz: labels are from -1 to 1, and .* from 0: add 1 to each",
        ),
        (
            {"x": X, "y": Y + 2**63},
            r"own\.npz: y holds 9223372036854775808 in row 0, .* of int64: ",
        ),
        (
            {"x": X, "y": 0 * Y},
            r"own\.npz: all examples to train on are of class 0, and so there is",
        ),
        ({"x": X, "y": np.full(20, "cat")}, r"own\.npz: all examples to train on are of class cat"),
        (
            {"train_x": X, "train_y": Y, "test_x": X[:, 0], "test_y": Y},
            r"npz: test_x must be \[n, …",
        ),
    ],
)
def test_what_is_wrong_with_an_npz_is_said(tmp_path: Path, columns: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_files(npz(tmp_path, **columns))


@pairwise
@pytest.mark.parametrize("targets", [None, "labels", "numbers"])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("column", ["x", "y"])
@pytest.mark.parametrize("parts", [False, True])
def test_numbers_that_are_none_are_told_by_the_row_of_the_file(
    tmp_path: Path, targets: Any, odd: float, column: str, parts: bool
) -> None:
    given = {"x": X.copy(), "y": Y.astype(float)}
    given[column][[7, 12]] = odd
    if parts:
        given = {f"{part}_{c}": value for part in ("train", "test") for c, value in given.items()}
    what = f"own.npz: {'train_' * parts}{column} holds {odd} in row 7, counted from 0, which is no "
    with pytest.raises(DataError, match=f"{re.escape(what)}.* such rows, 2 of 20"):
        load_files(npz(tmp_path, **given), targets=targets)


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        ("a,b\n1,2\n", None, r"say which column is to be predicted: target = …, of a, b"),
        ("a,b\n1,2\n", "c", r"has no column 'c'"),
        ("a,b\n", "b", r"needs a line with the names"),
        ("a;b\n1,5;2\n", "b", r"t\.csv has ';' between its columns: write the table with commas"),
        ("a,b\n1,2\n3\n", "b", r"line 3: 1 values where 2 columns are named"),
        ("a,b\n1,2\nx,2\n", "b", r"line 3: a is 'x', which is no number: leave the line out"),
        ("b\n1\n", "b", r"has no column beside b"),
        ("a,b\n1,2\n\n,2\n", "b", r"line 4: a is empty: leave the line out"),
        ("a,b\n1,2\n1, \n", "b", r"line 3: b is empty: leave the line out"),
        ("a,b\n1,cat\n1,\n", "b", r"line 3: b is empty: leave the line out"),
        ('a,b\n"1\n",2\nx,2\n', "b", r"line 4: a is 'x', which is no number"),
        ("a,b\n1,2\nnan,2\n", "b", r"line 3: a is 'nan', which is no finite number of float32"),
        ("a,b\n1,2\n1e300,2\n", "b", r"line 3: a is '1e300', which is no finite number of float"),
        ("a,b\n1,2\n1,nan\n", "b", r"line 3: b is 'nan', which is no finite number of float32"),
        ("a,b\n1,2\n1,-inf\n", "b", r"line 3: b is '-inf', which is no finite number of float32"),
        (
            f"a,b\n1,2\n1,{10**20}\n",
            "b",
            r"line 3: b is 1(0{20}), and whole numbers end at 2\*\*63",
        ),
        ("a,b\n1,-1\n1,0\n", "b", r"t\.csv: labels are from -1 to 0, and .*: add 1 to each"),
        ("a,b\n1,4\n1,4\n", "b", r"t\.csv: all examples to train on are of class 4, and so"),
        ("a,a,b\n1,2,3\n", "b", r"t\.csv has 2 columns that are called 'a': give each a name"),
        ("a,b,b\n1,2,3\n", "b", r"t\.csv has 2 columns that are called 'b': give each a name"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(
    tmp_path: Path, text: str, target: str | None, message: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_files(tmp_path / "t.csv", target=target)


@pytest.mark.parametrize("columns", ["inputs", "target"])
def test_a_column_is_chosen_once(tmp_path: Path, columns: str) -> None:
    (tmp_path / "t.csv").write_text("a,b,c,c\n1,2,3,4\n5,6,7,8\n")
    chosen: dict[str, Any] = {"inputs": ["a"], "target": ["b"]}
    assert load_files(tmp_path / "t.csv", **chosen).classes == 7  # the two c are not asked for
    chosen[columns] *= 2
    with pytest.raises(DataError, match=rf"t\.csv: {columns} has '[ab]' twice: name each "):
        load_files(tmp_path / "t.csv", **chosen)


def test_what_is_wrong_with_images_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs a folder of images for each class"):
        load_files(tmp_path)
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "b" / "1.png", size=(5, 5))
    with pytest.raises(DataError, match=r"5×5 pixels and .* 3×4: bring them to one size, as size"):
        load_files(tmp_path)
    (tmp_path / "b" / "1.png").write_text("no image")
    with pytest.raises(DataError, match=r"1\.png cannot be read as an image"):
        load_files(tmp_path)
    (tmp_path / "data.txt").write_text("")
    with pytest.raises(DataError, match=r"of no kind that is read here: an \.npz file"):
        load_files(tmp_path / "data.txt")


def test_labels_that_are_numbers_need_another_loss(tmp_path: Path) -> None:
    path = npz(tmp_path, x=np.zeros((9, 2)), y=np.linspace(0, 1, 9))
    with pytest.raises(
        DataError, match=r'such as 0\.125, and no labels: set \[task\] loss = "mse"'
    ):
        load_files(path, targets="labels")


@pytest.mark.real_data
def test_real_fashion_mnist() -> None:
    data = load("fashion-mnist")
    assert data.train_x.shape == (60_000, 1, 28, 28) and data.test_x.shape == (10_000, 1, 28, 28)
    assert data.test_y.bincount().tolist() == [1000] * 10
    assert data.names is not None and data.names[int(data.train_y[0])] == "ankle boot"
    assert data.train_x.mean().item() == pytest.approx(0.2860, abs=1e-4)
