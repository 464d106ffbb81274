"""ONNX Runtime on the CPU: what was written, as a function, and how long it takes."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor

from lissom.exporting.checking import Runner
from lissom.exporting.exporters import optional
from lissom.running import Inputs

SECONDS, ROUNDS = 0.5, 3  # how long networks are timed together, and how often at least


def opened(source: Path | bytes) -> Runner:
    """A file of ONNX, or what would be in it, as a function of the inputs.

    Raises:
        LissomError: ONNX Runtime is not installed.
    """
    runtime = optional("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    fed = [value.name for value in session.get_inputs()]

    def run_session(inputs: Inputs) -> list[Tensor]:
        arrays = [x.cpu().numpy() for x in inputs.tensors]
        feed = dict(zip(fed, arrays, strict=True))
        return [torch.from_numpy(value) for value in session.run(None, feed)]

    return run_session


def timed(runners: Sequence[Runner], inputs: Inputs) -> list[float]:
    """The shortest call of each in seconds, taking turns; all of it lasts less than a second.

    Where calls are so long that they have no `ROUNDS` turns by then, it takes as long as these.
    """
    shortest = [float("inf")] * len(runners)
    for runner in runners:  # a first call reserves memory
        runner(inputs)
    began, rounds = perf_counter(), 0
    while rounds < ROUNDS or perf_counter() - began < SECONDS:
        for i, runner in enumerate(runners):
            started = perf_counter()
            runner(inputs)
            shortest[i] = min(shortest[i], perf_counter() - started)
        rounds += 1
    return shortest
