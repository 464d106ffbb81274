"""What of a model is not zero, and what it costs in MACs, bytes and seconds."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import nn

from lissom.arguments import as_annotated
from lissom.coupling import trace
from lissom.errors import LissomError, OperatorError
from lissom.measuring.macs import of_one_example, owners
from lissom.measuring.measurement import Layer, Measurement, Variable
from lissom.measuring.runtimes import latency, runtime_named
from lissom.measuring.units import neurons, rounded, without_dead
from lissom.methods import require_plain
from lissom.parametrized import plain
from lissom.running import ExampleInputs, Inputs, as_inputs, require_numbers
from lissom.shards import gathered
from lissom.sparse_sizes import Storage, storage
from lissom.turns import Latency

__all__ = ["Latency", "Layer", "Measurement", "Storage", "Variable", "latency", "measure"]


@torch.no_grad()
@as_annotated(LissomError, "example_inputs")
def measure(
    model: nn.Module,
    example_inputs: ExampleInputs | None = None,
    *,
    tolerance: float = 0.0,
    latency: bool = False,
    runtime: str = "torch",
) -> Measurement:
    """What a model has that is not zero, and what it costs: weights, neurons, MACs, bytes, seconds.

    The model is run in eval mode on the example inputs, and left as it was found.

    * Non-zeros are counted by variable and by layer, biases included, buffers not. Of a weight that
      is computed (weight_norm, parametrizations) it is its own numbers that count.
    * MACs are what the records of the operators that run say (`lissom.operators`), for one example
      of the batch, which is the first dim of the first input where an output has it too. What is
      computed once for a batch counts whole.
      Additions of biases, normalisation and activation functions are none.
      A weight that is used several times counts each time. The effective MACs of a weight are its
      MACs times the fraction of it that is not zero.
    * Bytes are those of the parameters, without names and shapes: dense, and with each tensor in
      the smallest of the formats dense, bitmap, CSR, COO and run-length, indices included; and by
      entropy, which is what an arithmetic coder comes near, also for codebooks.
    * The neurons and weights of the network that `lissom.shrink` makes of this one.

    Args:
        model: any module; every parameter is counted, biases too, and no buffer.
        example_inputs: a tensor that the model runs on, such as `torch.rand(1, 784)`, a tuple of
            arguments or a dict of keywords. Without, non-zeros and bytes are all that is known.
        tolerance: |w| ≤ tolerance counts as zero. The default counts exact zeros; Henrikson's
            article takes 1e-5.
        latency: measure the time of a forward pass as well, as `lissom.latency` does, in turns with
            the shrunk network.
        runtime: what runs it: "torch", "onnxruntime" or "openvino".

    Raises:
        LissomError: if the tolerance is negative, the model has no parameters or none yet,
            example_inputs holds anything but tensors, the model cannot run on it, a latency is
            asked for without it, or the runtime is unknown or not installed.
    """
    if not tolerance >= 0:
        raise LissomError(
            f"a tolerance is a size ≥ 0 below which weights count as zero, got {tolerance!r}"
        )
    runtime_named(runtime)
    require_plain(model, "measure")
    require_numbers(model)
    model = plain(model)
    parameters = {name: gathered(parameter) for name, parameter in model.named_parameters()}
    zeros = {name: p.abs() <= tolerance for name, p in parameters.items()}
    variables = tuple(
        Variable(name, p.numel() - int(zeros[name].sum()), p.numel())
        for name, p in parameters.items()
    )
    if not any(variable.weights for variable in variables):
        raise LissomError(f"{type(model).__name__} has no parameters to measure")
    counted = Measurement(
        variables,
        tolerance,
        layers=_layers(model, variables),
        storage=tuple(storage(name, p, zeros[name]) for name, p in parameters.items()),
    )
    if example_inputs is None:
        if latency:
            raise LissomError(
                "a latency needs inputs: measure(model, example_inputs, latency=True)"
            )
        return counted
    return _run(model, as_inputs(example_inputs), counted, runtime if latency else None)


def _layers(model: nn.Module, variables: Iterable[Variable]) -> tuple[Layer, ...]:
    """Modules with parameters of their own, in the order of `model.modules()`."""
    counted = {variable.name: variable for variable in variables}
    held = owners(model)
    own = {
        layer: [counted[name] for name, layers in held.items() if layers[0] == layer]
        for layer in {layer for layers in held.values() for layer in layers}
    }
    return tuple(
        Layer(
            layer,
            type(module).__name__,
            nonzeros=sum(variable.nonzeros for variable in own[layer]),
            weights=sum(variable.weights for variable in own[layer]),
        )
        for layer, module in model.named_modules()
        if layer in own
    )


def _run(
    model: nn.Module, inputs: Inputs, counted: Measurement, runtime: str | None
) -> Measurement:
    """Add what only a run on the example inputs can tell; latencies in a runtime."""
    done = of_one_example(model, inputs)
    by_name = {variable.name: variable for variable in counted.variables}
    macs: Counter[str] = Counter()
    effective: Counter[str] = Counter()
    for (layer, name), count in done.macs.items():
        macs[layer] += count
        alive = by_name[name].nonzeros
        effective[layer] += count * alive // by_name[name].weights
    place = {layer: i for i, layer in enumerate(done.shapes)}
    layers = tuple(
        replace(
            layer,
            shape=done.shapes.get(layer.name),
            macs=macs[layer.name],
            effective_macs=effective[layer.name],
        )
        for layer in sorted(counted.layers, key=lambda layer: place.get(layer.name, len(place)))
    )
    multiplied = {name for _, name in done.macs}
    uncounted = tuple(
        name
        for name, layers_of in owners(model).items()
        if model.get_parameter(name).dim() > 1
        and name not in multiplied
        and any(layer in done.shapes for layer in layers_of)
    )
    left = small = unshrunk = None
    try:
        zeroed = rounded(model, counted.tolerance)
        traced = trace(zeroed, inputs)
        left = neurons(zeroed, inputs, traced)
        small = without_dead(zeroed, inputs, traced)
    except OperatorError:
        raise
    except LissomError as error:
        unshrunk = str(error)
    networks = {"model": model} if small is None else {"model": model, "small": small}
    times = latency(networks, inputs, runtime=runtime) if runtime else {}
    return replace(
        counted,
        layers=layers,
        examples=done.examples,
        macs=done.total,
        effective_macs=done.total - sum(macs.values()) + sum(effective.values()),
        uncounted=uncounted,
        neurons=left,
        shrunk_weights=None if small is None else sum(p.numel() for p in small.parameters()),
        unshrunk=unshrunk,
        latency=times.get("model"),
        shrunk_latency=times.get("small"),
    )
