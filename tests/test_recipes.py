"""Recipes: every bundled one can be trained, and every mistake is found where it stands."""

import json
import re
import tomllib
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from products import exhaustive, few, sampled
from torch import nn

import lissom.data
from lissom import L1, TopK, measure
from lissom.data import Dataset
from lissom.errors import LissomError, RecipeError, RunError
from lissom.methods import NAMED
from lissom.methods.gates import Gates
from lissom.methods.proximal import Proximal
from lissom.penalties import L0, L2, L1Ball, Threshold
from lissom.recipes import (
    Recipe,
    Record,
    make_data,
    make_example,
    make_groups,
    make_method,
    make_model,
    make_optimizer,
    make_trainer,
    read_recipe,
    read_record,
    recipe_names,
)
from lissom.recipes.lines import line_numbers
from lissom.recipes.runs import RECIPE_KIND, keep_record
from lissom.schedules import Schedule
from lissom.storage import save_json
from lissom.training import Augment

NAMES = recipe_names()
KINDS = (  # one of each method, and most ways to say a penalty
    "digits-channels", "digits-gates", "digits-lc", "henrikson-l1-subgradient",
    "henrikson-per-layer",
)  # fmt: skip
SHAPES = {
    "digits": (1, 8, 8),
    "fashion-mnist": (1, 28, 28),
    "mnist": (1, 28, 28),
    "jpeg-cifar10": (3, 32, 32),
    "modrec": (1, 2, 128),
}
# Fewer examples to hold out, since there are 20, and fewer epochs where they are many.
FEW = ["data.validation=5", "train.epochs=10", "train.average_from=5"]
SHORT_LC = [
    "train.epochs=14",
    "method.start=2",
    "method.first=3",
    "method.every=1",
    "method.c_steps=10",
]
# No epoch is chosen by five examples.
FORMANEK = ["model.width=0.0625", "data.validation=5", "train.epochs=3", "train.patience=none"]
SMALLER = {
    "ahmed-mnist": ["data.validation=5", "train.epochs=10", "train.cosine_from=5"],
    "ahmed-modrec": ["data.validation=5", "train.epochs=10", "train.cosine_from=5"],
    "digits-path": ["data.validation=5"],
    "digits-path-nested": ["data.validation=5"],
    "fashion-path": ["data.validation=5"],
    **{name: FORMANEK for name in NAMES if name.startswith("formanek-")},
    **{name: ["model.width=0.0625"] for name in NAMES if name.startswith("images-")},
    "images-path": ["model.width=0.0625", "data.validation=5"],
    "images-path-nested": ["model.width=0.0625", "data.validation=5"],
    "lenet300-path": [*FEW, "method.finalize_at=5"],
    "lenet300-path-gates": [*FEW, "method.finalize_at=5"],
    "lenet300-path-nested": ["data.validation=5", "train.epochs=10"],
    "lenet300-path-lc": [*FEW, "method.c_steps=5"],
    "modrec-dense": [*FEW, "train.cosine_from=5"],
    "modrec-path": [*FEW, "method.finalize_at=5"],
    "lenet300-lc-published": SHORT_LC,
    "lenet300-lc-short": SHORT_LC,
    "lenet300-lc-toolkit": SHORT_LC,
    # Trained small, it would lose what leads nowhere, which is much of so few weights.
    "lenet5-topk": ["train.shrink=false"],
    "louizos-lenet5": ["train.epochs=20"],
    "louizos-mlp": ["train.epochs=20"],
    "louizos-mlp-per-layer": ["train.epochs=20"],
    "louizos-wrn28-10": ["model.widen=1", "model.depth=10", "train.epochs=2"],
}
PLAIN = """\
title = "x # = [y]"  # a comment = 3

[data]
name = "digits"

[model]
name = "lenet300"

[optimizer]
name = "Adam"
lr = 1e-3

[train]
epochs = 10

[method]
name = "proximal"
every = 1

[[penalties]]
only = ["fc1"]
L1 = 1e-4

[[penalties]]
only = [
    "fc2",  # the second
]
TopK = { fraction = [
    { shape = "cubic", start = 1.0, end = 0.5, epochs = 2 },
    { end = 0.25, epochs = 2 },
], per = 'layer' }
"""


def fake(shape: tuple[int, ...] = (1, 28, 28), n: int = 20) -> Dataset:
    """A few random images with the classes 0 … 9."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(n, *shape, generator=generator), torch.arange(n) % 10
    return Dataset("fake", x, y, x[:10], y[:10], classes=10)


def bundled(name: str) -> str:
    return (files("lissom.recipes") / f"{name}.toml").read_text(encoding="utf-8")


def written(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@sampled(2)
@pytest.mark.parametrize("name", few(NAMES, KINDS))
def test_every_bundled_recipe_trains_to_its_end(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = read_recipe(name, SMALLER.get(name, ()))
    shape = SHAPES[recipe.data.name]
    monkeypatch.setitem(
        lissom.data._LOADERS,
        recipe.data.name,
        lambda _folder, *, file=None, snr_min=None, split=None: fake(shape),
    )
    trainer = make_trainer(recipe, make_data(recipe), out=tmp_path)
    steps = 1  # 20 examples are one batch
    assert trainer.steps_per_epoch == steps
    method = trainer.method
    assert (method is None) == (recipe.method is None) == (not recipe.penalties)
    assert method is None or type(method) is NAMED[recipe.method.name]
    event = trainer.fit()
    early = method is not None and not method.lasts(method.penalties.values())
    assert event.epoch == recipe.train.epochs or early
    counts = event.nonzeros
    assert counts["total"].nonzeros == measure(trainer.model).nonzeros
    example = make_example(trainer.model, shape)
    for spec in recipe.penalties:
        if (top := spec.model_extra.get("TopK")) is not None:
            groups = make_groups(spec, trainer.model, example)
            kept = [(block.norms() > 0).flatten() for block in groups]
            fraction = top["fraction"]
            part = fraction[-1]["end"] if isinstance(fraction, list) else fraction
            for layer in kept if top["per"] == "layer" else [torch.cat(kept)]:
                assert int(layer.sum()) == round(part * len(layer))


@pytest.mark.parametrize("name", NAMES)
def test_bundled_recipes_say_where_they_come_from_and_what_they_do(name: str) -> None:
    recipe = read_recipe(name)
    assert 20 < len(recipe.title) <= 100
    assert recipe.source or name in ("digits-demo", "digits-channels", "digits-path", "one-lambda")


@sampled(8)
@pytest.mark.parametrize("name", NAMES)
def test_read_back_from_a_run(name: str, tmp_path: Path) -> None:
    recipe = read_recipe(name)
    record = Record(recipe=recipe, seed=7, shape=[1, 28, 28], classes=10)
    path = tmp_path / "recipe.json"
    keep_record(record, tmp_path)
    assert read_record(path) == record
    assert read_recipe(str(path)) == recipe
    changed = read_recipe(str(path), ["title=another", "train.batch_size=7"])
    assert (changed.title, changed.train.batch_size) == ("another", 7)
    assert changed.penalties == recipe.penalties


OWN = """\
from dataclasses import dataclass, field

from lissom.methods import Budget, Method, Options, Steps


@dataclass(frozen=True, kw_only=True)
class PrunerOptions(Options):
    every: Steps = 5
    once: Steps | None = None
    names: list[str] = field(default_factory=lambda: ["a"])
    numbers: tuple[int, ...] = (1, 2)
    budget: Budget = Budget(weights=0.5)
    quiet: bool = False


