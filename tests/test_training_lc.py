"""Learning–compression in the training loop, from recipes, on the command line, through kills."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from products import exhaustive, sampled
from safetensors.torch import load_file
from torch import nn
from torch.optim import Adam
from training_cases import (
    BATCH,
    STEPS,
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
from lissom import TopK, Trainer, weights
from lissom.cli import app
from lissom.compressions import Additive, Codebook, LowRank, load_compressed
from lissom.errors import MethodError, RecipeError, RunError
from lissom.methods.lc import LC
from lissom.models import henrikson
from lissom.recipes import make_data, make_trainer, read_recipe

LEFT = 11  # of 84 weights


def lc_trainer(
    out: Path | None = None, report: Any = None, *, method: Any = None, **options: Any
) -> Trainer:
    """L steps after epoch 1 of 2, 1 and 1 epochs, and three of fine-tuning."""
    model = dense(dropout=0.2)
    opt = Adam(model.parameters(), lr=0.01)
    given = {"start": STEPS, "every": [2 * STEPS, 3 * STEPS, 4 * STEPS], **(method or {})}
    given = {"mu": [0.1, 0.15, 0.225], **given}
    kind = given.pop("penalty", TopK(LEFT))
    made = lissom.lc(opt, {weights(model): kind}, **given)
    data = blobs(valid=16 if "patience" in options else 0)
    told = {"epochs": 8, "batch_size": BATCH, **options}
    return Trainer(model, opt, data, method=made, out=out, report=report, **told)


def left(model: nn.Module) -> int:
    return sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim > 1)


def test_events_show_the_compressed_network_and_fine_tuning_keeps_its_zeros(
    tmp_path: Path,
) -> None:
    within = {"start": STEPS + 2, "every": [6, 10, 14]}  # from the middle of epoch 2
    made = lc_trainer(tmp_path, method=within)
    last = made.fit()
    events = events_in(tmp_path)
    counts = [
        e["nonzeros"]["0.weight"]["nonzeros"] + e["nonzeros"]["3.weight"]["nonzeros"]
        for e in events
    ]
    assert counts == [84] + [LEFT] * 7  # dense before it starts, compressed after and within
    told = [e.get("method", {}) for e in events]
    assert [t.get("name") for t in told] == ["lc"] * 4 + [None] * 4
    summaries = [t["summary"][:13] for t in told[1:4]]
    assert summaries == ["C step 0 of 3", "C step 1 of 3", "C step 2 of 3"]
    assert told[2]["curves"]["μ"] == {"μ": 0.15}
    assert left(made.model) == LEFT and last.epoch == 8
    assert made.outcome is None  # fine-tuning has changed what lives
    alone = lc_trainer(epochs=5, method=within)
    alone.fit()
    assert alone.outcome is not None and alone.outcome.nonzero == LEFT
    kept = [p != 0 for p in alone.model.parameters() if p.ndim > 1]
    tuned = [p for p in made.model.parameters() if p.ndim > 1]
    assert all(torch.equal(t != 0, k) for t, k in zip(tuned, kept, strict=True))
    assert any(not torch.equal(t, p) for t, p in zip(tuned, alone.model.parameters(), strict=False))


def test_where_l_steps_begin_the_network_is_shown_directly_compressed(tmp_path: Path) -> None:
    made = lc_trainer(tmp_path, method={"start": 2 * STEPS, "every": [STEPS, 3 * STEPS], "mu": 1})
    made.fit()
    counts = [
        sum(e["nonzeros"][f"{n}.weight"]["nonzeros"] for n in (0, 3)) for e in events_in(tmp_path)
    ]
    assert counts == [84] + [LEFT] * 7


def test_a_form_that_cannot_last_ends_the_training_when_it_is_found_early(tmp_path: Path) -> None:
    def make() -> Trainer:
        early = {"penalty": Codebook(2), "tolerance": 0.9}
        return lc_trainer(tmp_path, method=early, epochs=5, evaluate_every=2)

    trainer = make()
    event = trainer.fit()
    assert event.epoch == 3 and [e["epoch"] for e in events_in(tmp_path)] == [2, 3]
    values = torch.cat([p.flatten() for p in trainer.model.parameters() if p.ndim > 1]).unique()
    assert len(values) == 2 and trainer.outcome is not None
    again = make()
    again.resume()
    assert timeless([again.fit()]) == timeless([event])
    assert same(again.model.state_dict(), trainer.model.state_dict())
    assert str(again.outcome) == str(trainer.outcome)


def test_zeros_last_when_they_are_found_early() -> None:
    trainer = lc_trainer(method={"tolerance": 0.9})
    assert trainer.fit().epoch == 8 and left(trainer.model) == LEFT
    assert trainer.method is not None and trainer.method.finalized_at == 3 * STEPS


def test_finalize_at_may_fall_into_an_l_step() -> None:
    trainer = lc_trainer(method={"finalize_at": 3 * STEPS + 1})
    assert trainer.fit().epoch == 8 and left(trainer.model) == LEFT
    assert trainer.method is not None and trainer.method.finalized_at == 3 * STEPS + 1


def test_what_is_evaluated_is_what_is_delivered() -> None:
    made = lc_trainer(epochs=5)
    event = made.fit()
    logits = made.model.eval()(made.data.test_x)
    assert event.test.error == pytest.approx(
        float((logits.argmax(1) != made.data.test_y).float().mean())
    )


@sampled(2)
@pytest.mark.parametrize("mu", [None, [0.1, 0.15, 0.225]])
@pytest.mark.parametrize("moment", ["progress", "evaluation"])
def test_a_resumed_run_ends_as_one_that_was_not_killed(
    tmp_path: Path, mu: Any, moment: str
) -> None:
    given = {"mu": mu, "restart": mu is not None}
    whole = lc_trainer(tmp_path / "whole", method=given)
    expected = whole.fit()
    for epoch in (1, 2, 4, 6):  # before, within an L step, between two, while fine-tuning
        out = tmp_path / str(epoch)
        with pytest.raises(Killed):
            lc_trainer(out, kill(moment, epoch), method=given).fit()
        resumed = lc_trainer(out, method=given)
        resumed.resume()
        assert timeless([resumed.fit()]) == timeless([expected])
        assert same(state(resumed.model), state(whole.model))
        assert timeless(events_in(out)) == timeless(events_in(tmp_path / "whole"))


def test_restart_forgets_the_momentum_at_each_l_step() -> None:
    plain, anew = lc_trainer(), lc_trainer(method={"restart": True})
    plain.fit()
    anew.fit()
    assert not same(state(plain.model), state(anew.model))


def test_an_average_may_start_where_it_ends() -> None:
    made = lc_trainer(average_from=5)
    made.fit()
    assert left(made.model) == LEFT


@pytest.mark.parametrize(
    "method, options, error, message",
    [
        (
            {"every": [8, 12, 32]},
            {},
            MethodError,
            "'lc' ends after epoch 9, and training ends after epochs=8",
        ),
        ({"start": 32}, {}, MethodError, "starts after epoch 8"),
        ({}, {"average_from": 4}, RunError, "average_from=5 or later"),
        ({}, {"patience": 2, "patience_from": 1}, RunError, "patience_from=5 or later"),
        ({"penalty": Codebook(2)}, {}, RunError, "codebooks, would not.*epochs=5"),
    ],
)
def test_bad_options_are_clear_errors(
    method: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        lc_trainer(method=method, **options)


def test_an_lc_of_another_model_or_optimizer_is_refused() -> None:
    made = lc_trainer()
    model = dense()
    with pytest.raises(RunError, match="follows another optimizer"):
        Trainer(model, Adam(model.parameters()), blobs(), method=made.method, epochs=8)
    both = Adam([*model.parameters(), *made.model.parameters()])
    method = lissom.lc(both, {weights(made.model): TopK(3)}, every=4, c_steps=2)
    with pytest.raises(RunError, match=r"0\.weight.*no parameter of this Sequential"):
        Trainer(model, both, blobs(), method=method, epochs=8)
    with pytest.raises(RunError, match="would not keep its state"):
        Trainer(model, both, blobs(), epochs=8)


BASE = """\
title = "lc"

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
milestones = { first = 3, every = 1 } # with each L step
gamma = 0.5

