"""lissom in the Trainer of transformers."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lissom.errors import MethodError, RunError
from lissom.integrations.handles import Handles, Make, missing
from lissom.methods import Method
from lissom.methods.optimizers import stepping_optimizer
from lissom.storage import load_state, save_state

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise missing("transformers") from error

FILE, KIND = "lissom.pt", "lissom callback 1"


class LissomCallback(TrainerCallback):
    """Trains a model to exact zeros, with `compute_loss` as it is.

        Trainer(model, args, callbacks=[LissomCallback(lambda optimizer, model: lissom.proximal(
            optimizer, {lissom.weights(model): L0(2e-4)}))])

    The penalty's gradient is there before those of the batches, so that all are clipped together.
    From the end of a step until the next, wherever Trainer evaluates or saves, the network is as it
    would be delivered: metrics are of it, and `checkpoint-60` loads by `from_pretrained`. What
    training goes on with is beside it in `lissom.pt`, and `train(resume_from_checkpoint=…)` goes
    on from it bit for bit. After `train` the model has plain weights with exact zeros.

    Callbacks that set `control.should_evaluate` or `should_save` themselves stand before this one.

    Args:
        make: makes the method of the optimizer and the model when training begins. None finds the
            methods on an optimizer of one's own, `Trainer(optimizers=(optimizer, None))`, which is
            how gates come before Trainer's scheduler.

    Raises:
        MethodError: where there is no method.
        RunError: where training is resumed from a folder without `lissom.pt`.
    """

    def __init__(self, make: Make | None = None) -> None:
        self.handles = Handles(make)
        self._optimizer_state: dict[str, Any] | None = None
        self._waiting: Any = None

    @property
    def methods(self) -> list[Method]:
        """The methods at work: `callback.methods[0].event()` says how one stands."""
        return self.handles.methods

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the state of an optimizer that has methods wait for theirs, which comes first."""
        if kwargs.get("optimizer") is not None:
            inner = stepping_optimizer(kwargs["optimizer"])
            self._waiting = inner.register_load_state_dict_pre_hook(self._wait)

    def _wait(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        self._optimizer_state = state
        return optimizer.state_dict()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the methods or find them, and go on where a checkpoint was taken."""
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        if self._waiting is not None:
            self._waiting.remove()
        groups = len(optimizer.param_groups)
        self.handles.take([optimizer], model)
        if len(optimizer.param_groups) > groups:
            raise MethodError(
                f"method {self.methods[-1].name!r} adds a param group, and Trainer has made a "
                "scheduler of the others: make the method on an optimizer of your own, and give it "
                "to Trainer(optimizers=(optimizer, None), callbacks=[LissomCallback()])"
            )
        waiting, self._optimizer_state = self._optimizer_state, None
        if not state.global_step:
            return
        folder = _checkpoint(args, state)
        if not folder.exists() and args.resume_from_checkpoint:
            folder = Path(args.resume_from_checkpoint)
        if not (folder / FILE).exists():
            raise RunError(
                f"training goes on from step {state.global_step}, and there is no {folder / FILE}: "
                "resume from the folder where it was written, within output_dir, or name it in "
                "TrainingArguments(resume_from_checkpoint=…) too"
            )
        kept = load_state(folder / FILE, KIND)
        self.handles.load(
            kept, lambda training: model.load_state_dict({**_state_of(model), **training})
        )
        if waiting is not None:
            stepping_optimizer(optimizer).load_state_dict(waiting)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin the step's gradients with the penalty's, scaled as those of the loss will be."""
        self.handles.back()
        scaler = getattr(kwargs["optimizer"], "scaler", None)
        scale = 1.0 if scaler is None else scaler.get_scale()
        self.handles.add_penalties(kwargs["optimizer"], scale)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Be as delivered for what comes next: evaluation, a checkpoint, the best model's load."""
        if control.should_evaluate or control.should_save or control.should_training_stop:
            self.handles.deploy()

    on_epoch_end = on_step_end

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write beside the delivered model what training goes on with."""
        _, kept = self.handles.state(lambda: _state_of(kwargs["model"]))
        if args.should_save and not state.is_hyper_param_search:  # where nothing is resumed
            save_state(kept, _checkpoint(args, state) / FILE, KIND)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Finalize; a best model that was loaded is one that was delivered, and stays."""
        model: nn.Module = kwargs["model"]
        best = args.load_best_model_at_end and state.best_model_checkpoint is not None
        loaded = {name: value.clone() for name, value in _state_of(model).items()} if best else None
        self.handles.finalize()
        if loaded is not None:
            model.load_state_dict(loaded)
            for method in self.handles.methods:
                method.note_zeros()


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    """Where Trainer keeps what is of this step."""
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"


def _state_of(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.state_dict())
