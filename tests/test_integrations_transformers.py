"""lissom in the Trainer of transformers."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from integration_cases import (
    ALL,
    BATCH,
    EPOCHS,
    MIDDLE,
    PER_EPOCH,
    STEPS,
    Net,
    adam,
    equal,
    examples,
    own_loop,
    require_same_zeros,
    zeros,
)
from libraries import library

import lissom
from lissom import TopK
from lissom.errors import MethodError, RunError

transformers = library("transformers")
pytest.importorskip("accelerate")

from lissom.integrations.transformers import LissomCallback  # noqa: E402

pytestmark = [pytest.mark.exhaustive, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True, scope="module")
def frozen() -> Iterator[None]:
    """Each Trainer collects garbage, half a second where so many modules are imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Config(transformers.PreTrainedConfig):
    model_type = "few"


class Few(transformers.PreTrainedModel):
    config_class = Config
    all_tied_weights_keys: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.net = Net()

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


DATA = [{"x": x, "labels": y} for x, y in examples()]


def trainer(tmp: Path, model: Few, callback: LissomCallback, *, opt: Any = None, **options: Any):
    given: dict[str, Any] = {"max_grad_norm": 0.0, "save_strategy": "no", **options}
    args = transformers.TrainingArguments(
        str(tmp), num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH, learning_rate=0.02,
        lr_scheduler_type="constant", train_sampling_strategy="sequential", use_cpu=True,
        report_to="none", disable_tqdm=True, logging_strategy="no", optim="adamw_torch", **given,
    )  # fmt: skip
    return transformers.Trainer(
        model, args, train_dataset=DATA, eval_dataset=DATA, optimizers=(opt, None),
        compute_metrics=lambda found: {"zeros": zeros(model.net)}, callbacks=[callback],
    )  # fmt: skip


def before(tmp: Path, name: str, **options: Any) -> Any:
    """The method made on an optimizer of one's own, and so before the scheduler."""
    model = Few(Config())
    opt = adam(model)
    ALL[name](opt, model.net)
    return trainer(tmp, model, LissomCallback(), opt=opt, **options)


def made(tmp: Path, name: str, **options: Any) -> Any:
    """The method made on Trainer's optimizer."""
    callback = LissomCallback(lambda opt, model: ALL[name](opt, model.net))
    return trainer(tmp, Few(Config()), callback, **options)


CASES = [(before, name) for name in ALL] + [(made, "proximal"), (made, "a user's own")]


@pytest.mark.parametrize(("how", "name"), CASES)
def test_it_ends_with_the_zeros_of_ones_own_loop(how: Any, name: str, tmp_path: Path) -> None:
    training = how(tmp_path, name)
    training.train()
    require_same_zeros(training.model.net, own_loop(ALL[name]))


@pytest.mark.parametrize("options", [{"max_grad_norm": 0.05}, {"gradient_accumulation_steps": 2}])
def test_penalties_are_clipped_and_accumulated_as_if_in_the_loss(
    options: dict[str, Any], tmp_path: Path
) -> None:
    training = before(tmp_path, "gates", **options)
    training.train()
    clip, accumulate = options.get("max_grad_norm"), options.get("gradient_accumulation_steps", 1)
    require_same_zeros(training.model.net, own_loop(ALL["gates"], clip=clip, accumulate=accumulate))


@pytest.mark.parametrize(("how", "name"), CASES)
def test_a_resumed_training_has_the_same_bits(how: Any, name: str, tmp_path: Path) -> None:
    whole = how(tmp_path, name, save_strategy="steps", save_steps=MIDDLE)
    whole.train()
    again = how(tmp_path, name)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{MIDDLE}"))
    assert equal(again.model.net, whole.model.net)


@pytest.mark.parametrize("name", ["proximal", "lc", "ended gates"])
def test_what_is_evaluated_and_saved_is_what_would_be_delivered(name: str, tmp_path: Path) -> None:
    options = {"eval_strategy": "epoch", "save_strategy": "epoch"}
    training = before(tmp_path, name, **options)
    training.train()
    seen = [log["eval_zeros"] for log in training.state.log_history if "eval_zeros" in log]
    saved = [
        zeros(Few.from_pretrained(tmp_path / f"checkpoint-{epoch * PER_EPOCH}").net)
        for epoch in range(1, EPOCHS + 1)
    ]
    assert seen == saved and len(seen) == EPOCHS
    assert seen[-1] == zeros(training.model.net)
    training.save_model(str(tmp_path / "end"))
    assert equal(Few.from_pretrained(tmp_path / "end").net, training.model.net)


@pytest.mark.parametrize(
    "others", [[], [transformers.EarlyStoppingCallback(1)]], ids=["all", "stopped"]
)
@pytest.mark.parametrize("name", ["proximal", "gates"])
def test_the_best_model_is_one_that_was_evaluated(
    name: str, others: list[Any], tmp_path: Path
) -> None:
    options = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    training = before(
        tmp_path, name, metric_for_best_model="zeros", greater_is_better=False, **options
    )
    for callback in others:
        training.add_callback(callback)
    training.train()
    folder = Path(training.state.best_model_checkpoint)
    assert folder.name == f"checkpoint-{PER_EPOCH}"
    assert equal(training.model.net, Few.from_pretrained(folder).net)
    [ours] = [c for c in training.callback_handler.callbacks if isinstance(c, LissomCallback)]
    assert all(method.finalized for method in ours.methods)


def test_gates_on_trainers_own_optimizer_are_told_the_order_that_works(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=r"optimizers=\(optimizer, None\)"):
        made(tmp_path, "gates").train()


def test_a_checkpoint_without_the_callbacks_file_is_refused(tmp_path: Path) -> None:
    made(tmp_path, "proximal", save_strategy="steps", save_steps=MIDDLE).train()
    file = tmp_path / f"checkpoint-{MIDDLE}" / "lissom.pt"
    file.unlink()
    with pytest.raises(RunError, match=rf"goes on from step {MIDDLE}.*{file}"):
        made(tmp_path, "proximal").train(resume_from_checkpoint=str(file.parent))


def test_a_checkpoint_that_was_moved_is_found_by_its_name_in_the_arguments(tmp_path: Path) -> None:
    whole = made(tmp_path / "first", "proximal", save_strategy="steps", save_steps=MIDDLE)
    whole.train()
    folder = str(tmp_path / "first" / f"checkpoint-{MIDDLE}")
    again = made(tmp_path / "second", "proximal", resume_from_checkpoint=folder)
    again.train(resume_from_checkpoint=folder)
    assert equal(again.model.net, whole.model.net)


def test_a_second_training_keeps_the_zeros(tmp_path: Path) -> None:
    model = Few(Config())
    callback = LissomCallback(
        lambda opt, model: lissom.proximal(opt, {lissom.weights(model): TopK(fraction=0.2)})
    )
    training = trainer(tmp_path, model, callback)
    training.train()
    dead = [p == 0 for p in model.parameters()]
    training.train()
    assert callback.methods[0].step == 2 * STEPS
    assert all(bool((p[d] == 0).all()) for p, d in zip(model.parameters(), dead, strict=True))


def test_penalties_are_scaled_as_the_loss_is_in_half_precision() -> None:
    model = Few(Config())
    opt = adam(model)
    method = ALL["subgradient"](opt, model.net)
    method.penalty().backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    opt.zero_grad()
    opt.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)  # where accelerate keeps it
    callback = LissomCallback()
    callback.handles.take([opt], model)
    callback.on_step_begin(None, None, None, optimizer=opt)
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(8 * a, b) for a, b in zip(expected, found, strict=True))
