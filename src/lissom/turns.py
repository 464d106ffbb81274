"""Calls that take turns on a clock, so that their times can be compared."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch

log = logging.getLogger(__name__)

BLOCK_SECONDS = 0.02
IDLE = 1.5  # the load above which others are at work beside this process

Call = Callable[[], Any]


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
        threads: of the runtime on the CPU.
        runtime: what ran the model: "torch", "onnxruntime" or "openvino".
        load: how many processes of the machine wanted a core, by the means of the last minute
            before and after (`os.getloadavg`); None where the system does not know.
    """

    seconds: float
    quartiles: tuple[float, float]
    ratio: float
    rounds: int
    calls: int
    device: str
    threads: int
    runtime: str = "torch"
    load: tuple[float, float] | None = None

    def __str__(self) -> str:
        low, high = (f"{1000 * value:.4g}" for value in self.quartiles)
        loaded = self.load is not None and self.load[0] > IDLE
        return (
            f"{1000 * self.seconds:.4g} ms (quartiles {low}–{high}; {self.rounds} rounds of "
            f"{self.calls} calls; {self.runtime}, {self.device}, {_many(self.threads, 'thread')}"
            + (f"; load {self.load[0]:.1f} before)" if loaded and self.load else ")")
        )


def time_text(seconds: float) -> str:
    """43.1 µs, 1.72 ms."""
    return f"{1e6 * seconds:.3g} µs" if seconds < 1e-3 else f"{1e3 * seconds:.3g} ms"


def in_turns(
    models: Mapping[str, Call], *, rounds: int, device: torch.device, threads: int, runtime: str
) -> dict[str, Latency]:
    """How long one call of each takes.

    After a warm-up that also finds how many calls last 20 ms, the models take turns: in each round,
    every model has one call, and then a block of that many which is timed, so that a slower minute
    of the machine slows them all. An accelerator is waited for before a clock is read.

    Args:
        models: what is called, by name; ratios are to the first.
        rounds: turns of each.
        device: what is waited for.
        threads: for the record.
        runtime: for the record.
    """
    before = _load()
    calls = {name: _calls(model, device) for name, model in models.items()}
    taken: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            model()  # brings its weights back into the caches, out of which the others drove them
            taken[name].append(_block(model, calls[name], device) / calls[name])
    after = _load()
    load = None if before is None or after is None else (before, after)
    if load is not None and load[0] > IDLE:
        log.warning(
            "the load of this machine was %.1f when timing began, so other work may be in the "
            "times; ratios within the same call are safer",
            load[0],
        )
    first = taken[next(iter(taken))]
    return {
        name: Latency(
            seconds=median(times),
            quartiles=_quartiles(times),
            ratio=median(t / t0 for t, t0 in zip(times, first, strict=True)),
            rounds=rounds,
            calls=calls[name],
            device=str(device),
            threads=threads,
            runtime=runtime,
            load=load,
        )
        for name, times in taken.items()
    }


def _calls(model: Call, device: torch.device) -> int:
    """How many calls last a block; finding it is the warm-up."""
    calls = 1
    while (seconds := _block(model, calls, device)) < BLOCK_SECONDS:
        # At most tenfold, since the first calls are slower than those to come.
        calls = max(calls + 1, min(10 * calls, int(1.2 * calls * BLOCK_SECONDS / seconds)))
    return calls


def _block(model: Call, calls: int, device: torch.device) -> float:
    _wait(device)
    started = perf_counter()
    for _ in range(calls):
        model()
    _wait(device)
    return perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _load() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _quartiles(times: list[float]) -> tuple[float, float]:
    if len(times) == 1:
        return times[0], times[0]
    low, _, high = quantiles(times, n=4, method="inclusive")
    return low, high


def _many(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
