"""How long a forward pass takes where it runs: in torch, ONNX Runtime or OpenVINO."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from lissom.arguments import as_annotated, shown
from lissom.errors import LissomError, nearest
from lissom.exporting import export
from lissom.exporting.exporters import first_line
from lissom.exporting.runtime import in_onnxruntime, in_openvino
from lissom.running import ExampleInputs, Inputs, as_inputs, evaluating, run, unchanged
from lissom.turns import Call, Latency, in_turns

Model = Callable[..., Any] | str | os.PathLike[str]


@dataclass(frozen=True)
class Runtime:
    """What runs networks.

    Attributes:
        name: as people write it.
        prepare: prepare(name, model, inputs, threads) makes the call that is timed.
        needs: packages that have to be there.
    """

    name: str
    prepare: Callable[[str, Model, Inputs, int], Call]
    needs: tuple[str, ...] = ()


@as_annotated(LissomError, "models", "example_inputs", "runtime")
def latency(
    models: Mapping[str, Model],
    example_inputs: ExampleInputs,
    *,
    runtime: str = "torch",
    threads: int | None = None,
    rounds: int = 15,
) -> dict[str, Latency]:
    """How long one call of each model takes on the example inputs, in the runtime that will run it.

        lissom.latency({"dense": net, "small": lissom.shrink(net, x)}, x, runtime="onnxruntime")

    After a warm-up that also finds how many calls last 20 ms, the models take turns: in each round,
    every model has one block of that many calls, so that a slower minute of the machine slows them
    all. Torch's calls are made in inference mode, modules are put in eval mode, and an accelerator
    is waited for before a clock is read. For ONNX Runtime and OpenVINO, which run on the CPU here,
    networks are written by `lissom.export` to a temporary file.

    Args:
        models: networks by name; ratios are to the first. In torch functions too, in the other
            runtimes files of ONNX.
        example_inputs: their inputs, a tensor or a tuple of tensors, on the device to measure.
        runtime: "torch" (eager), "onnxruntime" or "openvino".
        threads: of the runtime on the CPU; as many as torch has if not given.
        rounds: turns of each model, ≥ 1.

    Raises:
        LissomError: no model, one that the runtime cannot run on example_inputs, inputs that are
            not tensors, a runtime that is unknown or not installed, or impossible rounds or
            threads.
    """
    if not isinstance(models, Mapping) or not models:
        raise LissomError(f'latency needs models by name, such as {{"dense": net}}, got {models!r}')
    prepare = runtime_named(runtime).prepare
    for what, number in (("rounds", rounds), ("threads", 1 if threads is None else threads)):
        if number < 1:
            raise LissomError(f"{what} is a whole number ≥ 1, got {number!r}")
    inputs = as_inputs(example_inputs)
    devices = [x.device for x in inputs.tensors] if runtime == "torch" else [torch.device("cpu")]
    device = next((device for device in devices if device.type != "cpu"), devices[0])
    nets = models.values()
    with _threads(threads) as used, evaluating(*nets), unchanged(*nets):
        calls = {name: prepare(name, model, inputs, used) for name, model in models.items()}
        with torch.inference_mode():
            return in_turns(calls, rounds=rounds, device=device, threads=used, runtime=runtime)


def runtime_named(name: object) -> Runtime:
    """A runtime that is there.

    Raises:
        LissomError: if it is unknown, or not installed.
    """
    if not isinstance(name, str) or name not in RUNTIMES:
        known = " or ".join(map(repr, RUNTIMES))
        hint = nearest(name, RUNTIMES) if isinstance(name, str) else ""
        raise LissomError(f"a runtime is {known}, got {shown(name)}.{hint}")
    for package in RUNTIMES[name].needs:
        if find_spec(package) is None:
            raise LissomError(
                f"latency in {RUNTIMES[name].name} needs {package}, which is not installed: "
                f"pip install 'lissom[{'openvino' if name == 'openvino' else 'onnx'}]'"
            )
    return RUNTIMES[name]


def _in_torch(name: str, model: Model, inputs: Inputs, threads: int) -> Call:
    if not callable(model):
        raise LissomError(f"the model {name!r} is not callable: {model!r}")
    with torch.inference_mode():
        run(model, inputs, name)
    own = inputs.map(torch.clone)  # into which the model may write
    return partial(model, *own.args, **own.kwargs)


def _from_onnx(
    open_file: Callable[[Path, Inputs, int], Call],
    name: str,
    model: Model,
    inputs: Inputs,
    threads: int,
) -> Call:
    """What runs a file, or a network once it is written to one."""
    with TemporaryDirectory() as folder:
        if isinstance(model, nn.Module):
            with torch.inference_mode():
                run(model, inputs, name)
            path = export(model, inputs, Path(folder) / "model.onnx", check=False).path
        elif isinstance(model, str | os.PathLike):
            path = Path(model)
        else:
            raise LissomError(
                f"the model {name!r} is to be a network (torch.nn.Module) or a file of ONNX, got "
                f"{shown(model)}: only torch runs functions"
            )
        try:
            call = open_file(path, inputs, threads)
            call()
        except LissomError:
            raise
        except Exception as error:  # what a runtime raises differs by runtime
            raise LissomError(
                f"{name} cannot run on example_inputs of shape {inputs}: {first_line(error)}"
            ) from error
    return call


RUNTIMES = {
    "torch": Runtime("torch", _in_torch),
    "onnxruntime": Runtime(
        "ONNX Runtime",
        partial(_from_onnx, in_onnxruntime),
        ("onnx", "onnxscript", "onnxruntime"),
    ),
    "openvino": Runtime(
        "OpenVINO", partial(_from_onnx, in_openvino), ("onnx", "onnxscript", "openvino")
    ),
}


@contextmanager
def _threads(number: int | None) -> Iterator[int]:
    """So many threads of torch for a while; how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
