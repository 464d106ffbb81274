"""Files of ONNX, opened by the programs that run them on the CPU."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lissom.exporting.exporters import optional
from lissom.running import Inputs
from lissom.turns import Call


def in_onnxruntime(path: Path, threads: int) -> Any:
    """A session of ONNX Runtime."""
    runtime = optional("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Threads that wait actively take the cores from whoever has a turn on them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def answers(session: Any, inputs: Inputs) -> list[Tensor]:
    """What a session of ONNX Runtime answers to inputs."""
    return [torch.from_numpy(value) for value in session.run(None, _feed(session, inputs))]


def onnxruntime_call(path: Path, inputs: Inputs, threads: int) -> Call:
    """What runs a file on these inputs in ONNX Runtime."""
    session = in_onnxruntime(path, threads)
    feed = _feed(session, inputs)
    return lambda: session.run(None, feed)


def openvino_call(path: Path, inputs: Inputs, threads: int) -> Call:
    """What runs a file on these inputs in OpenVINO, compiled for their shapes."""
    core = optional("openvino", extra="openvino").Core()
    feed = {i: x.detach().cpu().numpy() for i, x in enumerate(inputs.tensors)}
    network = core.read_model(path)
    network.reshape({i: list(array.shape) for i, array in feed.items()})
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",  # which is bfloat16 on some processors otherwise
    }
    request = core.compile_model(network, "CPU", options).create_infer_request()
    return lambda: request.infer(feed, share_inputs=True, share_outputs=True)


def _feed(session: Any, inputs: Inputs) -> dict[str, Any]:
    names = [value.name for value in session.get_inputs()]
    return dict(zip(names, (x.detach().cpu().numpy() for x in inputs.tensors), strict=True))
