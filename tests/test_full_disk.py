"""ENOSPC at each call that writes: nothing is lost, half-written or left over, and work goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from full_disk import fill, full_at, mounted
from path_cases import path, same_weights, timeless
from products import few, thinned
from test_files import X, net
from torch import nn
from training_cases import dense, same, state, trainer

import lissom
from lissom.compressions import Dense, save_compressed
from lissom.curves import Curve
from lissom.errors import StorageError
from lissom.recipes import HenriksonLog, Record, keep_record, keep_result, keep_weights, read_recipe
from lissom.report import ClassAccuracy, ensemble_sizes, write_curve_report
from lissom.storage import (
    LOCK,
    append_event,
    read_events,
    replace,
    replacing,
    save_events,
    save_json,
    save_state,
    save_tensors,
)

LONG = "x" * 20_000


def record() -> Record:
    return Record(recipe=read_recipe("digits-demo"), seed=0, shape=[1, 8, 8], classes=10)


def figure(file: Path) -> None:
    with replacing(file) as beside:
        ensemble_sizes({1: [0.5, 0.6], 2: [0.7, 0.8]}, 0.9).savefig(beside)


# How each kind of file is written, and its name.
WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "text": ("a.txt", lambda file: replace(file, LONG)),
    "json": ("a.json", lambda file: save_json({"x": LONG}, file, "lissom test 1")),
    "events": ("a.jsonl", lambda file: save_events([{"epoch": 1, "x": LONG}], file)),
    "state": ("a.pt", lambda file: save_state({"x": torch.ones(9000)}, file, "lissom test 1")),
    "tensors": ("a", lambda file: save_tensors({"x": torch.ones(9000)}, file, "lissom test 1")),
    "network": ("a", lambda file: lissom.save(SMALL["net"], file)),
    "graph": ("a", lambda file: lissom.save(SMALL["graph"], file)),
    "compressed": ("a", lambda file: save_compressed(net(), {"0.weight": Dense(W)}, file)),
    "recipe": ("recipe.json", lambda file: keep_record(record(), file.parent)),
    "result": ("result.json", lambda file: keep_result(record(), {"error": 0.5}, file.parent)),
    "weights": ("model.safetensors", lambda file: keep_weights(net(), file.parent)),
    "classes": ("classes.json", lambda file: ClassAccuracy(("a",), {"p": (1,)}).save(file.parent)),
    "henrikson": ("henrikson.jsonl", lambda file: HenriksonLog(file.parent).begin(0)),
    "figure": ("a.svg", figure),
    "page": ("a.html", lambda file: write_curve_report([file.parent / "path"], file)),
    "onnx": ("a.onnx", lambda file: lissom.export(net(), X, file)),
    "pt2": ("a.pt2", lambda file: lissom.export(net(), X, file)),
}  # fmt: skip
QUICK = ["json", "state", "tensors", "recipe"]
SMALL: dict[str, nn.Module] = {}
W = torch.ones(40, 6)


@pytest.fixture(scope="module", autouse=True)
def shrunk() -> None:
    SMALL["net"], SMALL["graph"] = lissom.shrink(net(), X), lissom.shrink(net(), X, as_graph=True)


@pytest.fixture(scope="module")
def curve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return path((1e-3, 1.0), points=3, seeds=1, out=tmp_path_factory.mktemp("curve") / "path").out


@pytest.fixture
def folder(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    if kind == "page":
        (made / "path").symlink_to(request.getfixturevalue("curve"))
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    return made


def tried(calls: int) -> list[int]:
    """Each call at the beginning and at the end, and some of the like ones between them."""
    ends = [*range(1, 13), *range(calls - 11, calls + 1)]
    return sorted({*ends, *thinned(range(1, calls + 1), 1 + calls // 12)} & {*range(1, calls + 1)})


@pytest.mark.parametrize("kind", few(WRITERS, QUICK))
def test_at_each_call(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, write = WRITERS[kind]
    file = folder / name
    names = {*(path.name for path in folder.iterdir()), name}
    write(file)  # also what libraries import at their first use
    file.write_text("old")
    with full_at(0, monkeypatch) as full:
        write(file)
    assert full.calls > 6
    for n in tried(full.calls):
        file.write_text("old")
        with full_at(n, monkeypatch) as full:
            try:
                write(file)
            except StorageError as error:
                assert f"{file} cannot be" in str(error) and "No space left" in str(error)
                assert file.read_text() == "old", n
            else:
                assert file.read_bytes() != b"old", n
        assert full.calls >= n
        assert {path.name for path in folder.iterdir()} == names, n


@pytest.mark.parametrize("kind", few(WRITERS, QUICK))
def test_on_a_small_disk(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    name, write = WRITERS[kind]
    with mounted(tmp_path / "disk", "1M") as disk:
        if kind == "page":
            (disk / "path").symlink_to(request.getfixturevalue("curve"))
        file = disk / name
        write(file)
        size = -(-file.stat().st_size // 4096) * 4096
        if not size:
            pytest.skip("an empty file needs no space")
        names = {path.name for path in disk.iterdir()} | {"filler"}
        for left in sorted({0, size // 2 // 4096 * 4096, size - 4096}):
            file.write_text("old")
            filler = fill(disk, left)
            with pytest.raises(StorageError, match=f"{file} cannot be .*No space left"):
                write(file)
            assert file.read_text() == "old" and {path.name for path in disk.iterdir()} == names
            filler.unlink()
            write(file)
            assert file.stat().st_size > 3


def test_an_event_that_does_not_fit_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(1, 4):
        for before in ([], [{"epoch": 1}]):
            file = tmp_path / f"{n}{len(before)}.jsonl"
            for event in before:
                append_event(event, file)
            with full_at(n, monkeypatch), pytest.raises(StorageError, match="No space left"):
                append_event({"epoch": 2}, file)
            if n == 3:  # all of it was written when closing it failed
                assert read_events(file) == before
            assert file.exists() == bool(before)
            if before:
                assert file.read_text().count("\n") == 1


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.exhaustive), 9])
def test_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    def made(out: Path | None) -> Any:
        model = dense(dropout=0.5)
        return trainer(model, out=out, epochs=3, average_from=1)

    whole = made(tmp_path / "whole")
    with full_at(0, monkeypatch) as calls:
        whole.fit()
    for n in range(1, calls.calls + 1, every):
        out = tmp_path / f"at{n}"
        with full_at(n, monkeypatch) as full:
            try:
                made(out).fit()
            except StorageError as error:
                assert str(out) in str(error)
        assert full.calls >= n
        going_on = made(out)
        if (out / "checkpoint.pt").exists():
            going_on.resume()
        going_on.fit()
        assert same(state(going_on.model), state(whole.model))
        names = [sorted(p.name for p in folder.iterdir()) for folder in (out, tmp_path / "whole")]
        assert names[0] == names[1]


@pytest.mark.parametrize("every", [pytest.param(5, marks=pytest.mark.exhaustive), 83])
def test_a_path_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    given: dict[str, Any] = {"strengths": (1e-3, 1.0), "points": 3, "seeds": 1}
    with full_at(0, monkeypatch) as calls:
        whole = path(**given, out=tmp_path / "whole")
    for n in range(1, calls.calls + 1, every):
        out = tmp_path / f"at{n}"
        with full_at(n, monkeypatch):
            try:
                path(**given, out=out)
            except StorageError as error:
                assert str(out) in str(error)
        if (out / "path.json").exists():
            assert not list(out.glob("seed*/*/failed.txt"))
        resumed = path(**given, out=out)
        assert timeless(resumed) == timeless(whole) and same_weights(resumed, whole)
        assert not list(out.rglob("*.part")) and not list(out.rglob(LOCK))


@pytest.mark.exhaustive
def test_a_path_on_a_small_disk_goes_on(tmp_path: Path) -> None:
    given: dict[str, Any] = {"strengths": (1e-3, 1.0), "points": 3, "seeds": 2}
    whole = path(**given)
    with mounted(tmp_path / "disk", "256K") as disk:
        stopped = 0
        for left in range(0, 200_000, 4096):
            filler = fill(disk, left)
            try:
                path(**given, out=disk / "path")
            except StorageError as error:
                stopped += 1
                assert "No space left" in str(error)
            filler.unlink()
        assert stopped > 5
        resumed = path(**given, out=disk / "path")
        assert timeless(resumed) == timeless(whole) and same_weights(resumed, whole)
        assert Curve.load(disk / "path").points == resumed.points
