"""C for a microcontroller: a network as NAME.c and NAME.h, in int8 or float32."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from lissom.errors import LissomError
from lissom.exporting.c.compiling import compiled, compiler, flash_on_cortex_m4
from lissom.exporting.c.costs import Cost, LayerCost, cost_of
from lissom.exporting.c.fusing import fused
from lissom.exporting.c.integers import beyond, quantized, ranges_of
from lissom.exporting.c.layers import Product
from lissom.exporting.c.operators import read
from lissom.exporting.c.reference import Reference, maps
from lissom.exporting.c.writing import header, programmed, source
from lissom.exporting.checking import Written, allowed, compare, require_finite
from lissom.exporting.tracing import traced
from lissom.running import ExampleInputs, Inputs, answers, as_inputs, evaluating, named_tensors

__all__ = ["Cost", "LayerCost", "Reference", "reference", "write"]

HEADERS = {
    *("assert", "complex", "ctype", "errno", "fenv", "float", "inttypes", "iso646", "limits"),
    *("locale", "math", "setjmp", "signal", "stdarg", "stdbool", "stddef", "stdint", "stdio"),
    *("stdlib", "string", "tgmath", "time", "wchar", "wctype"),
}
COMPARED = 100  # inputs to calibrate on on which the network is compared, too


def reference(
    model: nn.Module, example_inputs: ExampleInputs, int8: ExampleInputs | None = None
) -> Reference:
    """What the C of a network computes, as a module on batches.

    Raises:
        LissomError: a layer has no form in C, with its name and what has; a weight is NaN or
            infinite; inputs to calibrate on are of another shape.
    """
    return _references(model, as_inputs(example_inputs), int8)[-1]


def _references(
    model: nn.Module, inputs: Inputs, int8: ExampleInputs | None
) -> tuple[Reference, ...]:
    """That of floats and, with inputs to calibrate on, that of integers behind it."""
    require_finite(named_tensors(model), "C")
    with evaluating(model):
        as_read = read(traced(model, inputs.with_batch(1), fixed=True)[0])
    network = fused(as_read)
    products = [layer for layer in network.layers if isinstance(layer, Product)]
    weights = [torch.cat([layer.weight.flatten(), layer.bias]) for layer in products]
    names = [f"{x.name or 'the network'}, with what is folded into it," for x in products]
    require_finite(zip(names, weights, strict=True), "C")
    floats = Reference(network)
    if int8 is None:
        return (floats,)
    shape = list(inputs.tensors[0].shape[1:])
    seen = as_inputs(int8)
    if [list(x.shape[1:]) for x in seen.tensors] != [shape]:
        sizes = ", ".join(map(str, ["n", *shape]))
        raise LissomError(f"int8 takes inputs to calibrate on, a tensor [{sizes}], got {seen}")
    (x,) = seen.tensors
    ranges = ranges_of(network, maps(x, network))
    if apart := beyond(network, ranges):
        network = fused(as_read, apart)
        ranges = ranges_of(network, maps(x, network))
    return floats, Reference(quantized(network, ranges))


def write(model: nn.Module, inputs: Inputs, path: Path, int8: ExampleInputs | None) -> Written:
    """Write NAME.c and NAME.h.

    Raises:
        LissomError: as `reference`, or the file's name is none in C.
    """
    name = path.stem
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        better = re.sub(r"[^A-Za-z0-9]", "_", name).lstrip("_0123456789") or "net"
        raise LissomError(
            f"functions in C are named after the file, so its name is of letters, digits and _: "
            f"{better}.c, for example, and not {path.name}"
        )
    if name.lower() in HEADERS:
        raise LissomError(
            f"{path.name} has {name}.h beside it, which would hide C's own <{name.lower()}.h>: "
            f"take {name}_net.c, for example"
        )
    calibration = None if int8 is None else as_inputs(int8)
    floats, *integers = _references(model, inputs, calibration)
    module = integers[0] if integers else floats
    program = programmed(module.network)
    path.write_text(source(program, name), encoding="utf-8")
    path.with_suffix(".h").write_text(header(program, name), encoding="utf-8")
    cost = replace(cost_of(program), compiled=flash_on_cortex_m4(path))
    if compiler() is not None:
        infer = compiled(path, program.arena.bytes, len(module.network.order))
        _require_same(infer, module, inputs, calibration, path)
    difference = None
    if calibration is not None:
        x = calibration.tensors[0][:COMPARED]
        here = torch.cat([_output(model, inputs, one) for one in x.split(1)])
        _require_read(floats(x), here, path)
        _, difference = compare(module(x), here)

    def runner(given: Inputs) -> list[Tensor]:
        return [module(given.tensors[0])]

    return Written(lambda: runner, False, difference=difference, cost=cost)


def _output(model: nn.Module, inputs: Inputs, x: Tensor) -> Tensor:
    """The network's own output for an example."""
    (output,) = answers(model, inputs.map(lambda given: x.to(given.device, given.dtype)))
    return output


def _require_read(there: Tensor, here: Tensor, path: Path) -> None:
    """Refuse what was misread, which the difference that integers may have would hide."""
    absolute, difference = compare(there, here)
    if not difference <= allowed(torch.float32, here.dtype):
        raise LissomError(
            f"{path.name} differs from the network already in float32, so it was not written: by "
            f"up to {absolute:.3g}, which is {difference:.3g} of the largest output"
        )


def _require_same(
    infer: Callable[[Tensor], Tensor],
    module: Reference,
    inputs: Inputs,
    calibration: Inputs | None,
    path: Path,
) -> None:
    """Refuse C that a compiler makes something else of than what it was written for.

    Where an answer is not finite, as a logarithm of random numbers, C need not say what torch does.
    """
    shape = (3, *module.network.channels_first)
    given = [x.tensors[0][:COMPARED].cpu().float() for x in (inputs, calibration) if x is not None]
    x = torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(0)), *given])
    expected = module(x)
    finite = expected.reshape(len(expected), -1).isfinite().all(1)
    x, expected = x[finite], expected[finite]
    absolute, difference = compare(infer(x).reshape(expected.shape), expected)
    if not difference <= (0.0 if calibration is not None else allowed(torch.float32)):
        raise LissomError(
            f"{path.name}, compiled here, differs from its reference by up to {absolute:.3g}, so "
            "it was not written"
        )
