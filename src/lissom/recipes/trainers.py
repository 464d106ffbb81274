"""From a recipe to a trainer, and to the teacher that is trained before it."""

from pathlib import Path

from torch import nn

from lissom.checkpoints import load_tensors, save_tensors
from lissom.data import Dataset
from lissom.errors import RunError
from lissom.proximal import proximal
from lissom.recipes.making import (
    make_gates,
    make_lc,
    make_model,
    make_optimizer,
    make_prices,
)
from lissom.recipes.reading import read_record
from lissom.recipes.runs import keep_record, keep_result
from lissom.recipes.specs import Recipe, Record, TeacherSpec
from lissom.schedules import Schedule, cosine, linear, multistep
from lissom.training import (
    Augment,
    Report,
    Teacher,
    Trainer,
    logits_of,
    steps_per_epoch,
    usable_device,
)

TEACHER = "teacher"  # the directory of its run, in that of the student's


def make_trainer(
    recipe: Recipe,
    data: Dataset,
    *,
    seed: int = 0,
    device: str = "cpu",
    out: Path | None = None,
    report: Report | None = None,
    model: nn.Module | None = None,
    teacher: Teacher | None = None,
) -> Trainer:
    """Everything put together and ready to `fit`, which trains the recipe's teacher first.

    A `model` goes on to be trained instead of a new one, and so does a `teacher` teach.
    """
    shape, classes = data.train_x.shape[1:], data.classes
    if model is None:
        model = make_model(recipe, shape, classes, seed=seed)
    model = model.to(usable_device(device))
    train = recipe.train
    epoch = steps_per_epoch(data, train.batch_size)
    step = penalties = gates = gate_lr = harden = lc = None
    if recipe.gates is not None:
        gates = make_gates(recipe, model, shape, epoch)
        gate_lr, harden = recipe.gates.lr, recipe.gates.harden
    optimizer = make_optimizer(recipe.optimizer, model, gates, gate_lr)
    if recipe.lc is not None:
        lc = make_lc(recipe, model, shape, optimizer)
    elif recipe.prices and gates is None:
        prices = make_prices(recipe, model, shape, epoch)
        if recipe.method == "subgradient":
            penalties = prices
        else:
            spec = recipe.proximal
            step = proximal(
                optimizer,
                prices,
                every=epoch if spec.every == "epoch" else spec.every,
                metric=spec.metric,
                start=spec.start * epoch,
                freeze_at=None if spec.freeze is None else spec.freeze * epoch,
            )

    def teach(spec: TeacherSpec) -> Teacher:
        folder = None if out is None else out / TEACHER
        return make_teacher(spec, data, seed=seed, device=device, out=folder, report=report)

    taught = recipe.teacher
    return Trainer(
        model,
        optimizer,
        data,
        proximal=step,
        penalties=penalties,
        gates=gates,
        lc=lc,
        teacher=None if taught is None else teacher or (lambda: teach(taught)),
        out=out,
        report=report,
        lr_factor=_decay(recipe, epoch),
        augment=None if train.augment is None else Augment(**train.augment.model_dump()),
        harden_at=harden,
        l_steps=None if recipe.lc is None else tuple(recipe.lc.begins),
        restart=recipe.lc is not None and recipe.lc.restart,
        device=device,
        seed=seed,
        **train.model_dump(exclude={"augment", "cosine_from", "gamma", "milestones"}),
    )


def _decay(recipe: Recipe, epoch: int) -> Schedule | None:
    """The factor of the learning rates by step, if there is one; `epoch` in steps."""
    train, lc = recipe.train, recipe.lc
    if lc is not None and lc.rate_decay is not None:
        return multistep(1, lc.rate_decay, [end * epoch for end in lc.begins[1:]])
    if train.milestones is not None and train.gamma is not None:
        return multistep(1, train.gamma, [milestone * epoch for milestone in train.milestones])
    if train.cosine_from is not None:
        flat = linear(1, 1, train.cosine_from * epoch)
        return flat.then(cosine(1, 0, (train.epochs - train.cosine_from) * epoch))
    return None


def make_teacher(
    spec: TeacherSpec,
    data: Dataset,
    *,
    seed: int = 0,
    device: str = "cpu",
    out: Path | None = None,
    report: Report | None = None,
) -> Teacher:
    """Train a teacher, or go on with it where it was, and ask it about the training examples.

    Args:
        spec: the recipe's [teacher].
        data: of the student.
        seed: of the student.
        device: where to train.
        out: the directory of its run; None keeps nothing.
        report: called with its events, to which "teacher": epochs is added.

    Raises:
        RunError: if the directory holds another run.
    """
    recipe = spec.recipe

    def told(event: dict[str, object]) -> None:
        if report is not None:
            report({"teacher": recipe.train.epochs, **event})

    trainer = make_trainer(recipe, data, seed=seed, device=device, out=out, report=told)
    shape = list(data.train_x.shape[1:])
    record = Record(recipe=recipe, seed=seed, shape=shape, classes=data.classes)
    if out is not None and (out / "recipe.json").exists():
        if read_record(out / "recipe.json") != record:
            raise RunError(f"{out} holds a teacher of another recipe or seed: choose another --out")
        if (out / "result.json").exists():
            model = make_model(recipe, shape, data.classes).to(usable_device(device))
            model.load_state_dict(load_tensors(out / "model.safetensors"))
            return Teacher(logits_of(model, trainer.data.train_x), spec.alpha, spec.temperature)
        if (out / "checkpoint.pt").exists():
            trainer.resume()
    if out is not None:
        keep_record(record, out)
    found = trainer.fit()
    if out is not None:
        save_tensors(trainer.model.state_dict(), out / "model.safetensors")
        keep_result(record, found.to_dict(), out)
    return Teacher(logits_of(trainer.model, trainer.data.train_x), spec.alpha, spec.temperature)
