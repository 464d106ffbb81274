"""A run that is killed at any moment and resumed ends in the same bits as one that was not."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import Forked, kill_when
from products import exhaustive, few, sampled
from typer.testing import CliRunner

import lissom.training.trainer
from lissom.cli import app

EPOCHS = 8
# Pruning from epoch 1 to 3, then an average; dropout draws random numbers all the time.
SHORT = (
    f"train.epochs={EPOCHS}",
    "train.cosine_from=4",
    "train.average_from=3",
    "model.input_dropout=0.2",
    "method.start=1",
    "method.finalize_at=3",
    "penalties.0.TopK.fraction.0.epochs=1",
    "penalties.0.TopK.fraction.1.epochs=1",
)
ARGUMENTS = ["train", "digits-demo", *(word for change in SHORT for word in ("--set", change))]


class Killed(BaseException):
    """No Exception, so that nothing catches it, as nothing catches SIGKILL."""


def timeless(value: Any) -> Any:
    """Without what may differ between two runs: seconds, and the command that was typed."""
    if isinstance(value, dict):
        keep = (key for key in value if key not in ("seconds", "command", "crc32"))
        return {key: timeless(value[key]) for key in keep}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def events(run: Path) -> list[dict[str, Any]]:
    path = run / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def assert_same_run(run: Path, whole: Path) -> None:
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (run / "recipe.json").read_text() == (whole / "recipe.json").read_text()
    assert timeless(events(run)) == timeless(events(whole))
    assert [event["epoch"] for event in events(run)] == list(range(1, EPOCHS + 1))
    results = [json.loads((folder / "result.json").read_text()) for folder in (run, whole)]
    assert timeless(results[0]) == timeless(results[1])
    kept = [torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (run, whole)]
    for name, tensor in kept[0]["average"].items():
        assert torch.equal(tensor, kept[1]["average"][name])
    assert sorted(path.name for path in run.iterdir()) == sorted(
        path.name for path in whole.iterdir()
    )


def train(run: Path, *options: str) -> None:
    done = CliRunner().invoke(app, [*ARGUMENTS, "--out", str(run), *options])
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(run)
    return run


def forked(run: Path, *options: str) -> Forked:
    words = [*ARGUMENTS, "--out", str(run), *options]
    return Forked(lambda: app(words, standalone_mode=False))


@exhaustive
def test_killed_twice_and_resumed(tmp_path: Path, whole: Path) -> None:
    """In processes of its own, at last in an interpreter; the whole run was made in this one."""
    run = tmp_path / "run"
    kill_when(forked(run), (run / "recipe.json").exists)
    assert not (run / "checkpoint.pt").exists()
    kill_when(forked(run, "--resume"), lambda: len(events(run)) >= EPOCHS // 2)
    assert (run / "checkpoint.pt").exists()
    assert not (run / "model.safetensors").exists()
    command = [sys.executable, "-m", "lissom", *ARGUMENTS, "--out", str(run), "--resume"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, stdout=subprocess.DEVNULL, env=one_thread, check=True, timeout=300)
    assert_same_run(run, whole)


def killed_before_checkpoint(run: Path, epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose event of this epoch is written and whose checkpoint is not."""
    save = lissom.training.trainer.save_checkpoint

    def save_or_die(state: dict[str, Any], path: Path) -> None:
        if state["epoch"] == epoch:
            raise Killed
        save(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(lissom.training.trainer, "save_checkpoint", save_or_die)
        with pytest.raises(Killed):
            train(run)
    assert len(events(run)) == epoch


@pytest.mark.parametrize("epoch", few([1, 5], [5]))
def test_killed_between_event_and_checkpoint(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    run = tmp_path / "run"
    killed_before_checkpoint(run, epoch, monkeypatch)
    train(run, "--resume")
    assert_same_run(run, whole)


def cut_the_last_line(run: Path) -> None:
    path = run / "events.jsonl"
    path.write_text(path.read_text()[:-50])


def begin_another_line(run: Path) -> None:
    with (run / "events.jsonl").open("a") as file:
        file.write('{"event": "measure_te')


def lose_the_last_newline(run: Path) -> None:
    path = run / "events.jsonl"
    path.write_text(path.read_text().rstrip("\n"))


def part(run: Path, name: str, content: bytes) -> None:
    """What a writer leaves that is killed before it replaces the file."""
    folder = run / f".{name}.x1.part"
    folder.mkdir()
    (folder / name).write_bytes(content)


def leave_half_a_checkpoint(run: Path) -> None:
    content = (run / "checkpoint.pt").read_bytes()
    part(run, "checkpoint.pt", content[: len(content) // 2])


def leave_parts_of_everything(run: Path) -> None:
    for name in ("recipe.json", "events.jsonl", "checkpoint.pt", "model.safetensors"):
        part(run, name, b"{")


HARMS = [
    cut_the_last_line,
    begin_another_line,
    lose_the_last_newline,
    leave_half_a_checkpoint,
    leave_parts_of_everything,
]


@sampled(1)
@pytest.mark.parametrize("harm", few(HARMS, [cut_the_last_line, leave_parts_of_everything]))
def test_killed_while_writing(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None]
) -> None:
    run = tmp_path / "run"
    killed_before_checkpoint(run, 4, monkeypatch)
    harm(run)
    train(run, "--resume")
    assert_same_run(run, whole)


ENDED = [("result.json",), ("result.json", "model.safetensors")]


@pytest.mark.parametrize("missing", few(ENDED, ENDED[1:]))
def test_killed_after_the_last_epoch(tmp_path: Path, whole: Path, missing: tuple[str, ...]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for file in whole.iterdir():
        if file.name not in missing:
            (run / file.name).write_bytes(file.read_bytes())
    part(run, "model.safetensors", b"half")
    train(run, "--resume")
    assert_same_run(run, whole)


@pytest.mark.parametrize("half", few([None, b'{"recipe'], [b'{"recipe']))
@pytest.mark.parametrize("resume", few([False, True], [True]))
def test_killed_before_the_recipe_was_kept(
    tmp_path: Path, whole: Path, half: bytes | None, resume: bool
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    if half:
        part(run, "recipe.json", half)
    train(run, *["--resume"] * resume)
    assert_same_run(run, whole)


def test_a_damaged_line_in_the_middle_is_not_a_kill(tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for file in whole.iterdir():
        (run / file.name).write_bytes(file.read_bytes())
    lines = (run / "events.jsonl").read_text().splitlines()
    (run / "events.jsonl").write_text("\n".join([lines[0], lines[1][:20], *lines[2:]]) + "\n")
    done = CliRunner().invoke(app, [*ARGUMENTS, "--out", str(run), "--resume"])
    assert done.exit_code == 2
    assert "events.jsonl, line 2 is not JSON" in done.stderr
