"""Where training runs: the CPU alone, or what Lightning Fabric has of devices and precisions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from lissom.data import Dataset, Loaders
from lissom.errors import RunError
from lissom.training.options import TrainOptions


def devices_for(options: TrainOptions, loggers: Sequence[Any]) -> "Devices":
    """Where a training runs; the CPU alone, in float32, needs nothing of Fabric.

    That takes seconds to import, and whenever one is made it reads the metadata of all packages.
    """
    asked = (options.device, options.devices, options.strategy, options.precision)
    alone = asked == ("cpu", 1, "auto", "32-true") and not loggers
    return Devices() if alone else FabricDevices(options, loggers)


class Devices:
    """The CPU alone, and what there is to do where there is more.

    Attributes:
        device: of this process.
        rank: its number among the processes.
        world: how many there are.
    """

    device: torch.device = torch.device("cpu")
    rank: int = 0
    world: int = 1

    def placed(self, data: Dataset | Loaders) -> Dataset | Loaders:
        """Data in memory on the device; of loaders, the training batches of this process."""
        return data.to(self.device) if isinstance(data, Dataset) else data

    def setup(self, model: nn.Module) -> nn.Module:
        """The model as it is called in training: in this precision, with gradients reduced."""
        return model

    def reducing(self, network: Any, *, now: bool) -> AbstractContextManager[None]:
        """Whether gradients go to the other processes with this backward pass, or a later one."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """The gradient of a loss, which may be scaled meanwhile."""
        loss.backward()

    def clip(self, network: Any, optimizer: Optimizer, norm: float) -> None:
        """Make the gradient of all parameters no longer than a norm."""
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], norm)

    def step(self, optimizer: Optimizer) -> None:
        """A step, which is left out where a scaled gradient overflowed."""
        optimizer.step()

    def mean(self, number: Tensor) -> Tensor:
        """Of all processes."""
        return number

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What the first process makes, in all of them."""
        return make()

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the first one's buffers, such as running means."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Tell the loggers."""

    def logging(self) -> AbstractContextManager[None]:
        """While it lasts loggers may be told, and at its end they write what they have."""
        return nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """Of the precision, such as the scale of gradients in float16."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""


class FabricDevices(Devices):
    """One or more devices, of which this process has one.

    With several, the processes are started here, or were by torchrun; the first evaluates, and
    writes and reports for all.

    Args:
        options: of the training.
        loggers: told by the first process.

    Raises:
        RunError: with what Fabric says.
    """

    def __init__(self, options: TrainOptions, loggers: Sequence[Any]) -> None:
        from lightning_fabric import Fabric

        named = torch.device(options.device)
        devices = options.devices if named.index is None else [named.index]
        if named.index is not None and options.devices != 1:
            raise RunError(
                f"device={options.device!r} is one, and devices={options.devices!r}: name the kind "
                f"alone, device={named.type!r}",
                field="devices",
            )
        try:
            self._fabric = Fabric(
                accelerator=named.type,
                devices=list(devices) if isinstance(devices, Sequence) else devices,
                strategy=options.strategy,
                precision=options.precision,
                loggers=list(loggers),
            )
            self._fabric.launch()
        except (OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise RunError(
                f"Lightning Fabric cannot train with device={options.device!r}, "
                f"devices={options.devices!r}, strategy={options.strategy!r}, "
                f"precision={options.precision!r}: {error}"
            ) from error
        self.device = self._fabric.device
        self.rank, self.world = self._fabric.global_rank, self._fabric.world_size
        self._seed, self._precision = options.seed, options.precision

    def placed(self, data: Dataset | Loaders) -> Dataset | Loaders:
        data = super().placed(data)
        if self.world == 1 or isinstance(data, Dataset) or not isinstance(data.train, DataLoader):
            return data
        made: Any = self._fabric.setup_dataloaders(data.train, move_to_device=False)
        # Without Fabric's wrapper, which counts epochs from 0 again after a resume.
        train = getattr(made, "_dataloader", made)
        if train is not data.train and isinstance(train.sampler, DistributedSampler):
            train.sampler.seed = self._seed
        return replace(data, train=train)

    def setup(self, model: nn.Module) -> nn.Module:
        if self.world == 1 and self._precision == "32-true":
            return model  # Fabric's wrapper would do nothing, in 100 µs a call
        network: nn.Module = self._fabric.setup_module(model)
        return network

    def reducing(self, network: Any, *, now: bool) -> AbstractContextManager[None]:
        if self.world == 1:
            return nullcontext()
        found: AbstractContextManager[None] = self._fabric.no_backward_sync(network, not now)
        return found

    def backward(self, loss: Tensor) -> None:
        self._fabric.backward(loss)

    def clip(self, network: Any, optimizer: Optimizer, norm: float) -> None:
        self._fabric.clip_gradients(network, optimizer, max_norm=norm, error_if_nonfinite=False)

    def step(self, optimizer: Optimizer) -> None:
        self._fabric.strategy.optimizer_step(optimizer)

    def mean(self, number: Tensor) -> Tensor:
        found = self._fabric.all_reduce(number, reduce_op="mean")
        assert isinstance(found, Tensor)
        return found

    def from_first(self, make: Callable[[], Any]) -> Any:
        made = make() if self.rank == 0 else None
        return made if self.world == 1 else self._fabric.broadcast(made)

    def share_buffers(self, model: nn.Module) -> None:
        if self.world > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self.rank == 0:
            self._fabric.log_dict(metrics, step)

    @contextmanager
    def logging(self) -> Iterator[None]:
        status = "failed"
        try:
            yield
            status = "success"
        finally:
            for logger in self._fabric.loggers if self.rank == 0 else ():
                if callable(finalize := getattr(logger, "finalize", None)):
                    finalize(status)

    def state_dict(self) -> dict[str, Any]:
        return self._fabric.strategy.precision.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._fabric.strategy.precision.load_state_dict(state)
