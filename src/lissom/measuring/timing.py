"""How long a forward pass takes, measured so that two models can be compared."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch

from lissom.arguments import as_annotated
from lissom.errors import LissomError
from lissom.running import ExampleInputs, Inputs, as_inputs, evaluating, run

BLOCK_SECONDS = 0.02


@dataclass(frozen=True)
class Latency:
    """Seconds for one call of a model.

    Attributes:
        seconds: the median over the rounds.
        quartiles: the first and the third, in seconds; equal to the median for one round.
        ratio: to the first model: the median over the rounds of the quotient within a round.
        rounds: how often each model had its turn.
        calls: calls in a turn.
        device: where the inputs were.
        threads: torch's threads on the CPU.
    """

    seconds: float
    quartiles: tuple[float, float]
    ratio: float
    rounds: int
    calls: int
    device: str
    threads: int

    def __str__(self) -> str:
        low, high = (f"{1000 * value:.4g}" for value in self.quartiles)
        return (
            f"{1000 * self.seconds:.4g} ms (quartiles {low}–{high}; {self.rounds} rounds of "
            f"{self.calls} calls; {self.device}, {_many(self.threads, 'thread')})"
        )


@as_annotated(LissomError, "models", "example_inputs")
def latency(
    models: Mapping[str, Callable[..., Any]],
    example_inputs: ExampleInputs,
    *,
    threads: int | None = None,
    rounds: int = 15,
) -> dict[str, Latency]:
    """How long one call of each model takes on the example inputs.

    After a warm-up that also finds how many calls last 20 ms, the models take turns: in each round,
    every model has one block of that many calls, so that a slower minute of the machine slows them
    all. Calls are made in inference mode, modules are put in eval mode, and an accelerator is
    waited for before a clock is read.

    Args:
        models: functions or modules by name; ratios are to the first.
        example_inputs: their inputs, a tensor or a tuple of tensors, on the device to measure.
        threads: torch's threads on the CPU while this runs; as they are if not given.
        rounds: turns of each model, ≥ 1.

    Raises:
        LissomError: no model, one that is no function or cannot run on example_inputs, inputs that
            are not tensors, or impossible rounds or threads.
    """
    if not isinstance(models, Mapping) or not models:
        raise LissomError(f'latency needs models by name, such as {{"dense": net}}, got {models!r}')
    for name, model in models.items():
        if not callable(model):
            raise LissomError(f"the model {name!r} is not callable: {model!r}")
    for what, number in (("rounds", rounds), ("threads", 1 if threads is None else threads)):
        if not isinstance(number, int) or number < 1:
            raise LissomError(f"{what} is a whole number ≥ 1, got {number!r}")
    inputs = as_inputs(example_inputs)
    devices = [x.device for x in inputs.tensors]
    device = next((device for device in devices if device.type != "cpu"), devices[0])
    with _threads(threads), evaluating(*models.values()), torch.inference_mode():
        for name, model in models.items():
            run(model, inputs, name)
        calls = {name: _calls(model, inputs, device) for name, model in models.items()}
        taken: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(rounds):
            for name, model in models.items():
                seconds = _block(model, inputs, calls[name], device)
                taken[name].append(seconds / calls[name])
        used = torch.get_num_threads()
    first = taken[next(iter(taken))]
    return {
        name: Latency(
            seconds=median(times),
            quartiles=_quartiles(times),
            ratio=median(t / t0 for t, t0 in zip(times, first, strict=True)),
            rounds=rounds,
            calls=calls[name],
            device=str(device),
            threads=used,
        )
        for name, times in taken.items()
    }


def _calls(model: Callable[..., Any], inputs: Inputs, device: torch.device) -> int:
    """How many calls last a block; finding it is the warm-up."""
    calls = 1
    while (seconds := _block(model, inputs, calls, device)) < BLOCK_SECONDS:
        # At most tenfold, since the first calls are slower than those to come.
        calls = max(calls + 1, min(10 * calls, int(1.2 * calls * BLOCK_SECONDS / seconds)))
    return calls


def _block(model: Callable[..., Any], inputs: Inputs, calls: int, device: torch.device) -> float:
    _wait(device)
    started = perf_counter()
    for _ in range(calls):
        model(*inputs.args, **inputs.kwargs)
    _wait(device)
    return perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _quartiles(times: list[float]) -> tuple[float, float]:
    if len(times) == 1:
        return times[0], times[0]
    low, _, high = quantiles(times, n=4, method="inclusive")
    return low, high


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _many(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