[method]
name = "lc"
start = 1
first = 2
every = 1
c_steps = 4
mu = 1e-2
mu_factor = 2.0
restart = true

[[penalties]]
only = ["fc1"]
TopK = { fraction = [{ start = 1.0, end = 0.1, epochs = 4 }] }

[[penalties]]
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
    epoch, method, factor = made.steps_per_epoch, made.method, made.options.lr_factor
    assert isinstance(method, LC) and factor is not None
    assert [method.options.start + end for end in method.options.ends] == [
        n * epoch for n in (3, 4, 5, 6)
    ]
    assert method.options.restart and method.mu == 1e-2
    assert method.options.mus == (0.01, 0.02, 0.04, 0.08)
    assert [factor(n * epoch) for n in (0, 2, 3, 4, 6)] == [1, 1, 0.5, 0.25, 0.0625]
    first, second = method.penalties.values()
    assert first.at(4 * epoch) == TopK(fraction=0.1) and str(second) == "TopK(30) + L2(0.001)"
    made.fit()
    counts = [int(p.count_nonzero()) for p in made.model.parameters() if p.ndim > 1]
    assert counts[0] == round(0.1 * 64 * 300) and counts[1] + counts[2] == 30


def test_a_run_keeps_compressed_weights(tmp_path: Path, written: Path) -> None:
    text = BASE.replace("epochs = 7", "epochs = 6")
    text = text[: text.index("[[penalties]]")] + (
        '[[penalties]]\nonly = ["fc1"]\nTopK = { count = 100 }\nCodebook = { k = 2 }\n\n'
        '[[penalties]]\nonly = ["fc2"]\nLowRank = { rank = 5 }\n'
    )
    written.write_text(text)
    recipe = read_recipe(str(written))
    kinds = [spec.penalty(1) for spec in recipe.penalties]
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
        (
            "c_steps = 4",
            "c_steps = 40",
            "line 2\\d.*'lc' ends after epoch 42, and training ends after epochs=7",
        ),
        ("start = 1\n", "start = 7\n", "line 24.*starts after epoch 7"),
        ("TopK = { count = 30 }\nL2 = 1e-3", "Codebook = { k = 2 }", "line 17.*with epochs=6"),
        ("batch_size = 128", "batch_size = 128\naverage_from = 3", "average_from=6 or later"),
        ("batch_size = 128", "batch_size = 128\ncosine_from = 0", "remove one of the two"),
        ("c_steps = 4", "c_stepz = 4", "Did you mean 'c_steps'"),
        ("mu = 1e-2\nmu_factor = 2.0\n", "", "L2.*is weighed against μ"),
        ("mu = 1e-2", "mu = [1e-2, 2e-2]", "2 numbers, and there are 4 C steps"),
        ("every = 1\nc_", "every = 0\nc_", "every.*got 0"),
        ('activation = "tanh"', 'activation = "sine"', "tanh"),
        ('name = "lenet300"', 'name = "henrikson"', "activation"),
    ],
)
def test_mistakes_in_a_recipe_are_named(written: Path, old: str, new: str, message: str) -> None:
    assert old in BASE
    written.write_text(BASE.replace(old, new))
    with pytest.raises(RecipeError, match=message):
        recipe = read_recipe(str(written))
        make_trainer(recipe, make_data(recipe))


