"""A method in a user's own file trains, makes a curve, is named in a recipe, killed and resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fifth_method import Rewinding, RewindingOptions
from killing import Forked, kill_when
from products import exhaustive, sampled
from training_cases import blobs, dense, same, state
from typer.testing import CliRunner

import lissom
from lissom import TopK, Trainer
from lissom.cli import app
from lissom.errors import RecipeError, RunError
from lissom.recipes import RecipePath, make_data, make_trainer, read_recipe

TESTS = Path(__file__).parent
RECIPE = """
title = "Digits by iterative magnitude pruning with rewinding"

[data]
name = "digits"
validation = 300

[model]
name = "henrikson"
input_dropout = 0.1

[optimizer]
name = "Adam"
lr = 3e-3

[train]
epochs = 8
batch_size = 64

[method]
name = "fifth_method:Rewinding"
start = 1
every = 2
rounds = 3
finalize_at = 8

[[penalties]]
TopK = { fraction = 0.1 }

[path]
strength = "penalties.0.TopK.fraction"
strengths = [0.5, 0.02]
points = 4
seeds = 1
dense = 4
epochs = 8
fine_tune = 2
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "rewinding.toml"
    path.write_text(RECIPE)
    return path


def trainer(epochs: int = 8, out: Path | None = None) -> Trainer:
    net = dense(dropout=0.2)
    opt = torch.optim.Adam(net.parameters(), lr=0.01)
    options = RewindingOptions(every=4, start=4, finalize_at=24)
    method = Rewinding(opt, {lissom.weights(net): TopK(fraction=0.2)}, options)
    return Trainer(net, opt, blobs(), method=method, epochs=epochs, batch_size=16, out=out)


def nonzeros(net: torch.nn.Module) -> int:
    return sum(int((p != 0).sum()) for p in net.parameters() if p.ndim > 1)


def test_in_the_trainer() -> None:
    t = trainer()
    found = t.fit()
    assert t.method is not None
    assert t.method.finalized_at == 24
    assert nonzeros(t.model) == round(0.2 * 84)
    assert found.test.error < 0.4  # 0.67 by guessing


@sampled(2)
@pytest.mark.parametrize("epoch", [1, 2, 4, 6, 7])
def test_resumed_in_the_trainer(epoch: int, tmp_path: Path) -> None:
    whole = trainer()
    whole.fit()
    trainer(epoch, tmp_path).fit() if epoch >= 6 else _stopped(tmp_path, epoch)
    again = trainer(out=tmp_path)
    again.resume()
    again.fit()
    assert same(state(again.model), state(whole.model))


def _stopped(out: Path, epoch: int) -> None:
    """A run that ends in the middle of an epoch, after this many were kept."""
    t = trainer(out=out)

    def report(event: dict[str, object]) -> None:
        if event["event"] == "progress" and event["epoch"] == epoch:
            raise KeyboardInterrupt

    t.report = report
    with pytest.raises(KeyboardInterrupt):
        t.fit()


def test_rules_of_the_trainer_hold_for_it_too() -> None:
    net = dense()
    opt = torch.optim.Adam(net.parameters(), lr=0.01)
    options = RewindingOptions(every=4, finalize_at=24)
    method = Rewinding(opt, {lissom.weights(net): TopK(fraction=0.2)}, options)
    with pytest.raises(RunError, match="before method 'rewinding' ends, after 6"):
        Trainer(net, opt, blobs(), method=method, epochs=8, batch_size=16, average_from=5)


def test_named_in_a_recipe(recipe: Path) -> None:
    read = read_recipe(str(recipe))
    t = make_trainer(read, make_data(read))
    assert isinstance(t.method, Rewinding)
    steps = t.steps_per_epoch
    assert t.method.options == RewindingOptions(
        start=steps, every=2 * steps, rounds=3, finalize_at=8 * steps
    )
    kept = json.loads(json.dumps(read.model_dump(exclude_none=True)))
    assert type(read).model_validate(kept) == read


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "method.round=3",
            "method.round: method .* has no option 'round'. Did you mean 'rounds'",
        ),
        ("method.finalize_at=9", "method.finalize_at: method 'rewinding' ends after epoch 9"),
        (
            "method.name=fifth_method:Rewound",
            "method.name: module 'fifth_method' has no 'Rewound'. Did you mean 'Rewinding'",
        ),
        ("method.name=rewinding", "there is no method 'rewinding'.*import path"),
        ("penalties.0.TopK={ count = 9 }", "penalties.0: method 'rewinding' takes TopK with a fr"),
        ("train.average_from=3", "train.average_from: weights are averaged from epoch 3 on"),
    ],
)
def test_wrong_words_in_the_recipe(recipe: Path, change: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        read_recipe(str(recipe), [change])


@exhaustive
def test_a_curve_by_it(recipe: Path, tmp_path: Path) -> None:
    read = read_recipe(str(recipe))
    curve = RecipePath(read, tmp_path / "curve").run()
    assert not curve.failed
    assert curve.strength_name == "fraction kept"
    strengths = [p.strength for p in curve.points]
    assert strengths[0] is None
    assert strengths[1] == 0.5
    for point in curve.points[1:]:
        assert point.strength is not None
        kept = round(point.strength * 8832)
        tensors = curve.tensors(point)
        weights = (t for name, t in tensors.items() if name.endswith("weight"))
        assert sum(int((t != 0).sum()) for t in weights) == kept


@exhaustive
def test_killed_and_resumed_from_the_command_line(recipe: Path, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    done = CliRunner().invoke(app, ["train", str(recipe), "--out", str(whole)])
    assert done.exit_code == 0, done.output

    def epochs() -> int:
        events = run / "events.jsonl"
        return len(events.read_text().splitlines()) if events.exists() else 0

    words = ["train", str(recipe), "--out", str(run)]
    kill_when(Forked(lambda: app(words, standalone_mode=False)), lambda: epochs() >= 3)
    assert not (run / "model.safetensors").exists()
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-m", "lissom", *words, "--resume"]
    subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=True, timeout=300)
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
