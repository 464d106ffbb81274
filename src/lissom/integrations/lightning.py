"""lissom in Lightning's Trainer."""

from typing import Any

from torch.optim import Optimizer

from lissom.errors import MethodError
from lissom.integrations.handles import Handles, Make, missing
from lissom.methods import Method

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
    from lightning.pytorch.trainer.states import TrainerFn
except ImportError as error:
    raise missing("lightning") from error

AVERAGES = (WeightAveraging, StochasticWeightAveraging)


class LissomCallback(Callback):
    """Trains a LightningModule to exact zeros, with `training_step` as it is.

        Trainer(callbacks=[LissomCallback(lambda optimizer, module: lissom.proximal(
            optimizer, {lissom.weights(module): L0(2e-4)}))])

    The penalty's gradient joins that of the loss before gradients are clipped, the network is
    validated as it would be delivered, and after `fit` it has plain weights with exact zeros.

    A checkpoint's `state_dict` is the network as it would be delivered, which
    `load_from_checkpoint` and `trainer.test(ckpt_path="best")` load without lissom; what training
    goes on with is in the callback's state, and `fit(ckpt_path=…)` goes on from it bit for bit.

    Args:
        make: makes the method of the optimizer and the module, as soon as `configure_optimizers`
            has. None finds the methods that were made there, between optimizer and scheduler:
            where there are gates and a scheduler, or several optimizers.

    Raises:
        MethodError: where there is no method, or a callback with which there would be no zeros.
    """

    def __init__(self, make: Make | None = None) -> None:
        self.handles = Handles(make)
        self._strict = True
        self._checkpoint: dict[str, Any] | None = None

    @property
    def methods(self) -> list[Method]:
        """The methods at work: `callback.methods[0].event()` says how one stands."""
        return self.handles.methods

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let a checkpoint be loaded that has what methods add; `on_fit_start` is strict again."""
        if stage != "fit":
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            name = type(callback).__name__
            if isinstance(callback, AVERAGES):
                raise MethodError(
                    f"{name} averages weights that come and go, so that the average has no zeros: "
                    "leave it out, or train on with it in a second fit, without LissomCallback, "
                    "where zeros stay"
                )
            if getattr(callback, "save_weights_only", False):
                raise MethodError(
                    f"{name}(save_weights_only=True) does not let callbacks give the weights as "
                    "they would be delivered: leave it out. The checkpoint's state_dict has them"
                )
        self._strict, pl_module.strict_loading = pl_module.strict_loading, False

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the checkpoint until there are methods."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if self.state_key in checkpoint["callbacks"]:
            self._checkpoint = checkpoint
        else:  # of a training without lissom, from which this one starts
            trainer.strategy.load_model_state_dict(checkpoint, strict=self._strict)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the methods or find them, and load theirs and the model's state."""
        pl_module.strict_loading = self._strict
        self.handles.take(trainer.optimizers, pl_module)
        if (checkpoint := self._checkpoint) is not None:
            self._checkpoint = None
            strategy, strict = trainer.strategy, self._strict
            delivered = checkpoint["state_dict"]
            self.handles.load(
                checkpoint["callbacks"][self.state_key],
                lambda training: strategy.load_model_state_dict(
                    {"state_dict": {**delivered, **training}}, strict=strict
                ),
            )

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Add the penalty's gradient; those of the loss are unscaled by now, and not yet clipped.

        Where `training_step` gave None, so that there are none, there is no step.
        """
        if any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
            self.handles.add_penalties(optimizer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the network as it would be delivered."""
        self.handles.deploy()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to the network that is trained."""
        self.handles.back()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Give the checkpoint the network as it would be delivered, and what training needs."""
        delivered, state = self.handles.state(trainer.strategy.lightning_module_state_dict)
        checkpoint["state_dict"] = dict(delivered)
        checkpoint["callbacks"][self.state_key] = state

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finalize."""
        self.handles.finalize()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the network as it is trained, and the module as strict as it was."""
        self.handles.back()
        if trainer.state.fn == TrainerFn.FITTING:
            pl_module.strict_loading = self._strict