def test_a_compression_under_another_method_is_named(written: Path) -> None:
    own = BASE[BASE.index('name = "lc"') : BASE.index("\n[[penalties]]")]
    text = BASE.replace(own, 'name = "proximal"\n')
    written.write_text(text.replace("L2 = 1e-3", "Codebook = { k = 2 }"))
    with pytest.raises(RecipeError, match=r"penalties.*Codebook\(2\).*Methods that take it: 'lc'"):
        read_recipe(str(written))


@pytest.mark.parametrize(
    "name",
    [
        "digits-lc",
        "lenet300-lc",
        "lenet300-lc-published",
        "lenet300-lc-short",
        "lenet300-lc-toolkit",
    ],
)
def test_the_bundled_recipes_can_be_made(name: str) -> None:
    recipe = read_recipe(name, ["data.name='digits'"])
    made = make_trainer(recipe, make_data(recipe))
    assert isinstance(made.method, LC)
    assert made.method.options.end <= made.options.epochs * made.steps_per_epoch


@exhaustive
def test_digits_lose_nine_weights_of_ten_without_a_mu(tmp_path: Path) -> None:
    recipe = read_recipe(
        "digits-lc", ["train.epochs=70", "method.c_steps=20", "train.cosine_from=60"]
    )
    made = make_trainer(recipe, make_data(recipe))
    event = made.fit()
    assert left(made.model) == round(
        0.1 * sum(p.numel() for p in henrikson(64).parameters() if p.ndim > 1)
    )
    assert event.test.error < 0.06