class Pruner(Method):
    name = "pruner"
    options_type = PrunerOptions


class Nameless(Method):
    pass
"""


@pytest.fixture
def own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_methods_of_a_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_methods_of_a_test:Pruner"


@pytest.mark.parametrize("name", ["proximal", "gates", "lc", "subgradient", "own"])
def test_a_record_holds_every_option_of_the_method(
    name: str, tmp_path: Path, own_method: str
) -> None:
    named = own_method if name == "own" else name
    every = ", every=2, mu=0.5" if name == "lc" else ""
    changes = [f"method={{name='{named}'{every}}}", "penalties=[{L1=1}]", "train.epochs=80"]
    if name == "gates":
        changes[1] = "penalties=[{L0=1}]"
    recipe = read_recipe(written(tmp_path, PLAIN), changes)
    assert recipe.method is not None
    kept = Record(recipe=recipe, seed=0, shape=[64], classes=10).to_json()["recipe"]["method"]
    made, kind = recipe.method.options(11), recipe.method.type.options_type
    options = {field.name: getattr(made, field.name) for field in fields(kind)}
    assert kept.keys() - {"name"} == {k for k, value in options.items() if value is not None}
    assert kept["name"] == named
    path = tmp_path / "recipe.json"
    keep_record(Record(recipe=recipe, seed=0, shape=[64], classes=10), tmp_path)
    again = read_recipe(str(path))
    assert again == recipe and again.method is not None
    assert read_record(path).recipe == recipe
    assert json.dumps(again.method.model_dump()) == json.dumps(recipe.method.model_dump())
    same = again.method.options(11)
    assert {k: getattr(same, k) for k in options} == options


def test_a_method_of_ones_own_has_its_options_checked(tmp_path: Path, own_method: str) -> None:
    path = written(tmp_path, PLAIN.replace('"proximal"', f'"{own_method}"'))
    method = read_recipe(path).method
    assert method is not None
    options: Any = method.options(11)
    assert (options.every, options.names, options.once) == (11, ["a"], None)
    changed = ["method.every=3 steps", "method.budget.macs=0.25", "method.once=2"]
    method = read_recipe(path, changed).method
    assert method is not None
    options = method.options(11)
    assert (options.every, options.once) == (3, 22)
    assert (options.budget.macs, options.budget.weights) == (0.25, None)
    for change, message in (
        ("method.quiet=3", r"--set: method\.quiet: quiet is true or false, got 3"),
        (
            "method.budget.mac=1",
            r"--set: method\.budget\.mac: unknown option 'mac'\. Did you .*'macs'",
        ),
        (
            "method.budget=3",
            r"--set: method\.budget: budget is a table with weights, macs, .*; got 3",
        ),
        (
            "method.quite=true",
            r"--set: method\.quite: method '.*' has no option .*Did you mean 'quiet'",
        ),
        ("method.every=now", r"--set: method\.every: every is a whole number .*; got 'now'"),
        (
            "method.name=own_methods_of_a_test:Prunner",
            r"--set: method\.name: .*Did you mean 'Pruner'",
        ),
        (
            "method.name=own_methods_of_a_test:Nameless",
            r"--set: method\.name: .* has no name: give",
        ),
    ):
        with pytest.raises(RecipeError, match=message):
            read_recipe(path, [change])


def test_times_in_steps_and_in_epochs_go_together(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN)
    for start, end in (("30 steps", 2), ("1 step", "2 steps"), (1, 2)):
        changes = [f"method.start={start!r}", f"method.finalize_at={end!r}"]
        method = read_recipe(path, changes).method
        assert method is not None
        options = method.options(100)
        steps = {"30 steps": 30, "1 step": 1, "2 steps": 2, 1: 100, 2: 200}
        assert (options.start, options.finalize_at) == (steps[start], steps[end])
    for start, end in (("8 steps", "8 steps"), (3, "8 steps"), (2, 2)):
        changes = [f"method.start={start!r}", f"method.finalize_at={end!r}"]
        with pytest.raises(RecipeError, match=r"method\.finalize_at: finalize_at must lie after"):
            read_recipe(path, changes)
    with pytest.raises(RecipeError, match=r"must lie after start=3, .*; got 2"):
        read_recipe(path, ["method.start=3", "method.finalize_at=2"])


def test_read_back_with_everything(tmp_path: Path) -> None:
    text = PLAIN.replace("every = 1", 'every = "8 steps"\nstart = 2\nfinalize_at = 9')
    text = text.replace("L1 = 1e-4", "L1Ball = { radius = [{ start = 9, end = 0, epochs = 0.5 }] }")
    recipe = read_recipe(written(tmp_path, text))
    path = tmp_path / "recipe.json"
    keep_record(Record(recipe=recipe, seed=0, shape=[64], classes=10), tmp_path)
    assert read_recipe(str(path)) == recipe


def test_what_is_no_record_of_a_run_is_refused(tmp_path: Path) -> None:
    record = Record(recipe=read_recipe("digits-demo"), seed=0, shape=[1, 8, 8], classes=10)
    path = tmp_path / "recipe.json"
    for key in record.to_json():
        less = {k: v for k, v in record.to_json().items() if k != key}
        save_json(less, path, RECIPE_KIND)
        with pytest.raises(RecipeError, match=rf"recipe\.json: {key}: this key is required"):
            read_record(path)
    for key, value, message in (
        ("seed", -1, r"seed: Input should be greater than or equal to 0, got -1"),
        ("shape", [], r"shape: this list needs an entry"),
        ("shape", [0], r"shape\.0: Input should be greater than or equal to 1, got 0"),
        ("recipe", 3, r"recipe: this must be a table, got 3"),
        ("sede", 3, r"sede: unknown key 'sede'\. Did you mean 'seed'"),
    ):
        save_json({**record.to_json(), key: value}, path, RECIPE_KIND)
        with pytest.raises(RecipeError, match=rf"recipe\.json: {message}"):
            read_record(path)
    for content in ("[]", "3", '{"title": "x"}', json.dumps(record.to_json())):
        path.write_text(content)  # the last one as version 0.1.0 wrote it
        with pytest.raises(RecipeError, match=r"says no format, this lissom reads 'lissom recipe"):
            read_recipe(str(path))
        with pytest.raises(RunError, match=r"says no format, this lissom reads 'lissom recipe"):
            read_record(path)
    save_json({"recipe": 3}, path, RECIPE_KIND)
    with pytest.raises(RecipeError, match=r"recipe\.json is not the recipe\.json of a run"):
        read_recipe(str(path))
    path.write_text("{")
    with pytest.raises(RecipeError, match="is not JSON"):
        read_recipe(str(path))
    with pytest.raises(RunError, match="is not JSON"):
        read_record(path)
    with pytest.raises(RunError, match="is it a run directory"):
        read_record(tmp_path / "absent" / "recipe.json")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 10", "epoch = 10",
         r"line 14: train\.epoch: unknown key 'epoch'\. Did you mean 'epochs' or"),
        ("epochs = 10", 'epochs = "10"', r"line 14: train\.epochs: .*valid integer, got '10'"),
        ("epochs = 10", "epochs = 10.0", r"line 14: train\.epochs: .*valid integer, got 10\.0"),
        ("epochs = 10", "epochs = true", r"line 14: train\.epochs: .*valid integer, got True"),
        ("epochs = 10", "", r"line 13: train\.epochs: this key is required"),
        ("epochs = 10", "epochs = 10\nprecision = 1", r"line 15: train\.precision: .*got 1"),
        ("epochs = 10", "epochs = 10\nnumber = 1", r"line 15: train\.number: unknown key 'number'"),
        ("epochs = 10", "epochs = 10\npatience = 3",
         r"line 15: train\.patience: patience=3 chooses an epoch by validation data, .* none"),
        ("epochs = 10", "epochs = 10\ncosine_from = 10",
         r"line 15: train\.cosine_from: 10 is not before the end of training, epochs = 10"),
        ("epochs = 10", "epochs = 10\ncosine_from = 5\nmilestones = [3]\ngamma = 0.2",
         r"line 16: train\.milestones: the learning rate falls along a cosine from epoch 5 on, or "
         r"at milestones: remove one of the two"),
        ("epochs = 10", "epochs = 10\nmilestones = [3, 6]",
         r"line 15: train\.milestones: milestones need the factor .*: gamma = 0\.2"),
        ("epochs = 10", "epochs = 10\ngamma = 0.2",
         r"line 15: train\.gamma: gamma is the factor at milestones: set milestones = \[60, 120"),
        ("epochs = 10", "epochs = 10\ngamma = 1.0\nmilestones = [3]",
         r"line 15: train\.gamma: .*less than 1, got 1\.0"),
        ("epochs = 10", "epochs = 10\ngamma = 0.2\nmilestones = [6, 3]",
         r"line 16: train\.milestones: milestones are epochs in ascending order, got \[6, 3\]"),
        ("epochs = 10", "epochs = 10\ngamma = 0.2\nmilestones = [0, 3]",
         r"line 16: train\.milestones\.0: .*greater than or equal to 1, got 0"),
        ("epochs = 10", "epochs = 10\ngamma = 0.2\nmilestones = []",
         r"line 16: train\.milestones: this list needs an entry"),
        ("epochs = 10", "epochs = 10\ngamma = 0.2\nmilestone = [3]",
         r"line 16: train\.milestone: unknown key 'milestone'\. Did you mean 'milestones'"),
        ("epochs = 10", "epochs = 10\naugment = {}",
         r"line 15: train\.augment: augmentation without crops and flips does nothing: pad=4"),
        ("epochs = 10", "epochs = 10\naugment = { pad = -1 }",
         r"line 15: train\.augment\.pad: pad is a whole number of pixels ≥ 0, got -1"),
        ("epochs = 10", "epochs = 10\n[train.augment]\nflip = true\npads = 4",
         r"line 17: train\.augment\.pads: unknown key 'pads'\. Did you mean 'pad'"),
        ("epochs = 10", "epochs = 10\naugment = true",
         r"line 15: train\.augment: this must be a table, got True"),
        ('"lenet300"', '"lenet300"\nwiden = 2',
         r"line 8: model\.widen: model 'lenet300' has no widen; only 'wrn16-4' and .* have"),
        ('"lenet300"', '"cnn"\nmean = [0.5]',
         r"line 8: model\.mean: model 'cnn' has no mean; only 'wrn16-4' and 'wrn28-10' have"),
        ('"lenet300"', '"wrn28-10"\nwidths = [8]',
         r"line 8: model\.widths: model 'wrn28-10' has no widths; only 'cnn' and 'mlp' have"),
        ('"lenet300"', '"wrn28-10"\ninput_dropout = 0.2',
         r"line 8: model\.input_dropout: model 'wrn28-10' has no input_dropout"),
        ('"lenet300"', '"wrn28-10"\nmean = [0.5]',
         r"line 8: model\.mean: pixels are normalised by both: give std as well"),
        ('"lenet300"', '"wrn28-10"\nstd = [0.5]',
         r"line 8: model\.std: pixels are normalised by both: give mean as well"),
        ('"lenet300"', '"wrn28-10"\nmean = [0.5]\nstd = [0]',
         r"line 9: model\.std: means are finite and stds above 0, .*got \[0\.5\] and \[0\]"),
        ("epochs = 10", "epochs = 10\naverage_from = 5",
         r"line 15: train\.average_from: .* come and go until it is .*: set finalize_at to 5"),
        ("[data]", "[dat]", r"line 3: dat: unknown key 'dat'\. Did you mean 'data'"),
        ("[data]\nname", "data", r"line 3: data: this must be a table, got 'digits'"),
        ('"digits"', '"digit"', r"line 4: data\.name: .*got 'digit'\. Did you mean 'digits'\?"),
        ('"lenet300"', '"lenet5"\ninput_dropout = 0.2',
         r"line 8: model\.input_dropout: model 'lenet5' has no input_dropout"),
        ('"Adam"', '"adam"', r"line 10: optimizer\.name: .*got 'adam'\. Did you mean 'Adam'"),
        ('"Adam"', '"SGD"\nalpha = 0.5',
         r"line 11: optimizer\.alpha: not an argument of torch\.optim\.SGD\. Known: .*momentum"),
        ('"Adam"', '"RMSprop"\nbeta1 = 0.5',
         r"line 11: optimizer\.beta1: not an argument of torch\.optim\.RMSprop"),
        ('"Adam"', '"Adam"\nbeta2 = 1.5',
         r"line 9: optimizer: torch\.optim\.Adam refuses this: Invalid beta parameter"),
        ('"Adam"', '"SGD"\nnesterov = true',
         r"line 9: optimizer: torch\.optim\.SGD refuses this: Nesterov momentum requires"),
        ("lr = 1e-3", "lr = 0", r"line 11: optimizer\.lr: .*greater than 0, got 0"),
        ("lr = 1e-3", "lr = inf", r"line 11: optimizer\.lr: .*finite number, got inf"),
        ("every = 1", 'every = "8 stps"',
         r"line 18: method\.every: every is a whole number of epochs, or of steps, as \"8 steps\" "
         r"is; got '8 stps'"),
        ("every = 1", "every = 0.5", r"line 18: method\.every: every is a whole .*; got 0\.5"),
        ("every = 1", "every = true", r"line 18: method\.every: every is a whole .*; got True"),
        ("every = 1", "every = 0", r"line 18: method\.every: every counts steps, 1 or more, got 0"),
        ("every = 1", 'every = "0 steps"', r"line 18: method\.every: every counts steps, .* got 0"),
        ("every = 1", "start = -1", r"line 18: method\.start: start counts steps, .*, got -1"),
        ("every = 1", "start = 10",
         r"line 18: method\.start: method 'proximal' starts after epoch 10, and training ends "
         r"after epochs=10"),
        ("every = 1", 'finalize_at = "now"', r"line 18: method\.finalize_at: .*; got 'now'"),
        ("every = 1", "finalize_at = 11",
         r"line 18: method\.finalize_at: method 'proximal' ends after epoch 11, .* epochs=10"),
        ("every = 1", "start = 5\nfinalize_at = 5",
         r"line 19: method\.finalize_at: finalize_at must lie after start=5, .*; got 5"),
        ("every = 1", "finalise_at = 5",
         r"line 18: method\.finalise_at: method 'proximal' has no option 'finalise_at'\. Did you "
         r"mean 'finalize_at'\?"),
        ("every = 1", "gate_lr = 0.1",
         r"line 18: method\.gate_lr: method 'proximal' has no option 'gate_lr'\. Known: every, "),
        ("every = 1", 'metric = "adaptiv"',
         r"line 18: method\.metric: metric is 'euclidean' or 'adaptive', got 'adaptiv'"),
        ("every = 1", 'fused = "yes"',
         r"line 18: method\.fused: fused is true or false, got 'yes'"),
        ("every = 1", "budget = { weights = 0.5 }",
         r"line 18: method\.budget: method 'proximal' has no option 'budget'"),
        ('name = "proximal"\n', "", r"line 16: method\.name: this key is required"),
        ('"proximal"', "3", r"line 17: method\.name: .*valid string, got 3"),
        ('"proximal"', '"proximl"',
         r"line 17: method\.name: there is no method 'proximl'\. Did you mean 'proximal'\? A class "
         r"of your own is named by its import path"),
        ('"proximal"', '"absent.room:Pruning"',
         r"line 17: method\.name: method 'absent\.room:Pruning' cannot be imported: No module "),
        ('"proximal"', '"lissom.methods:Gats"',
         r"line 17: method\.name: module 'lissom\.methods' has no 'Gats'\. Did you mean 'Gates'"),
        ('"proximal"', '"lissom.methods:Budget"',
         r"line 17: method\.name: 'lissom\.methods:Budget' is no subclass of lissom\."),
        ('"proximal"', '"lissom.methods:Method"',
         r"line 17: method\.name: 'lissom\.methods:Method' has no name: give the class one"),
        ('"proximal"', '".mine:Pruning"',
         r"line 17: method\.name: '\.mine:Pruning' is no import path, such as"),
        ('[method]\nname = "proximal"\nevery = 1', "",
         r"line 18: penalties: \[\[penalties\]\] need a \[method\] as well: name = \"proximal\""),
        ("[method]", "[[method]]", r"line 16: method: this must be a table"),
        ('[method]\nname = "proximal"\nevery = 1', "[proximal]\nevery = 1",
         r"line 16: proximal: a method stands in \[method\]: name = \"proximal\", then its"),
        ("L1 = 1e-4", "l1 = 1e-4",
         r"line 22: penalties\.0\.l1: unknown key 'l1'\. Did you mean 'L1'"),
        ("L1 = 1e-4", "L1 = -1e-4",
         r"line 22: penalties\.0\.L1: L1 needs a finite strength λ ≥ 0, got -0\.0001"),
        ("L1 = 1e-4", 'L1 = "a"', r"line 22: penalties\.0\.L1: L1 needs a finite .*, got 'a'"),
        ("L1 = 1e-4", "L1 = nan", r"line 22: penalties\.0\.L1: .*got nan"),
        ("L1 = 1e-4", "L1 = []", r"line 22: penalties\.0\.L1: a schedule has one piece at least"),
        ("L1 = 1e-4", "L1 = { end = 1, epochs = 3 }",
         r"line 22: penalties\.0\.L1\.end: L1 has no option 'end'\. Known: strength"),
        ("L1 = 1e-4", "L1 = [{ end = 1, epochs = 3 }]",
         r"line 22: penalties\.0\.L1: the first piece of a schedule needs a start"),
        ("L1 = 1e-4", "L1 = [{ start = 1, epochs = 3 }]",
         r"line 22: penalties\.0\.L1\.0\.end: this key is required"),
        ("L1 = 1e-4", 'L1 = [{ start = 0, end = 1, epochs = 3, shape = "exponential" }]',
         r"line 22: penalties\.0\.L1: an exponential schedule .*start > 0"),
        ("L1 = 1e-4", "L1 = [\n { start = 1, end = 1, epochs = 1 },\n { end = 0, epochs = -3 } ]",
         r"line 24: penalties\.0\.L1\.1\.epochs: .*got -3"),
        ("L1 = 1e-4", "", r"line 20: penalties\.0: say what is asked of the groups: L0, L1"),
        ("L1 = 1e-4", "L1 = 1\nThreshold = 2",
         r"line 20: penalties\.0: .*L1\(1\.0\) \+ Threshold\(2\.0\) has no prox"),
        ("L1 = 1e-4", 'groups = "kernels"\nbiases = true\nL1 = 1',
         r"line 23: penalties\.0\.biases: .* not 'kernels'"),
        ("L1 = 1e-4", 'groups = "kernel"\nL1 = 1',
         r"line 22: penalties\.0\.groups: .*Did you mean 'kernels'"),
        ("L1 = 1e-4", 'groups = "heads"\nbiases = true\nL1 = 1',
         r"line 23: penalties\.0\.biases: .* goes with groups = 'weights', not 'heads'"),
        ("L1 = 1e-4", 'groups = "kernels"\ninputs = true\nL1 = 1',
         r"line 23: penalties\.0\.inputs: .* goes with units, such as 'neurons', not with 'ke"),
        ("L1 = 1e-4", 'inputs = true\nL1 = 1',
         r"line 22: penalties\.0\.inputs: .*, not with 'weights'"),
        ("L1 = 1e-4", 'groups = "channel"\nL1 = 1',
         r"line 22: penalties\.0\.groups: .*got 'channel'\. Did you mean 'channels'"),
        ('"lenet300"', '"cnn"\ninput_dropout = 0.2',
         r"line 8: model\.input_dropout: model 'cnn' has no input_dropout"),
        ('"fc2"', "2", r"line 26: penalties\.1\.only\.0: .*valid string, got 2"),
        ('"cubic"', '"cubc"',
         r"line 29: penalties\.1\.TopK\.fraction\.0\.shape: .*Did you mean 'cubic'\?"),
        ("start = 1.0", "strat = 1.0",
         r"line 29: penalties\.1\.TopK\.fraction\.0\.strat: unknown key 'strat'\. .*'start'"),
        ("end = 0.25", "end = 2.5",
         r"line 30: penalties\.1\.TopK\.fraction\.1\.end: TopK needs a fraction .*, got 2"),
        ("end = 0.25", 'end = "x"',
         r"line 30: penalties\.1\.TopK\.fraction\.1\.end: .*valid number, got 'x'"),
        ("per = 'layer'", "per_layr = true",
         r"line 31: penalties\.1\.TopK\.per_layr: TopK has no option .*'per'"),
        ("per = 'layer'", "count = 5",
         r"line 28: penalties\.1\.TopK: TopK needs a count or a .*; got count=5, frac.*=1→"),
        ('"proximal"\nevery = 1', '"subgradient"',
         r"line 23: penalties\.1: method 'subgradient' takes penalties with a gradient: .*; got "
         r"TopK.*\. Methods that take it: 'lc', 'nested', 'proximal'"),
        ("L1 = 1e-4", "Codebook = { k = 2 }",
         r"line 20: penalties\.0: method 'proximal' takes penalties, .*; got Codebook\(2\)\. "
         r"Methods that take it: 'lc'"),
        ("L1 = 1e-4", "Codebook = { k = 0 }", r"line 22: penalties\.0\.Codebook: .*got 0"),
        ('every = 1\n\n[[penalties]]\nonly = ["fc1"]\nL1 = 1e-4',
         'metric = "adaptive"\n\n[[penalties]]\nThreshold = 0.1\n',
         r"line 20: penalties\.0: metric='adaptive' takes .*; got Threshold\(0\.1\), which knows"),
        ("epochs = 10", "epochs = 10\ngamma = 0.2\nmilestones = { first = 3, evry = 2 }",
         r"line 16: train\.milestones\.evry: unknown key 'evry'\. Did you mean 'every'"),
        ("epochs = 10", "epochs = 10\ngamma = 0.2\nmilestones = { first = 3 }",
         r"line 16: train\.milestones\.every: this key is required"),
        ("epochs = 10", 'epochs = 10\ngamma = 0.2\nmilestones = "3"',
         r"line 16: train\.milestones: this must be a list, in \[ \], got '3'"),
        ("epochs = 10", "epochs = 10\npatience = 3\n[data.more]",
         r"line 16: data\.more: unknown key 'more'"),
    ],
)  # fmt: skip
def test_mistakes_are_found_where_they_stand(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert PLAIN.count(old) >= 1
    with pytest.raises(RecipeError, match=rf"mine\.toml, {message}") as caught:
        read_recipe(written(tmp_path, PLAIN.replace(old, new, 1)))
    assert "pydantic" not in str(caught.value) and "number." not in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = PLAIN.replace("epochs = 10", "epochs = 0").replace("lr = 1e-3", "lr = -1")
    with pytest.raises(RecipeError) as caught:
        read_recipe(written(tmp_path, text.replace("end = 0.25", "end = -1")))
    lines = [re.search(r"line (\d+)", line) for line in str(caught.value).splitlines()]
    assert [line and int(line[1]) for line in lines] == [11, 14, 30]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["train.epochs=0"], r"mine\.toml, --set: train\.epochs: .*got 0"),
        (["train.epoch=5"], r"mine\.toml, --set: train\.epoch: unknown key .*'epochs'"),
        (["trian.epochs=5"],
         r"mine\.toml, --set: trian: unknown key 'trian'\. Did you mean 'train'"),
        (["train.channels_last=True"],
         r"--set: train\.channels_last: .*valid boolean, got 'True'"),
        (["penalties.0.L1=-1"], r"mine\.toml, --set: penalties\.0\.L1: .*got -1"),
        (["penalties.1.TopK.fraction.0.end=7"],
         r"--set: penalties\.1\.TopK\.fraction\.0\.end: .*got 7"),
        (["penalties.1={L1=[{start=1,end=1,epochs=-1}]}"],
         r"--set: penalties\.1\.L1\.0\.epochs: .*got -1"),
        (["penalties.0.Threshold=2"], r"mine\.toml, --set: penalties\.0: .* has no prox"),
        (["optimizer.name=SGD", "optimizer.nesterov=true"],
         r"mine\.toml, --set: optimizer: torch\.optim\.SGD refuses this: Nesterov"),
        (["penalties.2.L1=1"], r"--set penalties\.2\.L1=1: there is no entry 2; known: 0, 1"),
        (["penalties.2=1"], r"--set penalties\.2=1: there is no entry 2; known: 0, 1"),
        (["penalties.-1.L1=1"], r"there is no entry -1; known: 0, 1"),
        (["penalties.x.L1=1"], r"there is no entry x; known: 0, 1"),
        (["penalties=[]", "penalties.0.L1=1"], r"there is no entry 0; known: none, it is empty"),
        (["penalties=7"], r"--set: penalties: this must be a list, in \[ \], got 7"),
        (["penalties=[]"],
         r"mine\.toml, line 16: method: \[method\] needs \[\[penalties\]\] as well: L0 = 1e-4"),
        (["penalties=none"],
         r"mine\.toml, line 16: method: \[method\] needs \[\[penalties\]\] as well: L0 = 1e-4"),
        (["method=none"], r"mine\.toml, line 20: penalties: .* need a \[method\] as well"),
        (["method=subgradient"], r"--set: method: this must be a table, got 'subgradient'"),
        (["method.name=subgradient", "penalties=[{L1=1}]"],
         r"mine\.toml, line 18: method\.every: method 'subgradient' has no option 'every'\."),
        (["method={name='lc'}"], r"--set: method\.every: option 'every' has to be given"),
        (["method.every=8 stps"], r"--set: method\.every: every is a whole .*; got '8 stps'"),
        (["method.finalize_at=11"],
         r"--set: method\.finalize_at: method 'proximal' ends after epoch 11"),
        (["method={name='gates', budget={weights=1.5}}", "penalties=[{L0=0}]"],
         r"--set: method\.budget\.weights: weights is a fraction of the whole, .*, got 1\.5"),
        (["method={name='gates', init=[0.2, 0.5]}", "penalties=[{L0=0}]"],
         r"--set: method\.init: init is one drop rate for all groups, or a list with one for each: "
         r"it has 2, and there are 1 groups"),
        (["title.x=1"], r"--set title\.x=1: title is a value, not a table"),
        (["train.epochs.x.y=1"],
         r"--set train\.epochs\.x\.y=1: train\.epochs\.x is a value, not a table"),
        (["epochs"], r"--set takes key=value, as in train\.epochs=5; got 'epochs'"),
        (["=3"], r"--set takes key=value"),
        (["title=3"], r"--set: title: .*valid string, got 3"),
        (["train.epochs="], r"--set: train\.epochs: .*valid integer, got ''"),
        (["train.cosine_from=99"], r"--set: train\.cosine_from: 99 is not before the end"),
        (["penalties=[{Threshold=1}]", "method.metric=adaptive"],
         r"--set: penalties\.0: metric='adaptive' takes .* as L0 .*; got Threshold\(1\.0\), which"),
    ],
)  # fmt: skip
def test_bad_changes_are_named(tmp_path: Path, changes: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe(written(tmp_path, PLAIN), changes)


def test_a_change_is_blamed_only_for_its_own_key(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN.replace("epochs = 10", "epochs = 10\ncosine_from = 5"))
    with pytest.raises(RecipeError, match=r"mine\.toml, line 15: train\.cosine_from: 5 is not"):
        read_recipe(path, ["train.epochs=3", "train.patience_from=0"])
    path = written(tmp_path, PLAIN.replace("epochs = 10", "epochs = 10\npatience_from = -1"))
    with pytest.raises(RecipeError, match=r"mine\.toml, line 15: train\.patience_from: .*got -1"):
        read_recipe(path, ["train.patience=3", "data.validation=10"])


def test_changes_of_nested_and_array_keys(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN)
    assert read_recipe(path, ["train.epochs=3"]).train.epochs == 3
    assert read_recipe(path, [" train . epochs = 3 "]).train.epochs == 3
    assert read_recipe(path, ["train.epochs=3", "train.epochs=4"]).train.epochs == 4
    assert read_recipe(path, ["title=Two words"]).title == "Two words"
    assert read_recipe(path, ['title="quoted = [x]"']).title == "quoted = [x]"
    method = read_recipe(path, ["method.every=8 steps"]).method
    assert method is not None and method.options(11).every == 8
    method = read_recipe(path, ["method.every=3", "method.finalize_at=9"]).method
    assert method is not None and method.options(11).every == 33
    assert method.options(11).finalize_at == 99
    gated = ["method={name='gates'}", "penalties=[{L0=0}, {L0=0, groups='columns'}]"]
    method = read_recipe(path, [*gated, "method.init=[0.2, 0.5]", "method.init.1=0.25"]).method
    assert method is not None and method.options(1).init == [0.2, 0.25]
    ramp = "method.budget.macs=[{start=1.0, end=0.5, epochs=2}]"
    method = read_recipe(path, [*gated, ramp, "method.budget.macs.0.end=0.25"]).method
    assert method is not None
    target = method.options(10).budget.macs
    assert (target(0), target(20), target.steps) == (1.0, 0.25, 20)
    assert read_recipe(path, ["data.validation=5"]).data.validation == 5
    assert read_recipe(path, ["penalties.0.L1=2e-3"]).penalties[0].L1 == 2e-3
    assert read_recipe(path, ['penalties."0".L1=2e-3']).penalties[0].L1 == 2e-3
    dense = read_recipe(path, ["method=none", "penalties=none"])
    assert dense.method is None and dense.penalties == []
    assert read_recipe(path, ["penalties=[{L0=1}]"]).penalties[0].L0 == 1
    assert read_recipe(path, ['penalties.1.only.0="fc3"']).penalties[1].only == ["fc3"]
    assert read_recipe(path, ["penalties.1.TopK={count=3}"]).penalties[1].TopK["count"] == 3
    ramps = (
        read_recipe(path, ["penalties.1.TopK.fraction.1.end=0.125"]).penalties[1].TopK["fraction"]
    )
    assert [ramp["end"] for ramp in ramps] == [0.5, 0.125]
    ramps = read_recipe(path, ["penalties.0.L1=[{start=0, end=1, epochs=2}]"]).penalties[0].L1
    assert [ramp["end"] for ramp in ramps] == [1]


def test_one_of_equal_entries_is_changed_and_not_the_other(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN)
    changed = read_recipe(path, ["penalties=[{L1=1}, {L1=1}]", "penalties.1={L0=2}"])
    assert [spec.model_extra for spec in changed.penalties] == [{"L1": 1}, {"L0": 2}]


def test_recipes_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"no recipe 'digit-demo'\. Did you mean 'digits-demo'"):
        read_recipe("digit-demo")
    for path in ("absent.toml", "absent.json"):
        with pytest.raises(RecipeError, match=f"there is no recipe file {path}"):
            read_recipe(path)
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(RecipeError, match=r"recipe file folder\.toml cannot be read"):
        read_recipe("folder.toml")
    (tmp_path / "bytes.toml").write_bytes(b"title = '\xff'")
    with pytest.raises(RecipeError, match=r"recipe file bytes\.toml cannot be read: .*utf-8"):
        read_recipe("bytes.toml")
    for text in ("[data", "a = 1\na = 2", "a = ", "["):
        with pytest.raises(RecipeError, match=r"mine\.toml is not valid TOML: "):
            read_recipe(written(tmp_path, text))


@pytest.mark.parametrize("text", [PLAIN, *map(bundled, NAMES)], ids=["PLAIN", *NAMES])
def test_every_key_is_on_the_line_that_says_it(text: str) -> None:
    lines, rows = line_numbers(text), text.splitlines()

    def paths(value: Any, path: tuple[Any, ...] = ()) -> Any:
        if path:
            yield path
        inner = value.items() if isinstance(value, dict) else ()
        for key, item in enumerate(value) if isinstance(value, list) else inner:
            yield from paths(item, (*path, key))

    found = list(paths(tomllib.loads(text)))
    assert set(found) == set(lines)
    for path in found:
        if isinstance(path[-1], str):
            assert re.search(rf"\b{path[-1]}\b", rows[lines[path] - 1]), path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("# a = 1\n\n  # [b]", {}),
        ("a = 1\r\nb = 2\r\n", {("a",): 1, ("b",): 2}),
        ("a.b = 1\n'c.d'.\"e\" = 2", {
            ("a",): 1, ("a", "b"): 1, ("c.d",): 2, ("c.d", "e"): 2,
        }),
        ("[a.b]\nc = 1\n[d]\n", {("a",): 1, ("a", "b"): 1, ("a", "b", "c"): 2, ("d",): 3}),
        ("[ a . 'b c' ]", {("a",): 1, ("a", "b c"): 1}),
        ("[[a]]\nx = 1\n[[a]]\nx = 2\n[a.b]\ny = 3", {
            ("a",): 1, ("a", 0): 1, ("a", 0, "x"): 2, ("a", 1): 3, ("a", 1, "x"): 4,
            ("a", 1, "b"): 5, ("a", 1, "b", "y"): 6,
        }),
        ("[[a]]\n[[a.b]]\n[[a.b]]\n[[a]]\n[[a.b]]\n", {
            ("a",): 1, ("a", 0): 1, ("a", 0, "b"): 2, ("a", 0, "b", 0): 2, ("a", 0, "b", 1): 3,
            ("a", 1): 4, ("a", 1, "b"): 5, ("a", 1, "b", 0): 5,
        }),
        ('a = "b = 1" # c = 2\nd = "\\"e = 1"\nf = \'g = "\'', {("a",): 1, ("d",): 2, ("f",): 3}),
        ('a = """\nb = 1\n[c]\n"""\nd = \'\'\'\ne = 1\'\'\'\nf = 1', {
            ("a",): 1, ("d",): 5, ("f",): 7,
        }),
        ('a = ""\nb = """"""\nc = """x\\"""" \nd = 1', {
            ("a",): 1, ("b",): 2, ("c",): 3, ("d",): 4,
        }),
        ("a = [\n  1,\n\n  # two\n  [2.5, 3], # three\n]\nb = 1", {
            ("a",): 1, ("a", 0): 2, ("a", 1): 5, ("a", 1, 0): 5, ("a", 1, 1): 5, ("b",): 7,
        }),
        ("a = { b = 1, c = { d.e = [] } }", {
            ("a",): 1, ("a", "b"): 1, ("a", "c"): 1, ("a", "c", "d"): 1, ("a", "c", "d", "e"): 1,
        }),
        ("a = [\n { b = 1 },\n { b = [\n 2 ] } ]", {
            ("a",): 1, ("a", 0): 2, ("a", 0, "b"): 2, ("a", 1): 3, ("a", 1, "b"): 3,
            ("a", 1, "b", 0): 4,
        }),
        ("a = 1979-05-27 07:32:00.5\nb = -1.5e-3\nc = +inf\n3 = 0x1F", {
            ("a",): 1, ("b",): 2, ("c",): 3, ("3",): 4,
        }),
    ],
)  # fmt: skip
def test_line_numbers(text: str, expected: dict[Any, int]) -> None:
    tomllib.loads(text)
    assert line_numbers(text) == expected


def only(
    recipe: Recipe, model: nn.Module, epoch: int = 5, shape: tuple[int, ...] = (64,)
) -> list[Any]:
    optimizer = make_optimizer(recipe.optimizer, model)
    method = make_method(recipe, model, optimizer, shape, epoch)
    assert method is not None
    return list(method.penalties.items())


def test_penalties_choose_their_layers_and_count_in_steps(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, PLAIN))
    model = make_model(recipe, (1, 8, 8), 10)
    (first, l1), (second, top) = only(recipe, model, epoch=7)
    assert [block.name for block in first] == ["fc1.weight"]
    assert [block.name for block in second] == ["fc2.weight"]
    assert l1 == L1(1e-4)
    assert isinstance(top, TopK) and top.per == "layer"
    fractions = [top.at(step).fraction for step in (0, 7, 14, 21, 28, 1000)]
    assert fractions == pytest.approx([1, 0.5 + 0.5 / 8, 0.5, 0.375, 0.25, 0.25])


@pytest.mark.parametrize(
    ("entry", "penalty"),
    [
        ("L0 = 2", L0(2)),
        ("L1 = 2", L1(2)),
        ("L2 = 2", L2(2)),
        ("L0 = 1\nL1 = 2\nL2 = 3", L0(1) + L1(2) + L2(3)),
        ("Threshold = 0.5", Threshold(0.5)),
        ("L1Ball = { radius = 3, per = 'layer' }", L1Ball(3, per="layer")),
        ("TopK = { count = 30 }", TopK(30)),
        ("TopK = { fraction = 0.5, per = 'layer' }", TopK(fraction=0.5, per="layer")),
        ("L2 = 0.1\nTopK = { count = 30 }", TopK(30) + L2(0.1)),
        ("L0 = 0", L0(0)),
    ],
)
def test_the_penalty_of_an_entry(tmp_path: Path, entry: str, penalty: Any) -> None:
    recipe = read_recipe(written(tmp_path, PLAIN.replace("L1 = 1e-4", entry)))
    ((_, made), _) = only(recipe, make_model(recipe, (64,), 10))
    assert made == penalty


@pytest.mark.parametrize("shape", ["linear", "cubic", "exponential", "cosine"])
def test_schedules_run_from_epoch_to_epoch(tmp_path: Path, shape: str) -> None:
    ramps = f'L1 = [{{ shape = "{shape}", start = 1, end = 0.5, epochs = 1.5 }}]'
    recipe = read_recipe(written(tmp_path, PLAIN.replace("L1 = 1e-4", ramps)))
    ((_, made), _) = only(recipe, make_model(recipe, (64,), 10), epoch=6)
    schedule = made.strength
    assert isinstance(schedule, Schedule) and schedule.steps == 9
    assert (schedule(0), schedule(9), schedule(10)) == pytest.approx((1, 0.5, 0.5))
    assert 0.5 < schedule(8) < schedule(1) < 1


def test_the_groups_of_an_entry(tmp_path: Path) -> None:
    def names(change: str) -> list[str]:
        recipe = read_recipe(written(tmp_path, PLAIN), [f"penalties=[{{L1=1, {change}}}]"])
        ((groups, _),) = only(recipe, make_model(recipe, (64,), 10))
        return [block.name for block in groups]

    assert names("biases=false") == ["fc1.weight", "fc2.weight", "fc3.weight"]
    assert len(names("biases=true")) == 6
    assert names("without=['fc2']") == ["fc1.weight", "fc3.weight"]
    assert names("only=['fc*'], without=['fc1', 'fc2']") == ["fc3.weight"]


def units_of(change: str, tmp_path: Path, model: str = "cnn", side: int = 8) -> list[Any]:
    """[(family, units)] of one entry on a network for images."""
    changes = [f"model.name={model}", f"penalties=[{{L1=1, {change}}}]"]
    recipe = read_recipe(written(tmp_path, PLAIN), changes)
    shape = (1, side, side)
    ((groups, _),) = only(recipe, make_model(recipe, shape, 10), shape=shape)
    return [(block.name, len(block.norms())) for block in groups]


@exhaustive
def test_the_units_of_an_entry(tmp_path: Path) -> None:
    channels = [("conv1.weight", 8), ("conv2.weight", 16), ("conv3.weight", 32)]
    assert units_of("groups='channels'", tmp_path) == channels
    assert units_of("groups='units'", tmp_path) == channels
    assert units_of("groups='channels', without=['conv1']", tmp_path) == channels[1:]
    assert units_of("groups='neurons'", tmp_path, "lenet300") == [
        ("fc1.weight", 300),
        ("fc2.weight", 100),
    ]
    assert units_of("groups='neurons', inputs=true", tmp_path, "lenet300") == [
        ("fc1.weight", 64),
        ("fc2.weight", 300),
        ("fc3.weight", 100),
    ]
    assert units_of("groups='units'", tmp_path, "lenet5", side=28) == [
        ("conv1.weight", 20),
        ("conv2.weight", 50),
        ("fc1.weight", 500),
    ]


def test_units_and_weights_of_other_layers_go_together(tmp_path: Path) -> None:
    both = "penalties=[{groups='channels', L1=1}, {groups='weights', only=['fc'], L0=1}]"
    recipe = read_recipe(written(tmp_path, PLAIN), ["model.name=cnn", both])
    trainer = make_trainer(recipe, fake((1, 8, 8)))
    assert trainer.method is not None
    assert [groups.kind for groups in trainer.method.penalties] == ["channels", "weights"]
    recipe = read_recipe(
        written(tmp_path, PLAIN),
        ["model.name=cnn", "penalties=[{groups='channels', L1=1}, {groups='weights', L0=1}]"],
    )
    with pytest.raises(LissomError, match=r"conv1\.weight, .* is penalised twice"):
        make_trainer(recipe, fake((1, 8, 8)))


@pytest.mark.parametrize("method", ["proximal", "subgradient"])
def test_channels_lose_their_bias_and_their_normalisation(tmp_path: Path, method: str) -> None:
    changes = ["model.name=cnn", "penalties=[{groups='channels', L1=1e6}]"]
    changes += [f"method={{name='{method}'}}"]
    recipe = read_recipe(written(tmp_path, PLAIN), changes)
    model = make_trainer(recipe, fake((1, 8, 8))).model
    trainer = make_trainer(recipe, fake((1, 8, 8)))
    trainer.fit()
    dead = {name for name, w in trainer.model.named_parameters() if not w.any()}
    assert dead == ({name for name, _ in model.named_parameters()} - {"fc.weight", "fc.bias"}
                    if method == "proximal" else set())  # fmt: skip


def test_a_dead_channel_behind_a_relu_does_not_come_back() -> None:
    """Without momentum: w = b = γ = β = 0, and ReLU′(0) = 0, so that no gradient arrives."""
    changes = ["data.name=digits", "train.epochs=6", "train.evaluate_every=6"]
    recipe = read_recipe("small-cnn-channels-compress-rate", changes)
    trainer = make_trainer(recipe, fake((1, 8, 8)))
    assert trainer.method is not None
    (groups,) = trainer.method.penalties
    alive: list[list[int]] = []
    trainer.optimizer.register_step_post_hook(
        lambda *_: alive.append([int(n) for r in groups.norms() for n in r.nonzero()])
    )
    trainer.fit()
    assert len(alive) == 6 and all(found == alive[0] for found in alive)
    assert len(alive[0]) == 4 + 8 + 16


def test_groups_that_the_model_has_not_are_named(tmp_path: Path) -> None:
    def message(*changes: str) -> str:
        recipe = read_recipe(written(tmp_path, PLAIN), changes)
        with pytest.raises(RecipeError) as caught:
            make_trainer(recipe, fake((1, 8, 8)))
        return str(caught.value)

    found = message("penalties.1={groups='kernels', L1=1}")
    assert found.startswith("penalties.1 for model 'lenet300': no kernels to choose from")
    found = message("penalties.0.only.0=fc7")
    assert found.startswith("penalties.0 for model 'lenet300': 'fc7' matches none of the weights")
    assert "Did you mean" in found and "'fc1'" in found
    found = message("penalties.0={groups='channels', L1=1}")
    assert found.startswith(
        "penalties.0 for model 'lenet300': no channels can be removed from this"
    )
    assert "it has neurons" in found
    found = message("penalties.0={groups='neurons', only=['fc9'], L1=1}")
    assert found.startswith("penalties.0 for model 'lenet300': 'fc9' matches none of the neurons")
    found = message("model.name=cnn", "penalties=[{groups='heads', L1=1}]")
    assert found.startswith("penalties.0 for model 'cnn': no heads can be removed from this model")
    assert "leaves no weights at all" in message("penalties.0={L1=1, without=['fc*']}")


def test_lenet5_takes_mnist_only() -> None:
    recipe = read_recipe("lenet5-kernels-l1")
    assert measure(make_model(recipe, (1, 28, 28), 10)).weights == 431_080
    with pytest.raises(
        RecipeError,
        match=r"'lenet5' does not take examples of 1×8×8, as mnist has: .*'lenet300' .*any",
    ):
        make_model(recipe, (1, 8, 8), 10)


def test_a_wide_residual_network_takes_images_of_any_channels() -> None:
    recipe = read_recipe("digits-demo", ["model={name='wrn28-10',depth=16,widen=1}"])
    model = make_model(recipe, (1, 8, 8), 10)
    assert model.conv.in_channels == 1 and len(model.stage1) == 2
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(RecipeError, match=r"does not take examples of 64, as digits has: "):
        make_model(recipe, (64,), 10)
    with pytest.raises(RecipeError, match=r"depth of 10, 16, 22, 28, …, got 11"):
        read_recipe("louizos-wrn28-10", ["model.widen=1", "model.depth=11"])
    recipe = read_recipe("louizos-wrn28-10", ["model.widen=1", "model.depth=10"])
    with pytest.raises(LissomError, match=r"images of 1 channels are normalised by 1 means"):
        make_model(recipe, (1, 32, 32), 10)


@exhaustive
def test_the_wide_residual_network_of_louizos_at_its_full_size() -> None:
    """Gates on the first convolution of each of the 12 blocks, and nothing else of the paper's."""
    recipe = read_recipe("louizos-wrn28-10")
    n = 50_000
    assert recipe.data.name == "jpeg-cifar10" and not recipe.data.validation
    assert [spec.L0 for spec in recipe.penalties] == [pytest.approx(0.001 / n)]
    trainer = make_trainer(recipe, fake((3, 32, 32), n=256))
    gates, factor = trainer.method, trainer.options.lr_factor
    assert isinstance(gates, Gates) and factor is not None
    assert sum(p.numel() for p in trainer.model.parameters()) == 36_479_194 + 4480
    convs = [
        f"stage{stage}.{block}.conv1.weight" for stage in (1, 2, 3) for block in range(4)
    ]  # fmt: skip
    assert [block.names for block in gates.blocks()] == [(name,) for name in convs]
    assert [len(p) for p in gates.p_nonzero()] == [160] * 4 + [320] * 4 + [640] * 4
    sizes = {name: p.numel() for name, p in trainer.model.named_parameters()}
    for name, block in zip(convs, gates.blocks(), strict=True):
        assert block.weights_each() * block.shape.numel() == sizes[name]
    torch.testing.assert_close(torch.sigmoid(gates.log_alpha).mean().item(), 0.7, atol=1e-3, rtol=0)
    for group, decay in zip(trainer.optimizer.param_groups, (5e-4, 0.0), strict=True):
        assert (group["lr"], group["momentum"], group["nesterov"]) == (0.1, 0.9, True)
        assert group["weight_decay"] == decay
    steps = trainer.steps_per_epoch
    assert steps == 2 and trainer.options.epochs == 200
    rates = [factor(round(steps * epoch)) for epoch in (0, 59.5, 60, 119.5, 120, 159.5, 160, 199.5)]
    assert rates == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.04, 0.008, 0.008])
    assert trainer.options.augment == Augment(pad=4, flip=True)
    assert gates.options.finalize_at is None


