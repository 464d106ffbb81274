"""Files of ONNX in the programs that run them on the CPU, and how long they take."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from lissom.exporting.checking import Runner
from lissom.exporting.exporters import optional
from lissom.running import ExampleInputs, Inputs, as_inputs, evaluating, run, unchanged
from lissom.turns import Call

SECONDS, ROUNDS = 0.5, 3  # how long networks are timed together, and how often at least


def opened(source: Path | bytes) -> Runner:
    """A file of ONNX, or what would be in it, as a function of the inputs, in ONNX Runtime.

    Raises:
        LissomError: ONNX Runtime is not installed.
    """
    session = session_of(source, torch.get_num_threads())

    def run_session(inputs: Inputs) -> list[Tensor]:
        return [torch.from_numpy(value) for value in session.run(None, feed_of(session, inputs))]

    return run_session


class Opened(nn.Module):
    """A file of ONNX as a module, which answers in the form of its network.

    Args:
        path: the file.
        model: its network.
        example_inputs: what the network runs on; of their batch size, where the file takes no
            other.
        dynamic: whether it takes any.
    """

    def __init__(
        self, path: Path, model: nn.Module, example_inputs: ExampleInputs, *, dynamic: bool
    ) -> None:
        super().__init__()
        inputs = as_inputs(example_inputs)
        self._run, self._batch = opened(path), None if dynamic else inputs.batch
        with evaluating(model), unchanged(model), torch.no_grad():
            self._form = torch.utils._pytree.tree_structure(run(model, inputs))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the file gives, on the CPU; a file of one batch size in several calls."""
        inputs = Inputs(args, kwargs)
        examples = inputs.batch
        parts = [self._run(chunk) for chunk in inputs.chunks(self._batch or examples)]
        found = [torch.cat(several)[:examples] for several in zip(*parts, strict=True)]
        return torch.utils._pytree.tree_unflatten(found, self._form)


def in_onnxruntime(source: Path | bytes, inputs: Inputs, threads: int) -> Call:
    """What runs a file of ONNX on these inputs in ONNX Runtime."""
    session = session_of(source, threads)
    feed = feed_of(session, inputs)
    return lambda: session.run(None, feed)


def in_openvino(source: Path, inputs: Inputs, threads: int) -> Call:
    """What runs a file of ONNX on these inputs in OpenVINO, compiled for their shapes."""
    core = optional("openvino", extra="openvino").Core()
    feed = {i: x.detach().cpu().numpy() for i, x in enumerate(inputs.tensors)}
    network = core.read_model(source)
    network.reshape({i: list(array.shape) for i, array in feed.items()})
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",  # which is bfloat16 on some processors otherwise
    }
    request = core.compile_model(network, "CPU", options).create_infer_request()
    return lambda: request.infer(feed, share_inputs=True, share_outputs=True)


def session_of(source: Path | bytes, threads: int) -> Any:
    """A session of ONNX Runtime."""
    runtime = optional("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Threads that wait actively take the cores from whoever has a turn on them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def feed_of(session: Any, inputs: Inputs) -> dict[str, Any]:
    """Inputs as a session of ONNX Runtime takes them."""
    names = [value.name for value in session.get_inputs()]
    return dict(zip(names, (x.detach().cpu().numpy() for x in inputs.tensors), strict=True))


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
