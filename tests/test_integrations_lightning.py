"""lissom in Lightning's Trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from integration_cases import (
    ALL,
    EPOCHS,
    MIDDLE,
    PER_EPOCH,
    STEPS,
    Net,
    adam,
    equal,
    loader,
    own_loop,
    require_same_zeros,
    zeros,
)
from libraries import library
from torch import nn

import lissom
from lissom import L0, L1, TopK
from lissom.errors import MethodError

lightning = library("lightning.pytorch")
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint  # noqa: E402

from lissom.integrations.lightning import LissomCallback  # noqa: E402

pytestmark = [pytest.mark.exhaustive, pytest.mark.filterwarnings("ignore")]


class Lit(lightning.LightningModule):
    """As a user has it; `configure` is called between optimizer and scheduler."""

    def __init__(self, configure: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.net, self.configure, self.seen = Net(), configure, []

    def training_step(self, batch: Any, i: int) -> torch.Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, i: int) -> None:
        if i == 0 and not self.trainer.sanity_checking:
            self.seen.append(zeros(self.net))
            self.log("zeros", float(self.seen[-1]))

    def configure_optimizers(self) -> Any:
        opt = adam(self)
        if self.configure is None:
            return opt
        self.configure(opt, self.net)
        return [opt], [torch.optim.lr_scheduler.StepLR(opt, 100)]


def trainer(tmp: Path, *callbacks: Any, **options: Any) -> Any:
    given = {"max_epochs": EPOCHS, "enable_checkpointing": False, **options}
    return lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp, callbacks=list(callbacks), **given,
    )  # fmt: skip


def of_net(make: Callable[..., Any]) -> LissomCallback:
    return LissomCallback(lambda opt, module: make(opt, module.net))


@pytest.mark.parametrize("name", ALL)
def test_it_ends_with_the_zeros_of_ones_own_loop(name: str, tmp_path: Path) -> None:
    lit = Lit()
    trainer(tmp_path, of_net(ALL[name])).fit(lit, loader())
    require_same_zeros(lit.net, own_loop(ALL[name]))


@pytest.mark.parametrize("options", [{"gradient_clip_val": 0.05}, {"accumulate_grad_batches": 2}])
def test_penalties_are_clipped_and_accumulated_as_if_in_the_loss(
    options: dict[str, Any], tmp_path: Path
) -> None:
    lit = Lit()
    trainer(tmp_path, of_net(ALL["gates"]), **options).fit(lit, loader())
    clip, accumulate = options.get("gradient_clip_val"), options.get("accumulate_grad_batches", 1)
    require_same_zeros(lit.net, own_loop(ALL["gates"], clip=clip, accumulate=accumulate))


@pytest.mark.parametrize("name", ALL)
def test_a_resumed_training_has_the_same_bits(name: str, tmp_path: Path) -> None:
    whole = Lit()
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=MIDDLE, save_top_k=-1)
    trainer(tmp_path, of_net(ALL[name]), keep, enable_checkpointing=True).fit(whole, loader())
    path = tmp_path / f"epoch={MIDDLE // PER_EPOCH - 1}-step={MIDDLE}.ckpt"
    again = Lit()
    trainer(tmp_path, of_net(ALL[name])).fit(again, loader(), ckpt_path=path)
    assert again.strict_loading
    assert equal(again.net, whole.net)


@pytest.mark.parametrize("name", ["gates", "ended gates", "proximal"])
def test_methods_made_before_a_scheduler_are_found_and_resumed(name: str, tmp_path: Path) -> None:
    whole = Lit(ALL[name])
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=MIDDLE, save_top_k=-1)
    trainer(tmp_path, LissomCallback(), keep, enable_checkpointing=True).fit(whole, loader())
    require_same_zeros(whole.net, own_loop(ALL[name]))
    path = tmp_path / f"epoch={MIDDLE // PER_EPOCH - 1}-step={MIDDLE}.ckpt"
    again = Lit(ALL[name])
    trainer(tmp_path, LissomCallback()).fit(again, loader(), ckpt_path=path)
    assert equal(again.net, whole.net)


@pytest.mark.parametrize("name", ["proximal", "gates"])
def test_what_is_validated_and_kept_is_what_would_be_delivered(name: str, tmp_path: Path) -> None:
    lit, keep = Lit(), ModelCheckpoint(tmp_path, monitor="zeros", mode="min")
    made = trainer(tmp_path, of_net(ALL[name]), keep, enable_checkpointing=True)
    made.fit(lit, loader(), loader())
    assert len(lit.seen) == EPOCHS and lit.seen[-1] == zeros(lit.net) > 0
    state = torch.load(keep.best_model_path, weights_only=True)["state_dict"]
    best = Lit()
    best.load_state_dict(state)  # strictly: nothing of the method is in it
    assert zeros(best.net) == min(lit.seen)
    made.validate(lit, loader(), ckpt_path="best")
    assert lit.seen[-1] == min(lit.seen) and equal(lit.net, best.net)


def test_a_training_may_start_from_a_dense_checkpoint(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, filename="dense")
    trainer(tmp_path, keep, enable_checkpointing=True, max_epochs=1).fit(Lit(), loader())
    lit = Lit()
    made = trainer(tmp_path, of_net(ALL["proximal"]))
    made.fit(lit, loader(), ckpt_path=tmp_path / "dense.ckpt")
    assert zeros(lit.net) > 0
    other = Lit()
    other.more = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match=r"Missing key.*more"):
        trainer(tmp_path, of_net(ALL["proximal"])).fit(
            other, loader(), ckpt_path=tmp_path / "dense.ckpt"
        )
    assert other.strict_loading


class Two(Lit):
    """Two optimizers, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, i: int) -> None:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        for opt in self.optimizers():
            opt.zero_grad()
        self.manual_backward(loss)
        for opt in self.optimizers():
            opt.step()

    def configure_optimizers(self) -> Any:
        first, last = adam(self.net[0]), adam(self.net[2])
        lissom.gate(first, self.net, {lissom.weights(self.net[0]): L0(5e-3)}, seed=0)
        lissom.proximal(last, {lissom.weights(self.net[2]): TopK(fraction=0.2)})
        return first, last


