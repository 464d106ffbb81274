"""C for a microcontroller: a network as NAME.c and NAME.h, in int8 or float32."""

import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from lissom.errors import LissomError
from lissom.exporting.c.compiling import compiled, compiler, flash_on_cortex_m4
from lissom.exporting.c.costs import Cost, LayerCost, cost_of
from lissom.exporting.c.integers import quantized
from lissom.exporting.c.reading import read
from lissom.exporting.c.reference import Reference, maps
from lissom.exporting.c.writing import header, programmed, source
from lissom.exporting.checking import allowed, compare
from lissom.exporting.tracing import traced_as_given
from lissom.running import Inputs, leaves, run

__all__ = ["Cost", "LayerCost", "Reference", "reference", "write"]

COMPARED = 100  # examples to calibrate on that are compared, too


def reference(model: nn.Module, inputs: Inputs, calibration: Inputs | None) -> Reference:
    """What the C of a network computes, as a module on batches.

    Raises:
        LissomError: a layer has no form in C, with its name and what has; inputs to calibrate on
            are of another shape than those of the network.
    """
    network = read(traced_as_given(model, inputs.with_batch(1)))
    if calibration is None:
        return Reference(network)
    (x,) = inputs.tensors
    found = [list(given.shape[1:]) for given in calibration.tensors]
    if found != [list(x.shape[1:])]:
        raise LissomError(
            f"int8 takes inputs to calibrate on as one tensor of shape [n, "
            f"{', '.join(map(str, x.shape[1:]))}], got {calibration}"
        )
    return Reference(quantized(network, maps(calibration.tensors[0], network)))


def write(
    model: nn.Module,
    inputs: Inputs,
    path: Path,
    calibration: Inputs | None,
    check: bool,
    tolerance: float | None,
) -> tuple[float | None, Cost]:
    """Write NAME.c and NAME.h; the difference to the network, and what it takes.

    The C is compiled and compared with its reference where there is a compiler, and the reference
    with the network.

    Raises:
        LissomError: as `reference`, or what was written does not compute what it must.
    """
    name = path.stem
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise LissomError(
            f"functions in C are named after the file, as {path.name}: letters, digits and _, a "
            f"letter first; call it {re.sub(r'^[^A-Za-z]*', 'net_', re.sub(r'[^A-Za-z0-9]', '_', name))}.c"
        )
    module = reference(model, inputs, calibration)
    program = programmed(module.network)
    path.write_text(source(program, name), encoding="utf-8")
    path.with_suffix(".h").write_text(header(program, name), encoding="utf-8")
    cost = replace(cost_of(program), compiled=flash_on_cortex_m4(path))
    if not check:
        return None, cost
    drawn = torch.randn(
        3, *module.network.channels_first, generator=torch.Generator().manual_seed(0)
    )
    seen = drawn if calibration is None else calibration.tensors[0][:COMPARED].cpu()
    if compiler() is not None:
        infer = compiled(path, program.arena.bytes, len(module.network.order))
        for x in (drawn, seen):
            _require_equal(infer(x), module(x).flatten(1), path, calibration is not None)
    here = torch.cat([_output(model, inputs, x) for x in seen.split(1)])
    absolute, difference = compare(module(seen), here)
    limit = tolerance
    if limit is None and calibration is None:
        limit = max(allowed(torch.float32), allowed(here.dtype))
    if limit is not None and not difference <= limit:
        raise LissomError(
            f"{path.name} differs from the network, so it was not written: by up to {absolute:.3g}, "
            f"which is {difference:.3g} of the largest output; {limit:.3g} is allowed (tolerance)"
        )
    return difference, cost


def _require_equal(found: Tensor, expected: Tensor, path: Path, exactly: bool) -> None:
    """Refuse C that a compiler makes something else of than what it was written for."""
    absolute, difference = compare(found, expected)
    if not difference <= (0 if exactly else allowed(torch.float32)):
        raise LissomError(
            f"{path.name}, compiled here, differs from its reference by up to {absolute:.3g}, so it "
            "was not written"
        )


def _output(model: nn.Module, inputs: Inputs, x: Tensor) -> Tensor:
    """The output of the network for one example."""
    (output,) = leaves(run(model, inputs.map(lambda given: x.to(given.device, given.dtype))))
    return output.detach().cpu()