def test_milestones_that_a_shorter_run_does_not_reach_do_not_count() -> None:
    changes = ["model.widen=1", "model.depth=10", "train.epochs=1", "train.milestones=[60, 120]"]
    trainer = make_trainer(read_recipe("louizos-wrn28-10", changes), fake((3, 32, 32)))
    assert trainer.options.lr_factor is not None and trainer.options.lr_factor(59) == 1


def test_models_fit_their_data_and_follow_the_seed() -> None:
    recipe = read_recipe("digits-demo", ["model.input_dropout=0.25"])
    model = make_model(recipe, (1, 8, 8), 7, seed=3)
    assert (model.fc1.in_features, model.fc3.out_features) == (64, 7)
    assert model.input_dropout.p == 0.25
    again, other = (make_model(recipe, (64,), 7, seed=seed) for seed in (3, 4))
    assert torch.equal(model.fc1.weight, again.fc1.weight)
    assert not torch.equal(model.fc1.weight, other.fc1.weight)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"name": "SGD", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4},
         {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}),
        ({"name": "Adagrad", "initial_accumulator_value": 1e-4},
         {"initial_accumulator_value": 1e-4}),
        ({"name": "RMSprop", "alpha": 0.9, "eps": 1e-7}, {"alpha": 0.9, "eps": 1e-7}),
        ({"name": "Adam", "beta2": 0.99}, {"betas": (0.9, 0.99)}),
        ({"name": "AdamW", "beta1": 0.8}, {"betas": (0.8, 0.999), "weight_decay": 0.01}),
    ],
)  # fmt: skip
def test_optimizers_get_their_arguments(table: dict[str, Any], expected: dict[str, Any]) -> None:
    changes = [f"optimizer.{key}={json.dumps(value)}" for key, value in table.items()]
    recipe = read_recipe("henrikson-dense", ["optimizer={lr=0.5}", *changes])
    model = make_model(recipe, (4,), 2)
    optimizer = make_optimizer(recipe.optimizer, model)
    assert type(optimizer) is getattr(torch.optim, table["name"])
    (group,) = optimizer.param_groups
    assert {"lr": 0.5, **expected}.items() <= group.items()
    assert len(group["params"]) == len(list(model.parameters()))


