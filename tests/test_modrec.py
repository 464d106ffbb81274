"""Radio modulation: both layouts, what is refused, honest splits, its networks and recipes."""

import builtins
import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from products import exhaustive, sampled
from torch import Tensor, nn
from typer.testing import CliRunner

import lissom
from lissom.cli import app
from lissom.data import Dataset, ModRec, load, load_digits, load_modrec, pickles, rml
from lissom.data.dataset import stratified_choice
from lissom.data.rml import CLASSES, read_vectors
from lissom.data.signals import cells, whole_runs
from lissom.errors import DataError, LissomError, RecipeError
from lissom.models import ahmed_modrec, build, vt_cnn2
from lissom.recipes import make_data, make_example, make_groups, make_model, read_recipe

AM_SSB = CLASSES.index("AM-SSB")
Arrays = dict[str, NDArray[Any]]
Cells = dict[tuple[str, int], NDArray[Any]]


@pytest.fixture(autouse=True)
def no_folder(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if not request.node.get_closest_marker("real_data"):
        monkeypatch.delenv("LISSOM_DATA_DIR", raising=False)


def tiny(snrs: tuple[int, ...] = (-6, -4, 10), runs: int = 5, each: int = 3) -> Arrays:
    """Class by class and SNR by SNR, `runs` runs of 1 … each vectors that tell their index."""
    y, snr, run = [], [], []
    for number, (label, level, _) in enumerate(
        (label, level, i) for label in range(11) for level in snrs for i in range(runs)
    ):
        for _ in range(1 + number % each):
            y.append(label)
            snr.append(level)
            run.append(number)
    x = np.random.default_rng(0).standard_normal((len(y), 2, 128)).astype(np.float16)
    return {
        "X": x,
        "y": np.array(y, np.uint8),
        "snr": np.array(snr, np.int8),
        "run": np.array(run, np.int32),
        "classes": np.array(CLASSES),
    }


def write_npz(path: Path, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = tiny() | changes
    np.savez_compressed(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


def tiny_cells(each: int = 2, snrs: tuple[int, ...] = (-6, -4, 10)) -> Cells:
    rng = np.random.default_rng(1)
    return {
        (name, snr): rng.standard_normal((each, 2, 128)).astype(np.float32)
        for snr in reversed(snrs)
        for name in reversed(CLASSES)
    }


class Python2(pickle._Pickler):
    """Writes text and bytes as Python 2 wrote its str."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)

    def save_str2(self: Any, text: str | bytes) -> None:
        content = text.encode("latin1") if isinstance(text, str) else text
        if self.proto == 0:
            escaped = "".join(
                chr(c) if 32 <= c < 127 and c not in (39, 92) else f"\\x{c:02x}" for c in content
            )
            self.write(b"S'" + escaped.encode() + b"'\n")
        elif len(content) < 256:
            self.write(b"U" + bytes([len(content)]) + content)
        else:
            self.write(b"T" + struct.pack("<i", len(content)) + content)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_str2


def dumped(content: object, protocol: int = 2, python2: bool = True) -> bytes:
    written = io.BytesIO()
    kind = Python2 if python2 else pickle.Pickler
    kind(written, protocol, fix_imports=True).dump(content)
    return written.getvalue()


def write_pickle(path: Path, content: object = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else dumped(content or tiny_cells(), 2))
    return path


def power(x: Tensor) -> Tensor:
    return x.double().square().sum((1, 2, 3)) / 128


def test_npz_is_read_as_it_is_written(tmp_path: Path) -> None:
    arrays = tiny()
    path = write_npz(tmp_path / "modrec" / "rml2016-like.npz")
    data = load("modrec", tmp_path)
    assert isinstance(data, ModRec) and isinstance(data, Dataset)
    assert (data.name, data.classes, data.names) == ("rml2016-like-part", 11, CLASSES)
    assert repr(data).startswith("Dataset(rml2016-like-part: ")
    kept = arrays["snr"] >= -4
    assert len(data.train_y) + len(data.test_y) == kept.sum()

    x = arrays["X"][kept].astype(np.float64)
    x /= np.sqrt((x**2).sum((1, 2), keepdims=True) / 128)
    seen = 0
    for part in ("train", "test"):
        y, snr = getattr(data, f"{part}_y"), getattr(data, f"{part}_snr")
        run, found = getattr(data, f"{part}_run"), getattr(data, f"{part}_x")
        assert found.dtype == torch.float32 and found.shape == (len(y), 1, 2, 128)
        assert found.is_contiguous()
        torch.testing.assert_close(power(found), torch.ones(len(y), dtype=torch.float64))
        for example, label, level, number in zip(found, y, snr, run, strict=True):
            near = np.abs(x - example[0].numpy()).max((1, 2))
            [i] = np.flatnonzero(near < 1e-5)
            columns = (arrays[key][kept][i] for key in ("y", "snr", "run"))
            assert (int(label), int(level), int(number)) == tuple(map(int, columns))
            seen += 1
    assert seen == kept.sum()
    assert read_vectors(path).x.dtype == np.float16


@pytest.mark.parametrize(
    ("python2", "protocol"),
    [*((True, protocol) for protocol in range(3)), *((False, protocol) for protocol in range(5))],
)
def test_pickles_of_both_pythons_are_read(tmp_path: Path, python2: bool, protocol: int) -> None:
    given = tiny_cells()
    path = write_pickle(tmp_path / "some.pkl", dumped(given, protocol, python2))
    found = read_vectors(path)
    assert found.name == "rml2016.10a-layout" and found.run is None
    order = sorted(given)
    assert np.array_equal(found.x, np.concatenate([given[key] for key in order]))
    assert found.y.tolist() == [CLASSES.index(name) for name, _ in order for _ in range(2)]
    assert found.snr.tolist() == [snr for _, snr in order for _ in range(2)]


def test_arrays_by_columns_of_other_byte_orders_and_numpy_numbers(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 2, 128))
    given = {
        ("QPSK", np.int64(4)): np.asfortranarray(x.astype(">f8")),
        (np.str_("BPSK"), -4): x.astype("<f2"),
    }
    with pytest.raises(DataError, match=r"asks for numpy\._?core\.multiarray\.scalar|'U4'"):
        read_vectors(write_pickle(tmp_path / "text.pkl", dumped(given, python2=False)))
    del given[np.str_("BPSK"), -4]
    given["BPSK", -4] = x.astype("<f2")
    found = read_vectors(write_pickle(tmp_path / "some.pkl", dumped(given, python2=False)))
    assert np.array_equal(found.x[3:], x) and np.array_equal(found.x[:3], x.astype("f2"))
    assert found.snr.tolist() == [-4] * 3 + [4] * 3


def test_names_say_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published name needs the published counts: here 2 of each instead of 1,000."""
    monkeypatch.setattr(rml, "EACH", 2)
    published, ours = tuple(range(-20, 20, 2)), tuple(range(-4, 20, 2))

    def name_of(content: Cells) -> str:
        return read_vectors(write_pickle(tmp_path / "x.pkl", content)).name

    full = tiny_cells(2, published)
    assert name_of(full) == "rml2016.10a"
    assert name_of(tiny_cells(1, published)) == "rml2016.10a-layout"
    assert name_of(tiny_cells(3, published)) == "rml2016.10a-layout"
    assert name_of(tiny_cells(2, published[1:])) == "rml2016.10a-layout"
    assert name_of(tiny_cells(2, (*published, 20))) == "rml2016.10a-layout"
    assert name_of({k: v for k, v in full.items() if k[0] != "WBFM"}) == "rml2016.10a-layout"
    assert name_of({k: v[: 1 + (k[1] > 0)] for k, v in full.items()}) == "rml2016.10a-layout"

    for snrs, name in ((ours, "rml2016-like"), (published, "rml2016-like-part")):
        path = write_npz(tmp_path / "RML2016.10a_dict.npz", **tiny(snrs, runs=2, each=1))
        assert read_vectors(path).name == name
    data = load_modrec(file=path, snr_min=18, test_fraction=0.5)
    assert data.name == "rml2016-like-part" and set(data.test_snr.tolist()) == {18}


def test_the_first_name_is_read_wherever_it_lies(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no ") as caught:
        load_modrec(tmp_path)
    for folder in (tmp_path / "modrec", tmp_path):
        assert all(str(folder / name) in str(caught.value) for name in lissom_files())
    write_pickle(tmp_path / "RML2016.10a_dict-sample.pkl")
    assert load_modrec(tmp_path).name == "rml2016.10a-layout"
    write_npz(tmp_path / "modrec" / "rml2016-like-small.npz", **tiny(runs=4))
    assert len(read_back(load_modrec(tmp_path))) == len(read_small(4))
    write_npz(tmp_path / "rml2016-like.npz", **tiny(runs=6))
    assert len(read_back(load_modrec(tmp_path))) == len(read_small(6))
    write_pickle(tmp_path / "RML2016.10a_dict.pkl")
    assert load_modrec(tmp_path).name == "rml2016.10a-layout"
    write_npz(tmp_path / "modrec" / "rml2016-like.npz", **tiny(runs=7))
    named = load_modrec(tmp_path, file="rml2016-like.npz")
    assert len(read_back(named)) == len(read_small(7))


def lissom_files() -> list[str]:
    like = ["rml2016-like.npz", "rml2016-like-small.npz"]
    return ["RML2016.10a_dict.pkl", *like, "RML2016.10a_dict-sample.pkl"]


def read_back(data: ModRec) -> Tensor:
    return torch.cat([data.train_y, data.test_y])


def read_small(runs: int) -> NDArray[Any]:
    arrays = tiny(runs=runs)
    return arrays["y"][arrays["snr"] >= -4]


def test_a_file_is_named_by_its_path_or_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_npz(tmp_path / "elsewhere" / "mine.npz")
    assert load_modrec(file=path).name == "rml2016-like-part"
    assert load_modrec("absent", file=str(path)).name == "rml2016-like-part"
    monkeypatch.setenv("LISSOM_DATA_DIR", str(tmp_path / "elsewhere"))
    assert load_modrec(file="mine.npz").name == "rml2016-like-part"
    with pytest.raises(DataError, match=r"there is no .*elsewhere/modrec/my\.npz or .*/my\.npz or"):
        load_modrec(file="my.npz")
    monkeypatch.setenv("LISSOM_DATA_DIR", "")
    with pytest.raises(DataError, match="no data_dir was given and LISSOM_DATA_DIR is unset") as e:
        load_modrec()
    assert "Put one of RML2016.10a_dict.pkl, rml2016-like.npz" in str(e.value)
    with pytest.raises(DataError, match=r"expected a folder at .*absent, found nothing"):
        load_modrec(tmp_path / "absent")


class Call:
    """Something that a pickle would run."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.how = function, arguments

    def __reduce__(self) -> Any:
        return self.how


def with_objects(thing: object) -> dict[tuple[str, int], Any]:
    array = np.empty((2, 2, 128), dtype=object)
    array[:] = 0.0
    array[0, 0, 0] = thing
    return {("QPSK", 4): array}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("where", ["top", "value", "key", "object array"])
@pytest.mark.parametrize("what", ["system", "eval"])
def test_a_hostile_pickle_runs_nothing(
    tmp_path: Path, protocol: int, where: str, what: str
) -> None:
    mark = tmp_path / "run"
    call = (
        Call(os.system, f"touch {mark}")
        if what == "system"
        else Call(builtins.eval, f"open({str(mark)!r}, 'w')")
    )
    content = {
        "top": call,
        "value": {("QPSK", 4): call},
        "key": {call: 1},
        "object array": with_objects(call),
    }[where]
    written = dumped(content, protocol, python2=False)
    if written.startswith(b"c"):
        written = b"(" + written  # it starts as a dict does, or it would not even be opened
    path = write_pickle(tmp_path / "x.pkl", written)
    with pytest.raises(DataError, match=rf"asks for \w+\.{what}, which is refused") as caught:
        load_modrec(file=path)
    assert str(path) in str(caught.value) and not mark.exists()
    pickle.loads(dumped(call, protocol, python2=False))
    assert mark.exists(), "it would have been run"


def test_nothing_but_the_known_names_is_given_out(tmp_path: Path) -> None:
    reader = pickles._Unpickler(io.BytesIO())
    for module, name in (
        ("numpy", "load"),
        ("numpy", "memmap"),
        ("numpy", "ndarray.tofile"),
        ("numpy.core.multiarray", "fromfile"),
        ("builtins", "getattr"),
        ("copyreg", "_reconstructor"),
        ("_codecs", "decode"),
        ("posix", "system"),
    ):
        with pytest.raises(DataError, match=rf"asks for {module}\.{name}"):
            reader.find_class(module, name)
    # None of them is numpy's or a codec: they only note what is in the file.
    given_out = {reader.find_class(*known).__module__ for known in pickles.KNOWN}
    assert given_out == {"lissom.data.pickles"}
    for content, message in (
        (b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x03\0\0\0hex\x86R.", "bytes encoded as 'hex'"),
        (b"\x80\x02\x82\x01.", "uses copyreg's extensions"),
        (b"\x80\x02X\x01\0\0\0aQ.", "is no pickle of plain data"),
        # Attributes on what is given out: BUILD with slots on the class or its stand-in.
        (b"\x80\x02cnumpy\ndtype\nN}X\x01\0\0\0aK\x01s\x86b.", "is no pickle of plain data"),
        (b"\x80\x02c_codecs\nencode\nN}X\x01\0\0\0aK\x01s\x86b.", "is no pickle of plain data"),
    ):
        with pytest.raises(DataError, match=message):
            read_vectors(write_pickle(tmp_path / "x.pkl", content))
    assert not hasattr(pickles._DType, "a") and not hasattr(pickles._Latin1, "a")


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "x.pkl", dumped(with_objects(1.0), python2=False))
    with pytest.raises(DataError, match=r"\('QPSK', 4\) is an array of type 'O8'; only numbers"):
        load_modrec(file=path)
    path = write_npz(tmp_path / "x.npz", X=with_objects(1.0)["QPSK", 4])
    with pytest.raises(DataError, match=r"no npz file of plain arrays.*allow_pickle=False"):
        load_modrec(file=path)


def array_pickle(shape: tuple[object, ...], content: bytes, dtype: str = "f4") -> bytes:
    """One cell whose array claims a shape and holds some bytes."""

    class Claimed:
        def __reduce__(self) -> Any:
            made = np.ndarray.__reduce__(np.zeros(1, np.float32))
            return made[0], made[1], (1, shape, np.dtype(dtype), False, content)

    return dumped({("QPSK", 4): Claimed()}, python2=False)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((10**12, 2, 128), r"float32 \[1000000000000, 2, 128\] takes 1,024,000,000,000,000 bytes"),
        ((2, 2, 128), "takes 2,048 bytes, found 1,024 bytes"),
        ((-1, 2, -128), "takes 1,024 bytes, found 1,024"),
        (("many",), "an array that is none"),
    ],
)
def test_an_array_is_as_large_as_its_bytes(
    tmp_path: Path, shape: tuple[object, ...], message: str
) -> None:
    path = write_pickle(tmp_path / "x.pkl", array_pickle(shape, bytes(1024)))
    with pytest.raises(DataError, match=message) as caught:
        read_vectors(path)
    assert str(path) in str(caught.value) and "('QPSK', 4)" in str(caught.value)
    path.write_bytes(array_pickle((1, 2, 128), bytes(1024)))
    assert not read_vectors(path).x.any()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}r\xff\xff\xff\x01.",  # a memo with an index of 2**25 − 1
        b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.",  # bytes
        b"\x80\x05\x96" + struct.pack("<Q", 2**28) + b"x.",  # a bytearray
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # a number
        b"\x80\x02T\xff\xff\xff\xff.",  # text of −1 bytes
    ],
)
def test_claimed_sizes_take_no_memory(tmp_path: Path, content: bytes) -> None:
    path = write_pickle(tmp_path / "x.pkl", content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"x\.pkl"):
            read_vectors(path)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


def test_an_npz_that_claims_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = io.BytesIO()
    claimed = {"descr": "<f2", "fortran_order": False, "shape": (10**11, 2, 128)}
    np.lib.format.write_array_header_1_0(header, claimed)
    path = write_npz(tmp_path / "x.npz", X=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("X.npy", header.getvalue() + bytes(1024))
    with pytest.raises(DataError, match="no npz file of plain arrays, or is truncated"):
        read_vectors(path)
    path = write_npz(tmp_path / "zeros.npz", X=np.zeros((40_000, 2, 128), np.float16))
    monkeypatch.setattr(rml, "MAX_BYTES", 10**7)
    assert path.stat().st_size < 10**6
    with pytest.raises(DataError, match=r"unpacks to 20,\d{3},\d{3} bytes; at most 10,000,000"):
        read_vectors(path)


@pytest.mark.parametrize("kind", ["npz", "pkl"])
def test_truncated_files_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    write_npz(path) if kind == "npz" else write_pickle(path)
    content = path.read_bytes()
    for keep in (1, 5, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:keep])
        with pytest.raises(DataError, match=r"copy it again|neither an npz file nor") as e:
            read_vectors(path)
        assert str(path) in str(e.value)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is empty, 0 bytes; copy it again"):
        read_vectors(path)


def test_damaged_npz(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="truncated or damaged"):
        read_vectors(path)


@given(tail=st.binary(max_size=60), start=st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04", b"("]))
def test_any_bytes_are_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, start: bytes, tail: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(start + tail)
    with pytest.raises(DataError):
        read_vectors(path)


def test_other_kinds_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "RML2016.10a_dict.pkl"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(DataError, match=r"neither an npz file nor a pickle .* with 0x89504e47"):
        load_modrec(tmp_path)
    write_pickle(path)
    monkeypatch.setattr(pickles, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match=r"has [\d,]+ bytes; at most 1,000 are read"):
        load_modrec(tmp_path)


X = np.ones((1, 2, 128), np.float32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "must hold a dict .* found a list"),
        ({("LTE", 4): X}, r"has the key \('LTE', 4\), but keys are .* such as \('QPSK', 8\)"),
        ({"QPSK": X}, "has the key 'QPSK', but keys are"),
        ({("QPSK", 4.5): X}, r"has the key \('QPSK', 4\.5\)"),
        ({("QPSK", 10**30): X}, "has the key"),
        ({("QPSK", 4, 1): X}, "has the key"),
        ({("QPSK", 4): 3}, r"\('QPSK', 4\) is a int, needed is \{\(modulation, SNR in dB\)"),
        ({("QPSK", 4): X[0]}, r"\('QPSK', 4\) must be floats \[n, 2, 128\], .* float32 \[2, 128\]"),
        ({("QPSK", 4): X[..., :64]}, r"found float32 \[1, 2, 64\]"),
        ({("QPSK", 4): X.astype(int)}, r"found int64 \[1, 2, 128\]"),
        ({("QPSK", 4): X[:0]}, r"n ≥ 1, found float32 \[0, 2, 128\]"),
        ({("QPSK", 4): X * np.inf}, r"1 vectors with NaN or infinite samples, .* QPSK at 4 dB"),
    ],
)
def test_dicts_of_other_things(tmp_path: Path, content: object, message: str) -> None:
    path = write_pickle(tmp_path / "x.pkl", dumped(content))
    with pytest.raises(DataError, match=message) as caught:
        read_vectors(path)
    assert str(path) in str(caught.value)


def changed(key: str, at: int, value: float) -> Arrays:
    array = tiny()[key].astype(np.float32 if key == "X" else np.int64)
    array.reshape(len(array), -1)[at, 0] = value
    return {key: array}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": None, "snr": None}, r"lacks snr, run: X \[n, 2, 128\], y, .*found X, y, classes"),
        ({"classes": np.array(["a", "b"])}, r"has classes \['a', 'b'\], not \['8PSK', 'AM-DSB',"),
        ({"X": tiny()["X"][:, :1]}, r"X must be floats \[n, 2, 128\], .* float16 \[\d+, 1, 128\]"),
        ({"X": tiny()["X"].astype(np.int8)}, r"X must be floats .* found int8"),
        ({"y": tiny()["y"][:-1]}, r"y must be whole numbers \[\d+\], .* found uint8 \[\d+\]"),
        ({"snr": tiny()["snr"] + 0.5}, r"snr must be whole numbers .* found float"),
        (changed("y", 0, 11), "y goes from 0 to 11, not within 0 … 10"),
        (changed("y", 0, -1), "y goes from -1 to 10"),
        (changed("X", 7, np.nan), "1 vectors with NaN or infinite samples, the first of them 8PSK"),
        (changed("snr", 1, 10), "run 1 has vectors of 2 classes or SNRs"),
    ],
)
def test_npz_of_other_things(tmp_path: Path, changes: Arrays, message: str) -> None:
    path = write_npz(tmp_path / "x.npz", **changes)
    with pytest.raises(DataError, match=message) as caught:
        load_modrec(file=path)
    assert str(path) in str(caught.value)


def test_vectors_of_zeros_and_of_extreme_sizes(tmp_path: Path) -> None:
    x = tiny()["X"].astype(np.float32)
    x[0] = 0
    x[1] *= 1e37
    x[2] *= 1e-42
    path = write_npz(tmp_path / "x.npz", X=x)
    data = load_modrec(file=path, snr_min=-6)
    found = torch.cat([power(data.train_x), power(data.test_x)]).sort().values
    assert found[0] == 0
    torch.testing.assert_close(found[1:], torch.ones_like(found[1:]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"snr_min": float("nan")}, "snr_min is a number of dB, such as -4, got nan"),
        ({"snr_min": "low"}, "snr_min is a number of dB, such as -4, got 'low'"),
        ({"snr_min": 11}, r"nothing in the train part with snr_min=11 .* from -6 to 10 dB"),
        ({"split": "runs"}, "split is 'run', 'cell' or None, got 'runs'"),
        ({"am_ssb": True}, "am_ssb is 'noise', as published, or 'true', got True"),
        ({"test_fraction": 0}, "test_fraction is a number 0 < f < 1, got 0"),
        ({"test_fraction": 1.0}, "got 1.0"),
        ({"test_fraction": 1e-6}, "nothing in the test part .* test_fraction=1e-06"),
        ({"seed": -1}, r"a seed is a whole number from 0 to 2\*\*32 - 1, got -1"),
        ({"am_ssb": "true"}, r"needs .*am-ssb-true\.npz, which is not there; or use am_ssb='noise"),
    ],
)
def test_impossible_options_are_quoted(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    path = write_npz(tmp_path / "x.npz")
    with pytest.raises(DataError, match=message):
        load_modrec(file=path, **options)


def test_a_pickle_has_no_runs_and_no_other_am_ssb(tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "x.pkl", tiny_cells(5))
    with pytest.raises(DataError, match=r"split='run' needs the runs .* split='cell' goes without"):
        load_modrec(file=path, split="run")
    with pytest.raises(DataError, match=r"goes with RML2016-like files.* is a pickle: use am_ssb="):
        load_modrec(file=path, am_ssb="true")
    data = load_modrec(file=path)
    assert data.train_run is None and data.test_run is None
    # One of five of each cell, and one of the four that are left.
    assert (data.test_y.bincount() == 2).all() and len(data.test_y) == 22
    held = data.hold_out(22, seed=0)
    assert held.valid_snr is not None and held.valid_y is not None and held.valid_run is None
    cell = cells(held.valid_y.numpy(), held.valid_snr.numpy())
    assert np.bincount(cell).tolist() == [1] * 22


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=60),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_whole_runs_give_their_share(sizes: list[int], share: float, seed: int) -> None:
    run = np.repeat(np.arange(len(sizes)) * 7, sizes)
    y, snr = (run // 7) % 3, (run // 21) % 2 * 4 - 2
    order = np.random.RandomState(0).permutation(len(run))  # a run need not lie together
    run, y, snr = run[order], y[order], snr[order]
    n, longest = int(share * len(run)), max(sizes)
    chosen = whole_runs(y, snr, run, n, seed)
    for number in set(run.tolist()):
        assert len(set(chosen[run == number].tolist())) == 1
    assert abs(chosen.sum() - n) <= longest / 2
    for groups in (y, cells(y, snr)):
        for group in set(groups.tolist()):
            there = groups == group
            assert abs(chosen[there].sum() - n * there.sum() / len(run)) <= longest
    assert np.array_equal(whole_runs(y, snr, run, n, seed), chosen)


def runs_of(data: ModRec, part: str) -> set[int]:
    return set(getattr(data, f"{part}_run").tolist())


def test_runs_stay_on_their_side(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz", **tiny(runs=8))
    data = load_modrec(file=path).hold_out(60, seed=1)
    parts = [runs_of(data, part) for part in ("train", "test", "valid")]
    assert all(parts) and sum(map(len, parts)) == len(set.union(*parts)) == 11 * 2 * 8
    assert isinstance(data, ModRec) and data.valid_snr is not None and data.valid_y is not None
    assert abs(len(data.valid_y) - 60) <= 1.5
    cells_there = {*zip(data.test_y.tolist(), data.test_snr.tolist(), strict=True)}
    assert len(cells_there) == 22

    mixed = load_modrec(file=path, split="cell")
    assert runs_of(mixed, "train") & runs_of(mixed, "test")


def test_splits_repeat_and_follow_their_seed_alone(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz")

    def split(seed: int, **options: Any) -> set[int]:
        torch.manual_seed(seed + 5)
        np.random.seed(seed + 5)
        return runs_of(load_modrec(file=path, seed=seed, **options), "test")

    first = split(0)
    np.random.seed(99)
    assert split(0) == first != split(1)
    # A vector is on the same side whatever is left out.
    arrays = tiny()
    loud = set(arrays["run"][arrays["snr"] == 10].tolist())
    assert split(0, snr_min=10) == first & loud
    assert first < split(0, snr_min=-20)

    data = load_modrec(file=path)
    valid = [data.hold_out(30, seed).valid_x for seed in (0, 0, 1)]
    assert valid[0] is not None and valid[1] is not None and valid[2] is not None
    assert torch.equal(valid[0], valid[1])
    assert valid[0].shape != valid[2].shape or not torch.equal(valid[0], valid[2])


def test_too_few_to_hold_out_are_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "x.npz", **tiny(runs=2, each=3))
    data = load_modrec(file=path, test_fraction=0.5)
    with pytest.raises(DataError, match=r"1 of \d+ training examples in whole runs are none of"):
        ModRec(**(vars(data) | {"train_run": torch.zeros_like(data.train_y)})).hold_out(1, 0)
    with pytest.raises(DataError, match="hold_out once"):
        data.hold_out(10, 0).hold_out(10, 0)


def test_plain_data_sets_are_held_out_as_before() -> None:
    data = load_digits()
    chosen = torch.from_numpy(stratified_choice(data.train_y.numpy(), 300, 7))
    held = data.hold_out(300, seed=7)
    assert type(held) is Dataset and held.valid_x is not None and held.valid_y is not None
    assert torch.equal(held.train_x, data.train_x[~chosen])
    assert torch.equal(held.train_y, data.train_y[~chosen])
    assert torch.equal(held.valid_x, data.train_x[chosen])
    assert torch.equal(held.valid_y, data.train_y[chosen])
    assert held.test_x is data.test_x and held.to("cpu").test_x is data.test_x


def test_columns_are_carried_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_modrec(file=write_npz(tmp_path / "x.npz")).hold_out(40, seed=0)
    centered = data.centered()
    assert centered.train_x.mean(0).abs().max() < 1e-6
    for name in ("train_snr", "valid_snr", "test_snr", "train_run", "valid_run", "names"):
        assert getattr(centered, name) is getattr(data, name)
    asked: list[str] = []

    def to(tensor: Tensor, device: str) -> Tensor:
        asked.append(device)
        return tensor.clone()

    monkeypatch.setattr(Tensor, "to", to)
    moved = data.to("elsewhere")
    assert asked == ["elsewhere"] * 12
    assert torch.equal(moved.test_snr, data.test_snr) and moved.test_snr is not data.test_snr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("a", "b")}, r"classes=11, but names=\('a', 'b'\)"),
        ({"test_snr": torch.zeros(3).long()}, r"test_snr must be int64 \[\d+\], .* int64 \[3\]"),
        ({"train_snr": None}, "train_snr is missing"),
        ({"test_run": None}, "test_run is missing"),
        ({"train_run": None}, r"test_run is given, int64 \[\d+\],"),
        ({"valid_snr": torch.zeros(3).long()}, "valid_snr is given"),
    ],
)
def test_columns_that_do_not_fit_are_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    data = load_modrec(file=write_npz(tmp_path / "x.npz"))
    with pytest.raises(DataError, match=message):
        ModRec(**(vars(data) | changes))


def test_the_label_is_half_of_the_ratio(tmp_path: Path) -> None:
    data = load_modrec(file=write_npz(tmp_path / "x.npz"))
    assert data.test_ratio.dtype == torch.float32
    assert set(data.test_ratio.tolist()) == {-8.0, 20.0}


def test_the_true_am_ssb_takes_the_place_of_noise(tmp_path: Path) -> None:
    arrays = tiny()
    path = write_npz(tmp_path / "x.npz", **arrays)
    n = 40
    true: Arrays = {
        "X": np.random.default_rng(5).standard_normal((3 * n, 2, 128)).astype(np.float16),
        "y": np.full(3 * n, AM_SSB, np.uint8),
        "snr": np.repeat([-6, -4, 10], n).astype(np.int8),
        "run": np.tile(np.arange(n) // 2 + 10**6, 3).astype(np.int32),  # again at every SNR
    }
    write_npz(tmp_path / "am-ssb-true.npz", **true)
    noise = load_modrec(file=path, snr_min=-6)
    data = load_modrec(file=path, am_ssb="true", snr_min=-6)
    assert data.name == "rml2016-like-part with true AM-SSB"
    assert torch.equal(read_back(data).bincount(), read_back(noise).bincount())
    assert not runs_of(data, "train") & runs_of(data, "test")
    x = torch.cat([data.train_x, data.test_x])[read_back(data) == AM_SSB]
    given = torch.from_numpy(true["X"].astype(np.float32)).flatten(1)
    match = nn.functional.cosine_similarity(x.flatten(1)[:, None], given[None], dim=2).max(1)
    assert (match.values > 0.9999).all() and len(set(match.indices.tolist())) == len(x)
    snr = torch.cat([data.train_snr, data.test_snr])[read_back(data) == AM_SSB]
    assert torch.equal(snr, torch.from_numpy(true["snr"])[match.indices].long())
    others = [
        torch.cat([d.train_x, d.test_x])[read_back(d) != AM_SSB].flatten(1) for d in (noise, data)
    ]
    assert torch.equal(*(x[x[:, 0].argsort()] for x in others))
    write_npz(tmp_path / "am-ssb-true.npz", **(true | {"y": true["y"] * (true["snr"] < 10)}))
    with pytest.raises(DataError, match=r"has 0 vectors of AM-SSB at 10 dB, needed are \d+"):
        load_modrec(file=path, am_ssb="true")


def test_load_passes_options_and_refuses_those_of_others(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "rml2016-like.npz")
    data = load("modrec", tmp_path, snr_min=10, file=str(path))
    assert isinstance(data, ModRec) and set(data.train_snr.tolist()) == {10}
    with pytest.raises(DataError, match=r"'modrec' has no option 'snr'\. Did you mean 'snr_min'"):
        load("modrec", tmp_path, snr=4)
    for name in ("digits", "mnist"):
        with pytest.raises(DataError, match=rf"{name!r} has no option 'snr_min'\. It has none"):
            load(name, snr_min=4)
    assert len(load("digits").train_y) == len(load_digits().train_y)


SMALL = ["model.name=ahmed-modrec", "method=none", "penalties=none", "data.name=modrec"]


def test_recipes_name_the_data_and_the_network(tmp_path: Path) -> None:
    write_npz(tmp_path / "rml2016-like.npz")
    recipe = read_recipe("digits-demo", [*SMALL, "data.snr_min=10", "data.validation=10"])
    data = make_data(recipe, tmp_path, seed=3)
    assert isinstance(data, ModRec) and set(data.train_snr.tolist()) == {10}
    assert data.valid_y is not None and abs(len(data.valid_y) - 10) <= 1.5
    other = make_data(recipe, tmp_path, seed=4)
    assert isinstance(other, ModRec) and torch.equal(other.test_x, data.test_x)
    moved = [*SMALL, "data.split_seed=1", "data.test_fraction=0.5", "data.split=cell"]
    again = make_data(read_recipe("digits-demo", moved), tmp_path)
    assert len(again.test_y) != len(data.test_y)
    assert read_recipe("digits-demo", moved).data.options() == {
        "seed": 1,
        "test_fraction": 0.5,
        "split": "cell",
    }
    net = make_model(recipe, (1, 2, 128), 11)
    assert net(data.train_x[:2]).shape == (2, 11)
    for name in ("ahmed-modrec", "vt-cnn2"):
        recipe = read_recipe("digits-demo", [f"model.name={name}"])
        with pytest.raises(
            RecipeError, match=rf"'{name}' does not take examples of 1×8×8, as digits has"
        ):
            make_model(recipe, (1, 8, 8), 10)
    recipe = read_recipe("digits-demo", [*SMALL, "model.name=vt-cnn2", "model.dropout=0.25"])
    dropout = make_model(recipe, (1, 2, 128), 11).get_submodule("drop3")
    assert isinstance(dropout, nn.Dropout) and dropout.p == 0.25


def test_a_recipe_trains_on_it(tmp_path: Path) -> None:
    write_npz(tmp_path / "rml2016-like-small.npz", **tiny(runs=3))
    changes = [*SMALL, "train.epochs=1", "train.cosine_from=0", "train.average_from=0"]
    changes += ["data.validation=10", "data.test_fraction=0.3"]
    arguments = [part for change in changes for part in ("--set", change)]
    where = ["--data-dir", str(tmp_path), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, ["train", "digits-demo", *where, *arguments])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert (record["shape"], record["classes"]) == ([1, 2, 128], 11)
    assert record["recipe"]["data"] == {
        "name": "modrec",
        "validation": 10,
        "center": False,
        "bootstrap": False,
        "test_fraction": 0.3,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.snr_min=4"], "data.snr_min: only 'modrec' has a snr_min to choose, not 'digits'"),
        (["data.am_ssb=true"], "data.am_ssb"),
        (["data.file=x.npz"], "data.file: only 'modrec' has a file to choose, not 'digits'"),
        (["data.split_seed=3"], "only 'modrec' has a split_seed to choose"),
        ([*SMALL, "data.split=runs"], r"data\.split: .*'run' or 'cell', got 'runs'"),
        ([*SMALL, "data.test_fraction=1.0"], r"data\.test_fraction: .*less than 1, got 1"),
        ([*SMALL, "model.dropout=0.5"], "has no dropout; only 'vt-cnn2' and"),
        ([*SMALL, "model.kernels=[3]"], r"kernels as two whole numbers ≥ 1, got \[3\]"),
        ([*SMALL, "train.augment={flip=true}"], "train.augment: crops and flips are of images"),
    ],
)
def test_recipes_refuse_what_does_not_fit(changes: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe("digits-demo", changes)


def test_vt_cnn2_has_its_published_sizes() -> None:
    net = vt_cnn2()
    assert sum(p.numel() for p in net.parameters()) == 2_830_427
    shapes = [tuple(p.shape) for p in net.parameters() if p.ndim > 1]
    assert shapes == [(256, 1, 1, 3), (80, 256, 2, 3), (256, 10_560), (11, 256)]
    assert net[:2](torch.rand(1, 1, 2, 128)).shape == (1, 256, 2, 130)
    assert [name for name, _ in net.named_children()] == (
        "conv1 act1 drop1 conv2 act2 drop2 flatten fc1 act3 drop3 fc2".split()
    )
    assert all(layer.p == 0.5 for layer in net if isinstance(layer, nn.Dropout))
    conv, dense = net.get_parameter("conv2.weight"), net.get_parameter("fc1.weight")
    bound = (6 / (6 * 256 + 6 * 80)) ** 0.5
    assert 0.99 * bound < conv.abs().max() <= bound
    assert dense.std().item() == pytest.approx((2 / 10_560) ** 0.5, rel=0.01)
    assert not any(p.any() for name, p in net.named_parameters() if name.endswith("bias"))
    assert build("vt-cnn2", classes=3, dropout=0.1)(torch.rand(2, 1, 2, 128)).shape == (2, 3)


def test_ahmeds_network_is_vt_cnn2_without_dropout() -> None:
    torch.manual_seed(0)
    ahmed = build("ahmed-modrec")
    torch.manual_seed(0)
    other = vt_cnn2(dropout=0)
    assert [name for name, _ in ahmed.named_children()] == (
        "conv1 act1 conv2 act2 flatten fc1 act3 fc2".split()
    )
    x = torch.rand(2, 1, 2, 128)
    assert torch.equal(ahmed(x), other(x)) and torch.equal(ahmed(x), ahmed(x))


def test_ahmeds_network_may_have_other_sizes() -> None:
    recipe = read_recipe("digits-demo", [*SMALL, "model.kernels=[64, 16]", "model.hidden=128"])
    net = make_model(recipe, (1, 2, 128), 11)
    assert sum(p.numel() for p in net.parameters()) == 278_299
    shapes = [tuple(p.shape) for p in net.parameters() if p.ndim > 1]
    assert shapes == [(64, 1, 1, 3), (16, 64, 2, 3), (128, 2_112), (11, 128)]
    with pytest.raises(LissomError, match="needs kernels as whole numbers ≥ 1, got 0"):
        ahmed_modrec(kernels=(3, 0))
    with pytest.raises(LissomError, match="needs hidden as whole numbers ≥ 1, got True"):
        ahmed_modrec(hidden=True)
    with pytest.raises(LissomError, match=r"needs kernels as two whole numbers ≥ 1, got \(3,\)"):
        ahmed_modrec(kernels=(3,))  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"classes": 0}, {"classes": 2.0}, {"dropout": 1}])
def test_impossible_networks_are_quoted(options: dict[str, Any]) -> None:
    with pytest.raises(LissomError, match=r"got (0|2\.0|1)$"):
        vt_cnn2(**options)
    if "classes" in options:
        with pytest.raises(LissomError, match="ahmed_modrec needs classes"):
            ahmed_modrec(**options)


@sampled(1)
@pytest.mark.parametrize("name", ["vt-cnn2", "ahmed-modrec"])
def test_half_of_the_units_vanish_exactly(name: str) -> None:
    torch.manual_seed(0)
    net = build(name).double().eval()
    example = torch.randn(2, 1, 2, 128, dtype=torch.float64)
    for unit in lissom.channels(net, example), lissom.neurons(net, example):
        unit.scale_([torch.arange(len(norms)).double() % 2 for norms in unit.norms()])
    small = lissom.shrink(net, example)
    shapes = [tuple(p.shape) for p in small.parameters() if p.ndim > 1]
    assert shapes == [(128, 1, 1, 3), (40, 128, 2, 3), (128, 5280), (11, 128)]
    x = torch.randn(5, 1, 2, 128, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(small(x), net(x), atol=1e-12, rtol=0)
        assert net(x).std(0).max() > 1e-3


def test_gates_are_for_the_neurons_of_fc1() -> None:
    recipe = read_recipe(
        "digits-demo",
        [
            *SMALL,
            "method={name='gates'}",
            "penalties=[{groups='neurons', only=['fc1'], L0=1e-6}]",
        ],
    )
    net = make_model(recipe, (1, 2, 128), 11)
    [entry] = recipe.penalties
    assert len(make_groups(entry, net, make_example(net, (1, 2, 128)))) == 256


def real(name: str) -> Path:
    folder = Path(os.environ["LISSOM_DATA_DIR"]).expanduser()
    for path in (folder / "modrec" / name, folder / name):
        if path.is_file():
            return path
    pytest.skip(f"LISSOM_DATA_DIR holds no {name}")


@exhaustive
@pytest.mark.real_data
def test_the_real_rml2016_like() -> None:
    data = load_modrec(file=real("rml2016-like.npz"))
    assert data.name == "rml2016-like"
    assert len(data.train_y) + len(data.test_y) == 132_000
    assert abs(len(data.test_y) - 26_400) <= 25.5
    held = data.hold_out(5000, seed=0)
    parts = [runs_of(held, part) for part in ("train", "test", "valid")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 3514
    counts = np.bincount(cells(held.test_y.numpy(), held.test_snr.numpy()))
    assert len(counts) == 132 and counts.min() >= 149 and counts.max() <= 251
    assert (power(data.test_x) - 1).abs().max() < 1e-5


@pytest.mark.real_data
def test_the_real_ratio_is_twice_the_label() -> None:
    """Of linear modulations |f| < 1.35/16 is filled; beyond 0.15 is noise, and AM-SSB is all noise.

    Fading spreads the ratio of single runs, so it is a mean, and it is judged only up to 8 dB,
    where leakage does not count. It would be 8 dB off at 8 dB if the label were the ratio.
    """
    found = read_vectors(real("rml2016-like.npz"))

    def ratio(name: str, snr: int) -> float:
        x = found.x[(found.y == CLASSES.index(name)) & (found.snr == snr)].astype(np.float32)
        spectrum = np.abs(np.fft.fft((x[:, 0] + 1j * x[:, 1]) * np.hanning(128))) ** 2
        noise = 128 * spectrum[:, np.abs(np.fft.fftfreq(128)) > 0.15].mean()
        return 10 * float(np.log10(max(spectrum.sum(1).mean() / noise - 1, 1e-3)))

    linear = ("BPSK", "QPSK", "8PSK", "PAM4", "QAM16")
    for snr in (-4, -2, 0, 2, 4, 6, 8):
        assert np.mean([ratio(name, snr) for name in linear]) == pytest.approx(2 * snr, abs=3)
    assert all(ratio("AM-SSB", snr) < -10 for snr in (0, 8, 18))


@pytest.mark.real_data
def test_the_real_files_beside_it() -> None:
    small = load_modrec(file=real("rml2016-like-small.npz"), am_ssb="true")
    assert small.name == "rml2016-like-part with true AM-SSB"
    assert read_back(small).bincount().tolist() == [1200] * 11
    assert not runs_of(small, "train") & runs_of(small, "test")
    sample = load_modrec(file=real("RML2016.10a_dict-sample.pkl"), snr_min=-20)
    assert sample.name == "rml2016.10a-layout" and sample.train_run is None
    assert (len(sample.train_y), len(sample.test_y)) == (3520, 880)
    assert sorted(set(sample.test_snr.tolist())) == list(range(-20, 20, 2))
