"""What a `Trainer` is given, checked before anything is trained."""

from collections.abc import Callable, Mapping

from torch import nn
from torch.optim import Optimizer

from lissom.data import Dataset
from lissom.errors import RunError
from lissom.gates import Gates, refuse_gated
from lissom.groups import Groups
from lissom.learning_compression import LC
from lissom.penalties import Penalty
from lissom.proximal import Proximal, penalty_loss
from lissom.training.options import Options
from lissom.training.teacher import Teacher, check_teacher


def check(
    model: nn.Module,
    optimizer: Optimizer,
    data: Dataset,
    options: Options,
    *,
    proximal: Proximal | None,
    penalties: Mapping[Groups, Penalty] | None,
    gates: Gates | None,
    lc: LC | None,
    teacher: Teacher | Callable[[], Teacher] | None,
    steps_per_epoch: int,
) -> None:
    """Refuse what does not go together.

    Raises:
        RunError: quoting what was given, and what would work.
        PenaltyError: for a penalty in the loss that has no gradient.
        GateError: for gates on the model that the trainer was not given.
    """
    _check_images(options, data)
    if gates is None:
        refuse_gated(model, "a Trainer without gates=…")
        if options.harden_at is not None:
            raise RunError(
                f"harden_at={options.harden_at} makes gates plain weights, but there are no gates: "
                "Trainer(…, gates=lissom.gate(model, prices))"
            )
    else:
        _check_gates(gates, model, optimizer)
    if (lc is None) != (options.l_steps is None):
        raise RunError(
            "lc=lissom.lc(model, …) and l_steps, how many epochs are done when each of its steps "
            f"begins and when the last is over, go together; got l_steps={options.l_steps!r}"
        )
    if lc is not None and options.l_steps is not None:
        _check_lc(lc, options.l_steps, model, options)
    if teacher is not None:
        check_teacher(teacher)
        if options.augment is not None:
            raise RunError(
                "a teacher answers once to each training example, and augment shows other "
                "images in every epoch: leave out one of the two"
            )
    if penalties is not None:
        penalty_loss(penalties)  # refuses now what has no gradient
    if options.patience is not None and data.valid_y is None:
        raise RunError(
            f"patience={options.patience} chooses an epoch by validation data, and there are "
            "none: hold some out with data.hold_out(5000, seed=0)"
        )
    if options.average_from is not None and proximal and not proximal.frozen:
        first, frozen = options.average_from * steps_per_epoch, proximal.freeze_at
        if frozen is None or frozen > first:
            when = "never frozen" if frozen is None else f"frozen at step {frozen}"
            raise RunError(
                f"weights are averaged from step {first} on, but zeros are {when}: an average "
                f"over weights that come and go has no zeros. Set freeze_at={first} or earlier"
            )


def _check_images(options: Options, data: Dataset) -> None:
    if data.train_x.ndim == 4:
        return
    shape = f"but examples here are {list(data.train_x.shape)}"
    if options.channels_last:
        raise RunError(f"channels_last is a layout of images [n, channels, height, width], {shape}")
    if options.augment is not None:
        raise RunError(f"{options.augment} moves images [n, channels, height, width], {shape}")


def _check_gates(gates: Gates, model: nn.Module, optimizer: Optimizer) -> None:
    if gates.model is not model:
        raise RunError(
            f"these gates are on another {type(gates.model).__name__} than the model that is "
            "to be trained"
        )
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    if all(p is not gates.log_alpha for p in trained):
        raise RunError(
            "the optimizer does not hold the gates' log α, so they would never move: make it "
            f"after the gates, {type(optimizer).__name__}(gates.param_groups(lr))"
        )


def _check_lc(lc: LC, l_steps: tuple[int, ...], model: nn.Module, options: Options) -> None:
    if lc.model is not model:
        raise RunError(
            f"this lc is of another {type(lc.model).__name__} than the model that is to be trained"
        )
    if len(l_steps) != lc.steps + 1:
        raise RunError(
            f"lc has {lc.steps} steps, so l_steps are {lc.steps + 1} epochs, the last of which "
            f"ends the last step; got {len(l_steps)}"
        )
    end = l_steps[-1]
    if end > options.epochs:
        raise RunError(f"the L steps end after epoch {end}, and epochs={options.epochs}")
    strange = [c for c in lc.given.values() if not isinstance(c, Penalty)]
    if strange and end < options.epochs:
        raise RunError(
            f"zeros stay zero after the last L step, but what {strange[0]!r} gave would not stay: "
            f"end training there, with epochs={end}"
        )
    if options.average_from is not None and options.average_from < end:
        raise RunError(
            f"weights are averaged from epoch {options.average_from} on, but θ is written into "
            f"them after epoch {end}: set average_from={end} or later"
        )
    if options.patience is not None and options.patience_from < end:
        raise RunError(
            f"patience counts from epoch {options.patience_from} on, but θ is written into the "
            f"weights after epoch {end}: set patience_from={end} or later"
        )
