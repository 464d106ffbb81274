"""Recipes of one's own networks, data, losses and optimizers; schedules that follow their epochs;
and code of a run from elsewhere, which waits for trust."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from products import sampled
from typer.testing import CliRunner

from lissom.cli import app
from lissom.data import Dataset, Loaders
from lissom.errors import LissomError, RecipeError, RunError
from lissom.recipes import (
    RecipePath,
    Record,
    make_data,
    make_example,
    make_model,
    make_task,
    make_trainer,
    read_recipe,
    read_record,
    recipe_names,
    shape_of,
)
from lissom.recipes.runs import keep_record
from lissom.recipes.trust import trusted
from lissom.schedules import Schedule

OWN = """
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lissom.training import Score


def net(width=4, inputs=3, outputs=2):
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))


class Embedder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, tokens, scale):
        return self.out(self.embed(tokens).mean(1) * scale)


def parts(n=40):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 3, generator=g), torch.arange(n) % 2
    return [TensorDataset(x, y)] * 3


def tokens(n=12):
    x, s, y = torch.arange(n * 5).reshape(n, 5) % 9, torch.ones(n, 1), torch.arange(n) % 2
    loader = DataLoader(TensorDataset(x, s, y), 4)
    return loader, loader, loader


def nothing():
    return 3


def broken():
    raise KeyError("width")


def loss(outputs, targets):
    return ((outputs[:, 0] - targets) ** 2).mean()


def distance(outputs, targets):
    return float((outputs[:, 0] - targets).abs().mean())


class Slow(torch.optim.SGD):
    def __init__(self, params, lr, factor=1.0):
        super().__init__(params, lr=lr * factor)
"""
TOML = """
title = "own"
[data]
make = "own_of_a_test:parts"
[model]
make = "own_of_a_test:net"
width = 6
[optimizer]
name = "Adam"
lr = 0.01
[train]
epochs = 20
batch_size = 8
cosine_from = 10
average_from = 10
[method]
name = "proximal"
start = 5
finalize_at = 10
[[penalties]]
TopK = { fraction = [{ start = 1.0, end = 0.5, epochs = 4 }] }
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_of_a_test.py").write_text(OWN)
    (tmp_path / "own.toml").write_text(TOML)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return "own.toml"


def test_a_network_and_data_of_ones_own_are_trained(recipe: str) -> None:
    read = read_recipe(recipe, ["train.epochs=2", "data.n=24"])
    data = make_data(read)
    assert isinstance(data, Loaders)
    assert shape_of(data, make_task(read)) == [3]
    trainer = make_trainer(read, data)
    assert trainer.steps_per_epoch == 3 and trainer.model[0].out_features == 6
    found = trainer.fit()
    assert found.nonzeros["0.weight"].nonzeros + found.nonzeros["2.weight"].nonzeros == 15


def test_what_is_called_with_tokens_can_be_made_again(recipe: str, tmp_path: Path) -> None:
    changes = ['data={make="own_of_a_test:tokens"}', 'model={make="own_of_a_test:Embedder"}']
    read = read_recipe(recipe, [*changes, "method=none", "penalties=none"])
    data = make_data(read)
    record = Record(recipe=read, seed=0, shape=shape_of(data), classes=data.classes)
    keep_record(record, tmp_path / "run")
    again = read_record(tmp_path / "run" / "recipe.json")
    assert again == record and again.classes is None
    model = make_model(again.recipe, again.shape, again.classes)
    tokens, scale = make_example(model, again.shape, 7)
    assert (tokens.dtype, tokens.shape, scale.shape) == (torch.int64, (7, 5), (7, 1))
    assert tokens.min() >= 0 and tokens.max() <= 8
    assert model(tokens, scale).shape == (7, 2)
    make_trainer(read, data)


