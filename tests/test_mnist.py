"""MNIST from disk and from the hub, and what can be wrong with its files."""

import gzip
import hashlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from lissom.data import Dataset, load, load_mnist
from lissom.data.idx import decode, read_unpacked
from lissom.data.mnist import CHECKSUMS
from lissom.errors import DataError

TRAIN_X, TRAIN_Y, TEST_X, TEST_Y = CHECKSUMS
Writer = Callable[..., Path]


def encode(array: NDArray[np.uint8]) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    return header + array.tobytes()


@pytest.fixture
def arrays() -> dict[str, NDArray[np.uint8]]:
    """A tiny MNIST of 2×3 images: 5 to train on, 4 to test on."""
    rng = np.random.default_rng(0)
    return {
        TRAIN_X: rng.integers(0, 256, (5, 2, 3), dtype=np.uint8),
        TRAIN_Y: rng.integers(0, 10, 5, dtype=np.uint8),
        TEST_X: rng.integers(0, 256, (4, 2, 3), dtype=np.uint8),
        TEST_Y: rng.integers(0, 10, 4, dtype=np.uint8),
    }


@pytest.fixture
def write(
    tmp_path: Path, arrays: dict[str, NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> Writer:
    """Writes the tiny MNIST into a folder under tmp_path; its sums are then the expected ones."""
    monkeypatch.delenv("LISSOM_DATA_DIR", raising=False)

    def write_to(layout: str = "mnist", *, packed: bool = True) -> Path:
        folder = tmp_path / layout
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in arrays.items():
            content = encode(array)
            monkeypatch.setitem(CHECKSUMS, name, hashlib.md5(content).hexdigest())
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
        return folder

    return write_to


@given(st_numpy.arrays(np.uint8, st_numpy.array_shapes(min_dims=1, max_dims=3, min_side=0)))
def test_idx_round_trip(array: NDArray[np.uint8]) -> None:
    decoded = decode(encode(array), Path("some-file"), dims=array.ndim)
    assert decoded.dtype == np.uint8 and np.array_equal(decoded, array)


@given(
    content=st.one_of(
        st.binary(max_size=40), st.binary(max_size=40).map(lambda tail: b"\0\0\x08\x03" + tail)
    )
)
def test_any_other_bytes_are_a_data_error_or_an_array(content: bytes) -> None:
    try:
        assert decode(content, Path("some-file"), dims=3).ndim == 3
    except DataError as error:
        assert "some-file" in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"with 3 dims: it must start with 0x00000803, found 0x$"),
        (b"<!doctype html>", r"must start with 0x00000803, found 0x3c21646f"),
        (b"\0\0\x08\x01\0\0\0\0", r"must start with 0x00000803, found 0x00000801"),
        (b"\0\0\x0d\x03" + bytes(12), r"not an IDX file of unsigned bytes .* found 0x00000d03"),
        (b"\0\0\x08\x03\0\0", r"truncated: an IDX header with 3 dims takes 16 bytes, found 6"),
        (
            b"\0\0\x08\x03\0\0\0\x01\0\0\0\x02\0\0\0\x02abc",
            r"array of shape \[1, 2, 2\], 20 bytes with its header, but found 19 bytes",
        ),
        (b"\0\0\x08\x03" + b"\xff" * 12, r"but found 16 bytes"),
    ],
)
def test_what_is_not_idx_is_explained(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        decode(content, Path("some-file"), dims=3)
    assert "some-file" in str(caught.value)


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "without-suffix"
    path.write_bytes(gzip.compress(b"content"))
    assert read_unpacked(path) == b"content"
    path.write_bytes(b"content")
    assert read_unpacked(path) == b"content"


def test_unreadable_files_are_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent cannot be read: No such file"):
        read_unpacked(tmp_path / "absent")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("layout", ["mnist", ".", "MNIST/raw"])
def test_mnist_from_any_layout(
    write: Writer,
    tmp_path: Path,
    arrays: dict[str, NDArray[np.uint8]],
    layout: str,
    packed: bool,
    recwarn: pytest.WarningsRecorder,
) -> None:
    write(layout, packed=packed)
    data = load("mnist", tmp_path)
    assert data.name == "mnist" and data.classes == 10
    assert data.train_x.shape == (5, 1, 2, 3) and data.test_x.shape == (4, 1, 2, 3)
    assert torch.equal((data.train_x.squeeze(1) * 255).byte(), torch.tensor(arrays[TRAIN_X]))
    assert torch.equal((data.test_x.squeeze(1) * 255).byte(), torch.tensor(arrays[TEST_X]))
    assert data.train_y.tolist() == arrays[TRAIN_Y].tolist()
    assert data.test_y.tolist() == arrays[TEST_Y].tolist()
    assert not recwarn.list


def test_the_argument_may_be_text_and_goes_before_the_environment(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    monkeypatch.setenv("LISSOM_DATA_DIR", str(tmp_path / "elsewhere"))
    assert len(load_mnist(str(tmp_path)).train_y) == 5
    monkeypatch.setenv("LISSOM_DATA_DIR", str(tmp_path))
    assert len(load_mnist().train_y) == 5


def test_a_complete_folder_goes_before_an_incomplete_one(write: Writer, tmp_path: Path) -> None:
    (write("mnist") / f"{TEST_Y}.gz").unlink()
    write("MNIST/raw")
    assert len(load_mnist(tmp_path).test_y) == 4


def test_pixels_run_from_0_to_1(write: Writer, arrays: dict[str, NDArray[np.uint8]]) -> None:
    arrays[TRAIN_X][0, 0, :2] = [0, 255]
    data = load_mnist(write())
    assert data.train_x[0, 0, 0, :2].tolist() == [0.0, 1.0]


def assert_says_what_to_do(error: DataError) -> None:
    text = str(error)
    assert all(name in text for name in CHECKSUMS)
    assert "<data_dir>/mnist, <data_dir> or <data_dir>/MNIST/raw" in text
    assert "LISSOM_DATA_DIR" in text


def test_a_missing_file_is_named(write: Writer, tmp_path: Path) -> None:
    folder = write()
    (folder / f"{TEST_X}.gz").unlink()
    with pytest.raises(DataError, match=rf"mnist lacks {TEST_X}\. ") as caught:
        load_mnist(tmp_path)
    assert str(folder) in str(caught.value)
    assert "pip install 'lissom[hub]'" in str(caught.value)
    assert_says_what_to_do(caught.value)
    (folder / f"{TRAIN_Y}.gz").unlink()
    with pytest.raises(DataError, match=rf"lacks {TRAIN_Y} and {TEST_X}\. "):
        load_mnist(tmp_path)


def test_a_folder_without_mnist_lists_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of its four files was found in") as caught:
        load_mnist(tmp_path)
    for folder in (tmp_path / "mnist", tmp_path, tmp_path / "MNIST" / "raw"):
        assert str(folder) in str(caught.value)
    assert "pip install 'lissom[hub]'" in str(caught.value)
    assert_says_what_to_do(caught.value)


def test_a_wrong_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISSOM_DATA_DIR", str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"expected a folder at .*absent, found nothing") as caught:
        load_mnist()
    assert_says_what_to_do(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"expected a folder at .*file, found a file"):
        load_mnist(tmp_path / "file")


def test_a_wrong_checksum_gives_both(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write()
    found = CHECKSUMS[TEST_Y]
    monkeypatch.setitem(CHECKSUMS, TEST_Y, "0" * 32)
    with pytest.raises(DataError, match=rf"must have the md5 {'0' * 32}, found {found}") as caught:
        load_mnist(folder)
    assert str(folder / f"{TEST_Y}.gz") in str(caught.value)
    assert_says_what_to_do(caught.value)


@pytest.mark.parametrize("keep", [2, 12, 20, -1])
def test_a_truncated_gzip_is_named(write: Writer, keep: int) -> None:
    path = write() / f"{TRAIN_X}.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"damaged or truncated gzip file of \d+ bytes") as caught:
        load_mnist(path.parent)
    assert str(path) in str(caught.value) and "download it again" in str(caught.value)


def test_a_damaged_gzip_is_named(write: Writer) -> None:
    path = write() / f"{TRAIN_X}.gz"
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF  # in the CRC
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged or truncated gzip"):
        load_mnist(path.parent)


def test_images_where_labels_belong_are_named(write: Writer) -> None:
    folder = write(packed=False)
    (folder / TRAIN_Y).write_bytes((folder / TRAIN_X).read_bytes())
    with pytest.raises(DataError, match=r"with 1 dim: .* 0x00000801, found 0x00000803") as caught:
        load_mnist(folder)
    assert str(folder / TRAIN_Y) in str(caught.value)


def test_test_files_where_training_files_belong_are_named(write: Writer) -> None:
    folder = write(packed=False)
    (folder / TRAIN_X).write_bytes((folder / TEST_X).read_bytes())
    with pytest.raises(DataError, match=rf"{TRAIN_X} is not MNIST's: .* must have the md5"):
        load_mnist(folder)


def fake_datasets(load_dataset: Callable[[str], Any]) -> ModuleType:
    module = ModuleType("datasets")
    vars(module)["load_dataset"] = load_dataset
    return module


@pytest.fixture
def no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISSOM_DATA_DIR", "")


@pytest.mark.usefixtures("no_folder")
def test_mnist_from_the_hub(
    arrays: dict[str, NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = importlib.import_module("PIL.Image")
    asked = []

    def load_dataset(name: str) -> dict[str, dict[str, Any]]:
        asked.append(name)
        return {
            split: {"image": [image.fromarray(pixels) for pixels in x], "label": y.tolist()}
            for split, x, y in (
                ("train", arrays[TRAIN_X], arrays[TRAIN_Y]),
                ("test", arrays[TEST_X], arrays[TEST_Y]),
            )
        }

    monkeypatch.setitem(sys.modules, "datasets", fake_datasets(load_dataset))
    data = load("mnist")
    assert asked == ["ylecun/mnist"]
    assert data.train_x.shape == (5, 1, 2, 3) and data.test_x.shape == (4, 1, 2, 3)
    assert torch.equal((data.train_x.squeeze(1) * 255).byte(), torch.tensor(arrays[TRAIN_X]))
    assert data.test_y.tolist() == arrays[TEST_Y].tolist()


@pytest.mark.usefixtures("no_folder")
def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'lissom\[hub\]'") as caught:
        load("mnist")
    assert "ylecun/mnist" in str(caught.value)
    assert_says_what_to_do(caught.value)


@pytest.mark.usefixtures("no_folder")
@pytest.mark.parametrize("error", [ConnectionError("offline"), ValueError("no cache")])
def test_a_hub_out_of_reach_is_a_data_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def load_dataset(name: str) -> None:
        raise error

    monkeypatch.setitem(sys.modules, "datasets", fake_datasets(load_dataset))
    with pytest.raises(DataError, match=f"{type(error).__name__}: {error}") as caught:
        load("mnist")
    assert caught.value.__cause__ is error
    assert_says_what_to_do(caught.value)


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    return load("mnist")


@pytest.mark.real_data
def test_real_mnist(mnist: Dataset) -> None:
    assert mnist.train_x.shape == (60_000, 1, 28, 28) and mnist.test_x.shape == (10_000, 1, 28, 28)
    assert mnist.test_y.bincount().tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009
    ]  # fmt: skip
    assert mnist.train_y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.train_x.min() == 0 and mnist.train_x.max() == 1
    assert mnist.train_x.mean().item() == pytest.approx(0.1307, abs=1e-4)


@pytest.mark.real_data
def test_real_mnist_holds_out_each_class_in_its_share(mnist: Dataset) -> None:
    held = mnist.hold_out(5000, seed=0)
    assert held.valid_y is not None and len(held.train_y) == 55_000
    assert ((held.valid_y.bincount() - mnist.train_y.bincount() / 12).abs() < 1).all()
