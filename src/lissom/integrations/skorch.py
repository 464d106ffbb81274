"""lissom in skorch's networks, which are estimators of scikit-learn."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from lissom.integrations.handles import Handles, missing
from lissom.methods import Method

try:
    from skorch import NeuralNet
    from skorch.callbacks import Callback
except ImportError as error:
    raise missing("skorch") from error


class LissomCallback(Callback):  # type: ignore[misc]
    """Trains a skorch network to exact zeros, with λ as a parameter of the estimator.

        lasso = LissomCallback(lambda optimizer, module, strength: lissom.proximal(
            optimizer, {lissom.weights(module): L1(strength)}), strength=1e-3)
        net = NeuralNetClassifier(Net, callbacks=[("lissom", lasso)])
        GridSearchCV(net, {"callbacks__lissom__strength": [1e-4, 1e-3, 1e-2]})

    The penalty's gradient joins that of the loss in every step, validation is of the network as it
    would be delivered, and after `fit` it has plain weights with exact zeros. With `partial_fit`
    they stay, from the first call on.

    It stands before callbacks that clip gradients, schedule rates or keep checkpoints. They keep
    the methods, too, where they have `Checkpoint(f_lissom="lissom.pt")`: `LoadInitState` then goes
    on bit for bit.

    Args:
        make: makes the method, of the optimizer, the module, and all of `settings`.
        **settings: numbers and the like, by their names; parameters of the estimator.

    Raises:
        MethodError: where there is no method.
    """

    def __init__(self, make: Callable[..., Method], **settings: Any) -> None:
        self.make = make
        self.__dict__.update(settings)

    def initialize(self) -> "LissomCallback":
        """Forget the methods of an earlier `fit`."""
        settings = {k: v for k, v in self.get_params(deep=False).items() if k != "make"}
        self.handles_ = Handles(
            partial(self.make, **settings) if callable(self.make) else self.make
        )
        return self

    @property
    def methods_(self) -> list[Method]:
        """The methods at work: `callback.methods_[0].event()` says how one stands."""
        return self.handles_.methods

    def on_train_begin(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:  # noqa: N803
        """Make the method, or go on with the one of the last `partial_fit`."""
        self.handles_.take([net.optimizer_], net.module_)
        net.lissom_ = States(self.handles_)

    def on_grad_computed(self, net: NeuralNet, named_parameters: Any, **kwargs: Any) -> None:
        """Add the penalty's gradient to that of the loss."""
        self.handles_.add_penalties(net.optimizer_)

    def on_batch_begin(
        self, net: NeuralNet, batch: Any = None, training: bool | None = None, **kwargs: Any
    ) -> None:
        """Validate the network as it would be delivered."""
        if not training:
            self.handles_.deploy()

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Go back to the network that is trained."""
        self.handles_.back()

    def on_train_end(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:  # noqa: N803
        """Finalize."""
        self.handles_.finalize()


class States:
    """The states of the methods, as skorch's checkpoints save and load it."""

    def __init__(self, handles: Handles) -> None:
        self.handles = handles

    def state_dict(self) -> dict[str, Any]:
        """Of all methods, by their number."""
        return {str(i): method.state_dict() for i, method in enumerate(self.handles.methods)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where it was taken."""
        for i, method in enumerate(self.handles.methods):
            method.load_state_dict(state[str(i)])