def test_regression_is_judged_in_its_own_unit(recipe: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    np.savez("r.npz", x=x, y=np.arange(60))
    changes = ['data={files="r.npz", validation=10}', 'model={make="own_of_a_test:net", outputs=1}']
    read = read_recipe(recipe, [*changes, 'task={loss="mse", unit="°C"}', "train.epochs=2"])
    data = make_data(read)
    assert isinstance(data, Dataset) and data.classes is None and data.train_y.is_floating_point()
    task = make_task(read)
    assert (task.error_name, task.error_unit) == ("RMSE", "°C")
    assert make_trainer(read, data).fit().test.error > 1
    own = ['task={loss="own_of_a_test:loss", score={make="own_of_a_test:distance", best=0}}']
    task = make_task(read_recipe(recipe, [*changes, *own]))
    assert task.error_name == "distance"
    assert float(task.mean_loss(torch.ones(2, 1), torch.zeros(2))) == 1


def test_a_loss_of_ones_own_may_be_of_whole_numbers(recipe: str, tmp_path: Path) -> None:
    np.savez("r.npz", x=np.random.default_rng(0).normal(size=(60, 3)), y=np.arange(60) - 9)
    own = ['task={loss="own_of_a_test:loss"}', 'data={files="r.npz", validation=10}']
    with pytest.raises(LissomError, match=r'or \[data\] targets = "numbers"'):
        make_data(read_recipe(recipe, own))
    data = make_data(read_recipe(recipe, [*own, "data.targets=numbers"]))
    assert isinstance(data, Dataset) and data.classes is None and data.train_y.is_floating_point()


def test_a_curve_whose_networks_give_no_logits_ends_well(recipe: str, tmp_path: Path) -> None:
    np.savez("r.npz", x=np.random.default_rng(0).normal(size=(60, 3)), y=np.arange(60) % 5)
    path = '{strength="penalties.0.TopK.fraction", strengths=[0.8, 0.2], points=3, seeds=1'
    changes = [
        'data={files="r.npz", validation=10}',
        'model={make="own_of_a_test:net", outputs=1}',
        'task={loss="own_of_a_test:loss"}',
        f"path={path}, dense=2, epochs=2, fine_tune=1}}",
    ]
    given = [word for change in changes for word in ("--set", change)]
    done = CliRunner().invoke(app, ["path", recipe, "--out", "curve", *given])
    assert done.exit_code == 0, done.output
    assert "no accuracy of each class: labels of 1 logits are 0" in done.stderr
    assert Path("curve/result.json").exists()


def test_optimizers_and_schedulers_of_torch_and_ones_own(recipe: str) -> None:
    changes = ["optimizer={name='own_of_a_test:Slow', lr=0.1, factor=0.5}", "train.epochs=2"]
    changes += [
        "method=none",
        "penalties=none",
        "train.cosine_from=none",
        "train.average_from=none",
    ]
    changes += ['train.scheduler={name="StepLR", step_size=1, gamma=0.5}', "train.clip_norm=1.0"]
    read = read_recipe(recipe, changes)
    trainer = make_trainer(read, make_data(read))
    assert type(trainer.optimizer).__name__ == "Slow"
    assert trainer.optimizer.param_groups[0]["lr"] == 0.05
    trainer.fit()
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.0125)
    for name in ("NAdam", "RAdam", "Rprop", "Adamax", "ASGD", "Adadelta"):
        assert read_recipe(recipe, [f"optimizer={{name='{name}', lr=0.1}}"]).optimizer.name == name


def test_a_scheduler_of_fewer_steps_than_the_training_is_told(recipe: str) -> None:
    scheduler = "{name='OneCycleLR', max_lr=0.01, total_steps=3, by='step'}"
    none = ("method", "penalties", "train.cosine_from", "train.average_from")
    changes = [*(f"{key}=none" for key in none), f"train.scheduler={scheduler}"]
    read = read_recipe(recipe, ["train.epochs=4", *changes])
    with pytest.raises(
        RunError, match=r"OneCycleLR failed in epoch \d: Tried to step 4 times.* \d+ st"
    ):
        make_trainer(read, make_data(read)).fit()