def test_epochs_become_steps() -> None:
    train = "epochs=8, cosine_from=4, average_from=6, batch_size=6, average_decay=0.99"
    changes = [f"train={{{train}}}", "method.start=2", "method.finalize_at=5", "method.every=1"]
    trainer = make_trainer(read_recipe("digits-demo", changes), fake((1, 8, 8)))
    steps = trainer.steps_per_epoch
    assert steps == 4  # 20 examples by 6
    method, factor = trainer.method, trainer.options.lr_factor
    assert isinstance(method, Proximal) and factor is not None
    options = method.options
    assert (options.every, options.start, options.finalize_at) == (steps, 2 * steps, 5 * steps)
    assert options.metric == "adaptive"
    assert [factor(n) for n in (0, 4 * steps, 6 * steps, 8 * steps)] == pytest.approx(
        [1, 1, 0.5, 0], abs=1e-12
    )
    assert (trainer.options.average_from, trainer.options.average_decay) == (6, 0.99)


def test_validation_data_are_held_out_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lissom.data._LOADERS, "digits", lambda _folder: fake((1, 8, 8)))
    recipe = read_recipe("digits-demo", ["data.validation=10"])
    one, again, other = (make_data(recipe, seed=seed) for seed in (1, 1, 2))
    assert one.valid_x is not None and again.valid_x is not None and other.valid_x is not None
    assert len(one.valid_x) == 10 and len(one.train_x) == 10
    assert torch.equal(one.valid_x, again.valid_x)
    assert not torch.equal(one.valid_x, other.valid_x)


def test_specs_cannot_be_changed() -> None:
    recipe = read_recipe("digits-demo")
    with pytest.raises(ValueError, match="frozen"):
        recipe.title = "another"
