"""Learning–compression in the training loop, from recipes, on the command line, through kills."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim import Adam
from training_cases import (
    BATCH,
    Killed,
    blobs,
    dense,
    events_in,
    kill,
    same,
    state,
    timeless,
)
from typer.testing import CliRunner

import lissom
from lissom import TopK, Trainer, geometric, weights
from lissom.cli import app
from lissom.errors import RecipeError, RunError
from lissom.learning_compression import Additive, Codebook, LowRank, load_compressed
from lissom.models import henrikson
from lissom.recipes import make_data, make_trainer, read_recipe

LEFT = 11  # of 84 weights


def lc_trainer(out: Path | None = None, report: Any = None, **options: Any) -> Trainer:
    model = dense(dropout=0.2)
    opt = Adam(model.parameters(), lr=0.01)
    mu = options.pop("mu", geometric(0.1, 1.5, 3))
    kind = options.pop("compression", TopK(LEFT))
    tolerance = options.pop("tolerance", None)
    prices = {weights(model): kind}
    run = lissom.lc(model, prices, mu=mu, steps=3, optimizer=opt, tolerance=tolerance)
    given = {"epochs": 8, "l_steps": (1, 3, 4, 5), **options}
    return Trainer(model, opt, blobs(), lc=run, out=out, report=report, batch_size=BATCH, **given)


def left(model: nn.Module) -> int:
    return sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim > 1)


def test_events_show_the_compressed_network_and_healing_keeps_its_zeros(tmp_path: Path) -> None:
    made = lc_trainer(tmp_path)
    last = made.fit()
    events = events_in(tmp_path)
    counts = [
        e["nonzeros"]["0.weight"]["nonzeros"] + e["nonzeros"]["3.weight"]["nonzeros"]
        for e in events
    ]
    assert counts == [84] + [LEFT] * 7  # dense before it starts, compressed after and within
    assert [e["lc"]["step"] for e in events if e.get("lc")] == [0, 1, 2, 3]
    assert left(made.model) == LEFT and last.epoch == 8
    assert made.compressed is None  # healing has changed what lives
    alone = lc_trainer(epochs=5)
    alone.fit()
    assert alone.compressed is not None and alone.compressed.nonzero == LEFT
    kept = [p != 0 for p in alone.model.parameters() if p.ndim > 1]
    healed = [p for p in made.model.parameters() if p.ndim > 1]
    assert all(torch.equal(h != 0, k) for h, k in zip(healed, kept, strict=True))
    assert any(
        not torch.equal(h, p) for h, p in zip(healed, alone.model.parameters(), strict=False)
    )


def test_a_form_that_cannot_last_ends_the_training_when_it_is_found_early(tmp_path: Path) -> None:
    def make() -> Trainer:
        return lc_trainer(
            tmp_path, compression=Codebook(2), tolerance=0.9, epochs=5, evaluate_every=2
        )

    trainer = make()
    event = trainer.fit()
    assert event.epoch == 3 and [e["epoch"] for e in events_in(tmp_path)] == [2, 3]
    values = torch.cat([p.flatten() for p in trainer.model.parameters() if p.ndim > 1]).unique()
    assert len(values) == 2 and trainer.compressed is not None
    again = make()
    again.resume()
    assert timeless([again.fit()]) == timeless([event])
    assert same(again.model.state_dict(), trainer.model.state_dict())


def test_zeros_last_when_they_are_found_early() -> None:
    trainer = lc_trainer(tolerance=0.9)
    assert trainer.fit().epoch == 8 and left(trainer.model) == LEFT


def test_what_is_evaluated_is_what_is_delivered() -> None:
    made = lc_trainer(epochs=5)
    event = made.fit()
    logits = made.model.eval()(made.data.test_x)
    assert event.test.error == pytest.approx(
        float((logits.argmax(1) != made.data.test_y).float().mean())
    )


@pytest.mark.parametrize("mu", [None, geometric(0.1, 1.5, 3)])
@pytest.mark.parametrize("moment", ["progress", "evaluation"])
def test_a_resumed_run_ends_as_one_that_was_not_killed(
    tmp_path: Path, mu: Any, moment: str
) -> None:
    whole = lc_trainer(tmp_path / "whole", mu=mu)
    expected = whole.fit()
    for epoch in (1, 2, 4, 6):  # before, within an L step, between two, while healing
        out = tmp_path / str(epoch)
        with pytest.raises(Killed):
            lc_trainer(out, kill(moment, epoch), mu=mu).fit()
        resumed = lc_trainer(out, mu=mu)
        resumed.resume()
        assert timeless([resumed.fit()]) == timeless([expected])
        assert same(state(resumed.model), state(whole.model))


def test_restart_forgets_the_momentum_at_each_l_step() -> None:
    plain, anew = lc_trainer(), lc_trainer(restart=True)
    plain.fit()
    anew.fit()
    assert not same(state(plain.model), state(anew.model))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"l_steps": None}, "go together; got l_steps=None"),
        ({"l_steps": (1, 2, 3)}, "3 steps, so l_steps are 4 epochs.*got 3"),
        ({"l_steps": (1, 3, 3, 4)}, "ascending order.*got \\(1, 3, 3, 4\\)"),
        ({"l_steps": (1, 3, 4, 9)}, "end after epoch 9, and epochs=8"),
        ({"average_from": 4}, "average_from=5 or later"),
        ({"patience": 2, "patience_from": 1}, "patience_from=5 or later"),
        ({"compression": Codebook(2)}, "Codebook\\(2\\).*epochs=5"),
    ],
)
def test_bad_options_are_clear_errors(options: Any, message: str) -> None:
    with pytest.raises(RunError, match=message):
        lc_trainer(**options)


def test_an_lc_of_another_model_is_refused() -> None:
    made = lc_trainer()
    model = dense()
    with pytest.raises(RunError, match="another Sequential"):
        Trainer(
            model, Adam(model.parameters()), blobs(), lc=made.lc, epochs=8, l_steps=(1, 3, 4, 5)
        )


BASE = """\
title = "lc"
method = "lc"