def test_a_warm_up_rises_to_the_rate_before_it_falls(recipe: str) -> None:
    factor = read_recipe(recipe, ["train.warmup=2"]).train.lr_factor(10)
    assert isinstance(factor, Schedule)
    assert factor(0) == pytest.approx(0.05) and factor(20) == factor(99) == 1 > factor(110)
    with pytest.raises(RecipeError, match=r"train\.warmup: a warm-up of 11 epochs ends after"):
        read_recipe(recipe, ["train.warmup=11"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.make=own_of_a_test:nett", r"has no 'nett'\. Did you mean 'net'"),
        (
            "model.make=owns:net",
            r"cannot be imported: No module named 'owns'\. It is looked for in ",
        ),
        ("model.name=lenet300", r'name = "lenet300", or your own, make = "my:net": leave out one'),
        ("model.make=net", r"'net' is no import path, such as 'my.model:Own'"),
        ("data.name=digits", r"say where the data come from by one of name"),
        (
            "optimizer.name=AdamWW",
            r"torch\.optim has no optimizer, got 'AdamWW'\. Did you .*'AdamW'",
        ),
        ("optimizer.name=LBFGS", r"LBFGS calls the network several times in a step"),
        ("optimizer.beta3=1", r"beta3: not an argument of torch\.optim\.Adam"),
        ("task.loss=focal", r"task\.loss: loss is 'cross_entropy', .*got 'focal'"),
        ("task.losss=mse", r"task\.losss: unknown key 'losss'\. Did you mean 'loss'"),
        ("task.weight=[1.0, -1.0]", r"task\.weight: weight holds finite numbers ≥ 0, got -1 in \["),
        ("task.score=own_of_a_test:distance", r"not known whether larger is better"),
        ('train.scheduler={name="StepLR"}', r"needs the argument 'step_size': write step_size = "),
        ('train.scheduler={name="Step"}', r"has no scheduler, got 'Step'\. Did you mean 'StepLR'"),
    ],
)
def test_mistakes_in_what_is_ones_own_are_told(recipe: str, change: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe(recipe, [change])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.widht=3", r"has no argument 'widht'\. Did you mean 'width'"),
        ("model.make=own_of_a_test:nothing", r"has no argument 'width'"),
        ('model={make="own_of_a_test:nothing"}', r"makes a torch\.nn\.Module, got 3"),
        ('model={make="own_of_a_test:broken"}', r"failed with KeyError: 'width'"),
        (
            'data={make="own_of_a_test:nothing"}',
            r"gives a lissom\.data\.Dataset, lissom\.data\.Load",
        ),
        ("data.validation=5", r"data\.validation: batches of own_of_a_test:parts are as they come"),
    ],
)
def test_what_functions_do_wrong_is_told(recipe: str, change: str, message: str) -> None:
    read = read_recipe(recipe, [change])
    with pytest.raises(RecipeError, match=message):
        make_trainer(read, make_data(read))


def test_the_schedule_follows_the_epochs(recipe: str) -> None:
    told: list[str] = []
    read = read_recipe(recipe, ["train.epochs=5"], told=told.append)
    options = read.method.options(1) if read.method else None
    assert options is not None and (options.start, options.finalize_at) == (1, 2)
    assert (read.train.cosine_from, read.train.average_from) == (2, 2)
    assert read.penalties[0].model_extra["TopK"]["fraction"][0]["epochs"] == 1
    [line] = told
    assert "method.start 5 → 1" in line and "train.cosine_from 10 → 2" in line
    kept = read_recipe(recipe, ["train.epochs=40", "method.start=6"], told=told.append)
    assert kept.train.cosine_from == 10 and len(told) == 1  # who sets a time, sets all


def test_a_scheduler_does_not_follow_the_epochs_and_that_is_told(tmp_path: Path) -> None:
    train = "train.scheduler={name='StepLR', step_size=4}"
    recipe = read_recipe("digits-demo", ["train.cosine_from=none", train])
    keep_record(Record(recipe=recipe, seed=0, shape=[64], classes=10), tmp_path)
    told: list[str] = []
    read_recipe(str(tmp_path / "recipe.json"), ["train.epochs=5"], told=told.append)
    assert told and told[0].endswith("train.scheduler stays as it is")


