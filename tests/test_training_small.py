"""A `Trainer` that goes on with what lives once zeros are final."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from products import exhaustive, few
from torch import Tensor, nn
from torch.optim import Adam
from training_cases import (
    EXAMPLES,
    STEPS,
    Killed,
    blobs,
    dense,
    kill,
    same,
    state,
    timeless,
    trainer,
)

import lissom
from lissom import TopK, Trainer, proximal
from lissom.errors import RunError
from lissom.storage import save_state
from lissom.training import small
from lissom.training.checkpoint import KIND, load_checkpoint


class Sizes:
    """A callback that notes how many weights the model has at each step."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_step_end(self, trainer: Trainer, loss: Tensor) -> None:
        self.seen.append(sum(p.numel() for p in trainer.model.parameters()))


def run(
    out: Path | None = None, *, units: bool = True, net: nn.Module | None = None, **options: Any
) -> Trainer:
    """A training whose zeros are final after two of five epochs."""
    net = dense() if net is None else net
    optimizer = Adam(net.parameters(), lr=0.01)
    x = blobs().train_x[:2]
    groups = lissom.neurons(net, x) if units else lissom.weights(net)
    penalties = {groups: TopK(fraction=0.4)}
    method = proximal(optimizer, penalties, finalize_at=2 * STEPS)
    given = {"epochs": 5, "average_from": 3, "average_decay": 0.9, "shrink": True, **options}
    return trainer(
        net, blobs(noise=1.5, valid=30), optimizer=optimizer, method=method, out=out, **given
    )


@pytest.mark.parametrize("average_from", few([None, 3], [3]))
def test_the_result_is_that_of_training_at_full_size(average_from: int | None) -> None:
    sizes = Sizes()
    large, little = (
        run(shrink=shrink, average_from=average_from, callbacks=[sizes] if shrink else [])
        for shrink in (False, True)
    )
    expected, found = large.fit(), little.fit()
    assert sizes.seen[: 2 * STEPS] == [99] * 2 * STEPS and max(sizes.seen[2 * STEPS :]) < 60
    for part in ("train", "valid", "test"):
        there, here = getattr(expected, part), getattr(found, part)
        assert here.error == there.error
        assert here.loss == pytest.approx(there.loss, rel=1e-4)
    for name, count in expected.nonzeros.items():
        assert found.nonzeros[name].weights == count.weights
        assert found.nonzeros[name].nonzeros <= count.nonzeros
    for (name, a), b in zip(large.model.named_parameters(), little.model.parameters(), strict=True):
        assert a.shape == b.shape, name
        torch.testing.assert_close(b, torch.where(b == 0, 0, a), rtol=1e-4, atol=1e-5)
    small_net = lissom.shrink(little.model, blobs().train_x[:2])
    assert sum(p.numel() for p in small_net.parameters()) == sizes.seen[-1]


@pytest.mark.parametrize("moment", few(["progress", "evaluation"], ["evaluation"]))
def test_a_killed_run_goes_on_small(tmp_path: Path, moment: str) -> None:
    whole = run(tmp_path / "whole", units=False, patience=4, patience_from=2)
    expected = whole.fit()
    for epoch in (1, 2, 3, 4):
        out, sizes = tmp_path / str(epoch), Sizes()
        killed = run(out, units=False, patience=4, patience_from=2, report=kill(moment, epoch))
        with pytest.raises(Killed):
            killed.fit()
        assert sum(p.numel() for p in killed.model.parameters()) == 99  # nobody is left with less
        resumed = run(out, units=False, patience=4, patience_from=2, callbacks=[sizes])
        resumed.resume()
        assert timeless([resumed.fit()]) == timeless([expected])
        assert sizes.seen[-1] < 99
        assert same(state(resumed.model), state(whole.model))
        assert same(resumed.optimizer.state_dict(), whole.optimizer.state_dict())


def test_a_checkpoint_is_at_full_size_and_those_of_before_load(tmp_path: Path) -> None:
    made = run(tmp_path)
    expected = made.fit()
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert kept["small"]["keep"] and kept["model"]["0.weight"].shape == (12, 4)
    assert kept["average"]["module.0.weight"].shape == (12, 4)
    del kept["small"], kept["format"]
    save_state(kept, tmp_path / "checkpoint.pt", KIND)
    old = run(tmp_path)
    old.resume()
    assert timeless([old.fit()]) == timeless([expected])


@exhaustive
def test_what_was_cut_of_another_model_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    run(tmp_path).fit()
    kept = load_checkpoint(tmp_path / "checkpoint.pt")
    kept["small"]["keep"]["0.weight"][0] = torch.tensor([0, 40])
    save_state(kept, tmp_path / "checkpoint.pt", KIND)
    again = run(tmp_path)
    before = state(again.model)
    with pytest.raises(RunError, match="what was cut is of another model"):
        again.resume()
    assert same(before, state(again.model)) and again.epoch == 0


def test_by_itself_it_is_small_only_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    def fitted() -> list[int]:
        sizes = Sizes()
        run(shrink=None, callbacks=[sizes]).fit()
        return sizes.seen

    assert set(fitted()) == {99}  # tracing would take longer than the training
    monkeypatch.setattr(small, "WORTH", 3 * 84 * EXAMPLES * 3)
    assert min(fitted()) < 60
    monkeypatch.setattr(small, "WORTH", 3 * 84 * EXAMPLES * 3 + 1)
    assert set(fitted()) == {99}
    monkeypatch.setattr(small, "WORTH", 0)
    monkeypatch.setattr(small, "MUCH", 0.1)
    assert set(fitted()) == {99}


class Unreadable(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if float(x.sum()) > 0 else x.clone())


def test_a_model_that_cannot_be_traced_trains_on_and_that_is_said_once() -> None:
    sizes = Sizes()
    made = run(net=Unreadable(*dense()), units=False, callbacks=[sizes])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made.fit()
    told = [str(one.message) for one in caught if "full size" in str(one.message)]
    assert len(told) == 1 and "torch.export" in told[0]
    assert set(sizes.seen) == {99}
