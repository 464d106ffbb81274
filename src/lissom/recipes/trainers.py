"""From a recipe to a trainer, and to the teacher that is trained before it."""

from pathlib import Path
from typing import Any

from torch import nn

from lissom.data import Dataset, Loaders
from lissom.errors import RunError
from lissom.recipes.examples import shape_of
from lissom.recipes.making import make_method, make_model, make_optimizer, make_task
from lissom.recipes.models import OwnModelSpec
from lissom.recipes.reading import read_record
from lissom.recipes.runs import (
    keep_record,
    keep_result,
    keep_weights,
    load_weights,
    make_record,
)
from lissom.recipes.specs import Recipe, TeacherSpec
from lissom.training import (
    Report,
    Teacher,
    Trainer,
    logits_of,
    steps_per_epoch,
    usable_device,
)
from lissom.training.checks import check_batch

TEACHER = "teacher"  # the directory of its run, in that of the student's


def make_trainer(
    recipe: Recipe,
    data: Dataset | Loaders,
    *,
    seed: int = 0,
    device: str = "cpu",
    out: Path | None = None,
    report: Report | None = None,
    model: nn.Module | None = None,
    teacher: Teacher | None = None,
    **more: Any,
) -> Trainer:
    """Everything put together and ready to `fit`, which trains the recipe's teacher first.

    A `model` goes on to be trained instead of a new one, and so does a `teacher` teach. More
    arguments, such as `callbacks`, are the trainer's.
    """
    task = make_task(recipe)
    shape, classes = shape_of(data, task), data.classes
    if model is None:
        model = make_model(recipe, shape, classes, seed=seed)
    model = model.to(usable_device(device))
    train = recipe.train
    epoch = steps_per_epoch(data, train.batch_size, train.accumulate, train.steps_per_epoch)
    if isinstance(recipe.model, OwnModelSpec):
        check_batch(model, data, task)  # before units are looked for, which says less
    optimizer = make_optimizer(recipe.optimizer, model)
    method = make_method(recipe, model, optimizer, shape, epoch)

    def teach(spec: TeacherSpec) -> Teacher:
        folder = None if out is None else out / TEACHER
        anew = train.augment is not None
        return make_teacher(
            spec, data, seed=seed, device=device, out=folder, report=report, anew=anew
        )

    taught = recipe.teacher
    return Trainer(
        model,
        optimizer,
        data,
        task,
        method=method,
        teacher=None if taught is None else teacher or (lambda: teach(taught)),
        out=out,
        report=report,
        lr_factor=train.lr_factor(epoch),
        scheduler=None if train.scheduler is None else train.scheduler.make(optimizer),
        device=device,
        seed=seed,
        **train.arguments(),
        **more,
    )


def make_teacher(
    spec: TeacherSpec,
    data: Dataset | Loaders,
    *,
    seed: int = 0,
    device: str = "cpu",
    out: Path | None = None,
    report: Report | None = None,
    anew: bool = False,
) -> Teacher:
    """Train a teacher, or go on with it where it was, and ask it about the training examples.

    Args:
        spec: the recipe's [teacher].
        data: of the student.
        seed: of the student, and of the teacher too if [teacher] has none.
        device: where to train.
        out: the directory of its run; None keeps nothing.
        report: called with its events, to which "teacher": epochs is added.
        anew: whether it answers in every step, to what the student sees then, and not once.

    Raises:
        RunError: if the directory holds another run.
    """
    recipe = spec.recipe
    seed = seed if spec.seed is None else spec.seed

    def report_of_teacher(event: dict[str, object]) -> None:
        if report is not None:
            report({"teacher": recipe.train.epochs, **event})

    trainer = make_trainer(
        recipe, data, seed=seed, device=device, out=out, report=report_of_teacher
    )
    examples = trainer.data
    assert isinstance(examples, Dataset)  # as those of all recipes
    shape = shape_of(data, make_task(recipe))
    record = make_record(recipe, seed, shape, data.classes)

    def taught_by(model: nn.Module) -> Teacher:
        answers = model if anew else logits_of(model, examples.train_x)
        return Teacher(answers, spec.alpha, spec.temperature)

    if out is not None and (out / "recipe.json").exists():
        kept = read_record(out / "recipe.json").model_copy(update={"code": record.code})
        if kept != record:
            raise RunError(f"{out} holds a teacher of another recipe or seed: choose another --out")
        if (out / "result.json").exists():
            model = make_model(recipe, shape, data.classes).to(usable_device(device))
            load_weights(model, out)
            return taught_by(model)
        if (out / "checkpoint.pt").exists():
            trainer.resume()
    if out is not None:
        keep_record(record, out)
    found = trainer.fit()
    if out is not None:
        keep_weights(trainer.model, out)
        keep_result(record, found.to_dict(), out)
    return taught_by(trainer.model)