[data]
name = "digits"
center = true

[model]
name = "lenet300"
activation = "tanh"

[optimizer]
name = "SGD"
lr = 0.05
momentum = 0.9

[train]
epochs = 7
batch_size = 128

[lc]
start = 1
first = 2
each = 1
steps = 4
mu = { start = 1e-2, factor = 2.0 }
rate_decay = 0.5
restart = true

[[prices]]
only = ["fc1"]
TopK = { fraction = [{ start = 1.0, end = 0.1, epochs = 4 }] }

[[prices]]
only = ["fc2", "fc3"]
TopK = { count = 30 }
L2 = 1e-3
"""


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "lc.toml"
    path.write_text(BASE)
    return path


def test_a_recipe_makes_what_it_says(written: Path) -> None:
    recipe = read_recipe(str(written))
    made = make_trainer(recipe, make_data(recipe))
    assert made.data.train_x.mean(0).abs().max() < 1e-5
    assert isinstance(made.model.act1, nn.Tanh)
    assert made.options.l_steps == (1, 3, 4, 5, 6) and made.options.restart
    run, factor = made.lc, made.options.lr_factor
    assert run is not None and factor is not None and run.steps == 4 and run.mu == 1e-2
    epoch = made.steps_per_epoch
    assert [factor(n * epoch) for n in (0, 2, 3, 4, 6)] == [1, 1, 0.5, 0.25, 0.0625]
    first, second = run.given.values()
    assert first.at(4) == TopK(fraction=0.1) and str(second) == "TopK(30) + L2(0.001)"
    made.fit()
    counts = [int(p.count_nonzero()) for p in made.model.parameters() if p.ndim > 1]
    assert counts[0] == round(0.1 * 64 * 300) and counts[1] + counts[2] == 30


def test_a_run_keeps_compressed_weights(tmp_path: Path, written: Path) -> None:
    text = BASE.replace("epochs = 7", "epochs = 6")
    text = text[: text.index("[[prices]]")] + (
        '[[prices]]\nonly = ["fc1"]\nTopK = { count = 100 }\nCodebook = { k = 2 }\n\n'
        '[[prices]]\nonly = ["fc2"]\nLowRank = { rank = 5 }\n'
    )
    written.write_text(text)
    recipe = read_recipe(str(written))
    kinds = [price.compression(1) for price in recipe.prices]
    assert kinds == [Additive((TopK(100), Codebook(2))), LowRank(5)]
    out = tmp_path / "run"
    done = CliRunner().invoke(app, ["train", str(written), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "rank 5 of 100" in done.output
    result = json.loads((out / "result.json").read_text())
    assert result["compressed"]["ranks"] == {"fc2.weight": 5}
    model = lissom.models.lenet300(inputs=64, activation=nn.Tanh)
    load_compressed(out / "compressed.safetensors", model)
    saved = load_file(out / "model.safetensors")
    assert all(torch.equal(v, saved[k]) for k, v in model.state_dict().items())
    assert (out / "compressed.safetensors").stat().st_size < 0.35 * (
        out / "model.safetensors"
    ).stat().st_size


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("steps = 4", "steps = 40", "line 2\\d.*40 L steps end after epoch 42"),
        ("TopK = { count = 30 }\nL2 = 1e-3", "Codebook = { k = 2 }", "train.epochs = 6"),
        ("k = 2", "k = 2", ""),
        ('method = "lc"', 'method = "proximal"', "needs method = 'lc'"),
        ("batch_size = 128", "batch_size = 128\naverage_from = 3", "set it to that or more, not 3"),
        ("batch_size = 128", "batch_size = 128\ncosine_from = 0", "leave out one"),
        ("steps = 4", "stepz = 4", "Did you mean 'steps'"),
        ("mu = { start = 1e-2, factor = 2.0 }\n", "", "is a price"),
        ("each = 1", "each = 0", "each"),
        ('activation = "tanh"', 'activation = "sine"', "tanh"),
        ('name = "lenet300"', 'name = "henrikson"', "activation"),
    ],
)
def test_mistakes_in_a_recipe_are_named(written: Path, old: str, new: str, message: str) -> None:
    if old == new:
        assert read_recipe(str(written)).method == "lc"
        return
    written.write_text(BASE.replace(old, new))
    with pytest.raises(RecipeError, match=message):
        recipe = read_recipe(str(written))
        make_trainer(recipe, make_data(recipe))


@pytest.mark.parametrize("name", ["digits-lc", "lenet300-lc", "lenet300-lc-published"])
def test_the_bundled_recipes_can_be_made(name: str) -> None:
    recipe = read_recipe(name, ["data.name='digits'"])
    made = make_trainer(recipe, make_data(recipe))
    assert made.lc is not None and made.options.l_steps is not None
    assert made.options.l_steps[-1] <= made.options.epochs


def test_digits_lose_nine_weights_of_ten_without_a_mu(tmp_path: Path) -> None:
    recipe = read_recipe("digits-lc", ["train.epochs=70", "lc.steps=20", "train.cosine_from=60"])
    made = make_trainer(recipe, make_data(recipe))
    event = made.fit()
    assert left(made.model) == round(
        0.1 * sum(p.numel() for p in henrikson(64).parameters() if p.ndim > 1)
    )
    assert event.test.error < 0.06