def test_too_few_epochs_are_told_with_how_many_are_enough(recipe: str) -> None:
    with pytest.raises(RecipeError, match=r"scaled to 1 epochs, .* too few for it; (\d+) are en"):
        read_recipe(recipe, ["train.epochs=1"])
    assert read_recipe(recipe, ["train.epochs=2"]).train.epochs == 2


@sampled(33)
@pytest.mark.parametrize("name", recipe_names())
def test_every_bundled_recipe_has_a_quick_trial(name: str) -> None:
    whole, quick = read_recipe(name), read_recipe(name, quick=True)
    assert quick.train.epochs < whole.train.epochs or whole.train.epochs < 3
    if quick.path is not None:
        assert quick.path.seeds == 1 and quick.path.points <= 5
        assert quick.path.dense < 20


def test_learning_compression_has_fewer_c_steps_and_the_same_growth() -> None:
    whole, short = read_recipe("lenet300-lc"), read_recipe("lenet300-lc", ["train.epochs=12"])
    assert whole.method is not None and short.method is not None
    before, after = whole.method.options(1), short.method.options(1)
    assert after.end <= 12 and len(after.ends) < len(before.ends)
    if before.mus is not None:
        assert after.mus[-1] / after.mus[0] == pytest.approx(before.mus[-1] / before.mus[0])


def test_code_of_a_run_from_elsewhere_waits_for_trust(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = read_recipe(recipe)
    keep_record(Record(recipe=read, seed=0, shape=[3], classes=None), tmp_path / "run")
    path = tmp_path / "run" / "recipe.json"
    assert read_record(path).recipe == read  # made here
    moved = tmp_path / "elsewhere.json"
    moved.write_bytes(path.read_bytes())
    assert read_recipe(str(moved)) == read  # moving it does not matter

    (tmp_path / "evil.py").write_text("import os\nos.environ['EVIL'] = '1'\ndef net(): ...\n")
    changed = json.loads(path.read_text().replace("own_of_a_test:net", "evil:net"))
    changed.pop("crc32")
    path.write_text(json.dumps(changed))
    for read_it in (lambda: read_record(path), lambda: read_recipe(str(path))):
        with pytest.raises(RecipeError, match=r"names Python code, .*evil:net.*--trust"):
            read_it()

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    with pytest.raises(RecipeError, match=r"was not made here by you"):
        read_record(moved)
    token = trusted.set(True)
    try:
        assert read_record(moved).recipe == read
    finally:
        trusted.reset(token)
    import os

    assert "EVIL" not in os.environ


def test_a_record_without_code_needs_no_trust(recipe: str, tmp_path: Path) -> None:
    record = Record(recipe=read_recipe("digits-demo"), seed=0, shape=[1, 8, 8], classes=10)
    keep_record(record, tmp_path / "run")
    assert read_record(tmp_path / "run" / "recipe.json") == record
    assert not (tmp_path / "state").exists()


def test_a_path_needs_examples_to_choose_by(recipe: str) -> None:
    path = 'path={strength="penalties.0.TopK.fraction", strengths=[0.8, 0.2], dense=2, epochs=2, '
    changes = [path + "fine_tune=1}", "data.make=own_of_a_test:parts"]
    RecipePath(read_recipe(recipe, changes), Path("out")).check_data(
        make_data(read_recipe(recipe, changes))
    )
    np.savez("n.npz", x=np.zeros((20, 3)), y=np.arange(20) % 2)
    none = RecipePath(read_recipe(recipe, [*changes, 'data={files="n.npz"}']), Path("out"))
    with pytest.raises(LissomError, match=r"has none: set data\.validation"):
        _ = none.data


def shapes(shape: Any) -> Any:
    return make_example(torch.nn.Linear(1, 1), shape, 2)


def test_example_inputs_have_every_form() -> None:
    token = {"shape": [4], "dtype": "int64", "low": 1, "high": 1}
    assert shapes([2, 3]).shape == (2, 2, 3)
    assert torch.equal(shapes(token), torch.ones(2, 4, dtype=torch.int64))
    assert [x.shape for x in shapes([token, token])] == [(2, 4), (2, 4)]
    assert shapes({"ids": token})["ids"].shape == (2, 4)