def test_several_optimizers_have_their_own_methods(tmp_path: Path) -> None:
    lit, callback = Two(), LissomCallback()
    trainer(tmp_path, callback).fit(lit, loader())
    assert [method.step for method in callback.methods] == [STEPS, STEPS]
    assert int(lit.net[2].weight.count_nonzero()) == round(0.2 * 48)
    assert int((lit.net[0].weight == 0).sum()) > 0
    with pytest.raises(MethodError, match=r"there are 2 here.*LissomCallback\(\)"):
        trainer(tmp_path, of_net(ALL["gates"])).fit(Two(), loader())


@pytest.mark.parametrize(
    ("callbacks", "why"),
    [
        ([LissomCallback()], r"no method on the optimizer: LissomCallback\(lambda"),
        ([LissomCallback(lambda opt, module: None)], "gives a method, got None"),
        ([of_net(ALL["proximal"]), EMAWeightAveraging()], "EMAWeightAveraging averages"),
        (
            [of_net(ALL["proximal"]), ModelCheckpoint(save_weights_only=True)],
            "save_weights_only=True.* leave it out",
        ),
    ],
)
def test_what_would_give_no_zeros_is_refused(
    callbacks: list[Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(MethodError, match=why):
        trainer(tmp_path, *callbacks, enable_checkpointing=True).fit(Lit(), loader())


def test_an_error_leaves_the_network_as_it_is_trained(tmp_path: Path) -> None:
    class Failing(Lit):
        def validation_step(self, batch: Any, i: int) -> None:
            raise RuntimeError("of the user")

    lit = Failing()
    with pytest.raises(RuntimeError, match="of the user"):
        trainer(tmp_path, of_net(ALL["gates"])).fit(lit, loader(), loader())
    assert any("log_alpha" in name for name, _ in lit.named_parameters())


def test_a_step_without_a_loss_is_none(tmp_path: Path) -> None:
    class Lazy(Lit):
        def training_step(self, batch: Any, i: int) -> Any:
            return super().training_step(batch, i) if i else None

    callback = LissomCallback(
        lambda opt, module: lissom.subgradient(opt, {lissom.weights(module): L1(0.1)})
    )
    trainer(tmp_path, callback).fit(Lazy(), loader())
    assert callback.methods[0].step == EPOCHS * (PER_EPOCH - 1)
