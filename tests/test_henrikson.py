"""Henrikson's own names for what a run records, in a file beside events.jsonl."""

import json
from pathlib import Path
from typing import Any

import pytest
from products import sampled
from typer.testing import CliRunner

from lissom.cli import app
from lissom.recipes import HenriksonLog, read_recipe, recipe_names
from lissom.recipes.henrikson import henriksons
from lissom.storage import append_event
from lissom.training import Count, Evaluation, Part

RECIPE = """\
title = "his names"
log = "henrikson"

[data]
name = "digits"

[model]
name = "henrikson"

[optimizer]
name = "Adam"
lr = 3e-3

[train]
epochs = 3
batch_size = 64
"""


def evaluation(epoch: int, *, valid: bool = False) -> Evaluation:
    counts = {"fc1.weight": Count(90, 40), "total": Count(100, 50 - epoch)}
    held_out = Part(0.3, 0.03) if valid else None
    method = {"method": {"name": "gates", "curves": {"open gates": {"fc1": 3}}}}
    seconds = {"train": 1.0}
    return Evaluation(epoch, Part(0.1, 0.01), Part(0.2, 0.02), counts, held_out, method, seconds)


def lines(run: Path, name: str = "henrikson.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def train(run: Path, *options: str) -> int:
    run.parent.mkdir(exist_ok=True)
    recipe = run.parent / "his.toml"
    recipe.write_text(RECIPE)
    done = CliRunner().invoke(app, ["train", str(recipe), "--out", str(run), *options])
    return done.exit_code


@pytest.mark.parametrize("valid", [False, True])
def test_his_names(valid: bool) -> None:
    held_out = {"ent_valid": 0.3, "inacc_valid": 0.03} if valid else {}
    assert henriksons(evaluation(20, valid=valid)) == {
        "event": "measure_test",
        "epochAfter": 20,
        "ent_train": 0.1,
        "inacc_train": 0.01,
        "ent_test": 0.2,
        "inacc_test": 0.02,
        **held_out,
        "num_nonzero": {
            "fc1.weight": {"num": 90, "numNz": 40},
            "total": {"num": 100, "numNz": 30},
        },
    }


def test_his_recipes_alone_have_them() -> None:
    for name in recipe_names():
        expected = "henrikson" if name.startswith("henrikson-") else None
        assert read_recipe(name).log == expected, name


@pytest.mark.parametrize("left", [None, "", '{"event": "measure_te', "not his\n" * 9])
@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_it_begins_where_the_checkpoint_is(tmp_path: Path, left: str | None, epoch: int) -> None:
    for done in (1, 2, 3):
        append_event(evaluation(done).to_dict(), tmp_path / "events.jsonl")
    if left is not None:
        (tmp_path / "henrikson.jsonl").write_text(left)
    log = HenriksonLog(tmp_path)
    log.begin(epoch)
    assert lines(tmp_path) == [henriksons(evaluation(n)) for n in range(1, epoch + 1)]
    log.add({"event": "progress", "epoch": epoch, "step": 0, "steps": 9, "loss": 0.1})
    log.add({"teacher": 5, **evaluation(5).to_dict()})
    log.add(evaluation(epoch + 1).to_dict())
    assert lines(tmp_path) == [henriksons(evaluation(n)) for n in range(1, epoch + 2)]


def of_events(run: Path) -> list[dict[str, Any]]:
    return [henriksons(Evaluation.from_dict(event)) for event in lines(run, "events.jsonl")]


@sampled(1)
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_run_that_was_killed_has_every_line_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    run, add = tmp_path / "run", HenriksonLog.add

    def killed(self: HenriksonLog, event: dict[str, Any]) -> None:
        if event["event"] == "evaluation" and event["epoch"] == epoch:
            raise KeyboardInterrupt
        add(self, event)

    with monkeypatch.context() as patch:
        patch.setattr(HenriksonLog, "add", killed)
        assert train(run) == 130
    assert len(lines(run)) == epoch - 1 and len(of_events(run)) == epoch
    assert train(run, "--resume") == 0
    assert [line["epochAfter"] for line in lines(run)] == [1, 2, 3]
    assert lines(run) == of_events(run)
    assert train(run, "--overwrite", "--set", "train.epochs=1") == 0
    assert lines(run) == of_events(run) and len(lines(run)) == 1
    assert train(run, "--overwrite", "--set", "model.name=cnn") == 0
    assert len(lines(run)) == 3


def test_without_the_key_there_is_no_such_file(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(run) == 0 and (run / "henrikson.jsonl").exists()
    other = tmp_path / "other.toml"
    other.write_text(RECIPE.replace('log = "henrikson"\n', ""))
    done = CliRunner().invoke(app, ["train", str(other), "--out", str(run), "--overwrite"])
    assert done.exit_code == 0 and not (run / "henrikson.jsonl").exists()
