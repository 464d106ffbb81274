"""JPEG CIFAR-10 from its archive, what can be wrong with it, and a small gated WRN on it."""

import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from products import exhaustive
from safetensors.torch import load_file
from typer.testing import CliRunner

import lissom
from lissom.cli import app
from lissom.data import cifar10, load, load_jpeg_cifar10
from lissom.errors import DataError
from lissom.models import wide_resnet

Writer = Callable[..., Path]
NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()
EACH = {"train": 4, "test": 2}


def photograph(part: str, label: int, number: int) -> NDArray[np.uint8]:
    """A smooth image of its own, so that JPEG keeps most of it."""
    rng = np.random.default_rng([len(part), label, number])
    corners = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize((32, 32), Image.Resampling.BILINEAR))


def jpeg(part: str, label: int, number: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(photograph(part, label, number)).save(content, "JPEG", quality=75)
    return content.getvalue()


def archive(names: list[str]) -> bytes:
    """train/<class>/NNNN.jpg and test/<class>/NNNN.jpg, in no order and with folders."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:xz") as packed:
        for part, each in EACH.items():
            for label, name in reversed(list(enumerate(names))):
                folder = tarfile.TarInfo(f"{part}/{name}")
                folder.type = tarfile.DIRTYPE
                packed.addfile(folder)
                for number in reversed(range(each)):
                    image = jpeg(part, label, number)
                    member = tarfile.TarInfo(f"{part}/{name}/{number:04}.jpg")
                    member.size = len(image)
                    packed.addfile(member, io.BytesIO(image))
    return content.getvalue()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Writer:
    """Writes a tiny archive under tmp_path; its sum is then the expected one."""
    monkeypatch.delenv("LISSOM_DATA_DIR", raising=False)

    def write_to(layout: str = "cifar10", names: list[str] = NAMES[:3]) -> Path:
        path = tmp_path / layout / cifar10.ARCHIVE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(archive(names))
        monkeypatch.setattr(cifar10, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
        return path

    return write_to


@pytest.mark.parametrize("layout", ["cifar10", "."])
def test_every_image_comes_once_in_the_order_of_its_name(
    write: Writer, tmp_path: Path, layout: str
) -> None:
    path = write(layout)
    data = load("jpeg-cifar10", tmp_path)
    assert (data.name, data.classes) == ("jpeg-cifar10", 3)
    for part, x, y in (
        ("train", data.train_x, data.train_y),
        ("test", data.test_x, data.test_y),
    ):
        each = EACH[part]
        assert x.shape == (3 * each, 3, 32, 32) and x.is_contiguous()
        assert y.tolist() == [label for label in range(3) for _ in range(each)]
        for i, image in enumerate(x):
            label, number = divmod(i, each)
            with Image.open(io.BytesIO(jpeg(part, label, number))) as decoded:
                pixels = torch.tensor(np.asarray(decoded))  # [h, w, 3]
            assert torch.equal((image * 255).round().byte(), pixels.permute(2, 0, 1))
            painted = torch.tensor(photograph(part, label, number)).permute(2, 0, 1)
            assert (image * 255 - painted).abs().mean() < 8
        assert x.min() >= 0 and 0.5 < float(x.max()) <= 1
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == {path}, "nothing is unpacked"


def test_the_argument_may_be_text_and_goes_before_the_environment(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    monkeypatch.setenv("LISSOM_DATA_DIR", str(tmp_path / "elsewhere"))
    assert len(load_jpeg_cifar10(str(tmp_path)).train_y) == 12
    monkeypatch.setenv("LISSOM_DATA_DIR", str(tmp_path))
    assert len(load_jpeg_cifar10().test_y) == 6


def assert_says_what_to_do(error: DataError) -> None:
    text = str(error)
    assert "JPEG CIFAR-10" in text and text.count("CIFAR-10") == text.count("JPEG CIFAR-10")
    assert (
        "Put cifar10-jpeg.tar.xz (18,455,524 bytes) into <data_dir>/cifar10 or <data_dir>" in text
    )
    assert "LISSOM_DATA_DIR" in text


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISSOM_DATA_DIR", "")
    with pytest.raises(DataError, match="no data_dir was given and LISSOM_DATA_DIR is") as caught:
        load_jpeg_cifar10()
    assert_says_what_to_do(caught.value)
    with pytest.raises(DataError, match=r"a folder at .*absent, found nothing") as caught:
        load_jpeg_cifar10(tmp_path / "absent")
    assert_says_what_to_do(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"a folder at .*file, found a file"):
        load_jpeg_cifar10(tmp_path / "file")
    with pytest.raises(DataError, match="there is no ") as caught:
        load_jpeg_cifar10(tmp_path)
    assert_says_what_to_do(caught.value)
    for place in (tmp_path / "cifar10", tmp_path):
        assert str(place / "cifar10-jpeg.tar.xz") in str(caught.value)


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_a_truncated_archive_is_named(write: Writer, tmp_path: Path, keep: int) -> None:
    path = write()
    content = path.read_bytes()[:keep]
    path.write_bytes(content)
    with pytest.raises(DataError, match="truncated or damaged: it must have the sha256") as caught:
        load_jpeg_cifar10(tmp_path)
    text = str(caught.value)
    assert str(path) in text and cifar10.SHA256 in text and f" {len(content):,} bytes" in text
    assert hashlib.sha256(content).hexdigest() in text
    assert_says_what_to_do(caught.value)


def test_another_archive_is_not_unpacked(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    monkeypatch.setattr(cifar10, "SHA256", "0" * 64)
    monkeypatch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(DataError, match=rf"must have the sha256 {'0' * 64}, found [0-9a-f]{{64}} "):
        load_jpeg_cifar10(tmp_path)


def test_a_python_without_lzma_is_a_data_error(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write()
    monkeypatch.setitem(sys.modules, "lzma", None)
    with pytest.raises(DataError, match=r"cannot be unpacked: .*lzma") as caught:
        load_jpeg_cifar10(tmp_path)
    assert str(path) in str(caught.value)


def test_it_has_one_name_only() -> None:
    with pytest.raises(DataError, match=r"no data set 'cifar10'\. Did you mean 'jpeg-cifar10'\?"):
        load("cifar10")


@exhaustive
def test_a_small_gated_wide_residual_network_from_the_archive_to_the_small_network(
    write: Writer, tmp_path: Path
) -> None:
    write(names=NAMES)
    run = tmp_path / "run"
    small = ["model.widen=1", "model.depth=10", "train.epochs=1", "train.batch_size=8"]
    small += ["method.gate_lr=60", "penalties.0.L0=2e-4", "optimizer.lr=0.01"]
    changes = [part for change in small for part in ("--set", change)]
    where = ["--data-dir", str(tmp_path), "--out", str(run)]
    for command in (["train", "louizos-wrn28-10", *where, *changes], ["shrink", str(run)]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    [event] = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    left = event["method"]["curves"]["open gates"]
    assert list(left) == [f"stage{n}.0.conv1.weight" for n in (1, 2, 3)]
    assert 3 <= sum(left.values()) < 16 + 32 + 64

    net = wide_resnet(10, 1, mean=[0.4913, 0.4821, 0.4465], std=[0.2452, 0.2428, 0.2606])
    net.load_state_dict(load_file(run / "model.safetensors"))
    shrunk = lissom.load(run / "small.safetensors", lambda: wide_resnet(10, 1, mean=[0] * 3,
                                                                        std=[1] * 3))  # fmt: skip
    widths = [shrunk.get_submodule(f"stage{n}.0.conv1").out_channels for n in (1, 2, 3)]
    assert widths == [max(1, n) for n in left.values()]
    pixels = load("jpeg-cifar10", tmp_path).test_x
    with torch.no_grad():
        answers = [module.eval()(pixels) for module in (net, shrunk)]
    torch.testing.assert_close(answers[0], answers[1])
    assert float(answers[0].std(0).max()) > 1e-3


@exhaustive
@pytest.mark.real_data
def test_real_jpeg_cifar10() -> None:
    """All names, and every tenth image: decoding all of them takes as long as the other tests."""
    folder = Path(os.environ["LISSOM_DATA_DIR"]).expanduser()
    if not any((place / cifar10.ARCHIVE).is_file() for place in (folder / "cifar10", folder)):
        pytest.skip("LISSOM_DATA_DIR holds no JPEG CIFAR-10")
    files = cifar10._unpacked(cifar10._find(folder))
    names = sorted(files)
    parts = {"train": 5000, "test": 1000}
    assert names == sorted(
        f"{part}/{name}/{i:04}.jpg" for part, n in parts.items() for name in NAMES for i in range(n)
    )
    some = {name: files[name] for name in names[::10]}
    for part, n in parts.items():
        x, y = cifar10._part(some, part, NAMES)
        assert x.shape == (n, 3, 32, 32) and y.bincount().tolist() == [n // 10] * 10
        assert x.min() == 0 and x.max() == 1
        # What the recipe normalises by.
        mean, std = x.mean((0, 2, 3)).tolist(), x.std((0, 2, 3)).tolist()
        assert mean == pytest.approx([0.4913, 0.4821, 0.4465], abs=0.01)
        assert std == pytest.approx([0.2452, 0.2428, 0.2606], abs=0.01)
