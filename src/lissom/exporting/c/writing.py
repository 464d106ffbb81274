"""NAME.c and NAME.h: a network as C99 that needs nothing but <stdint.h>."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lissom.exporting.c.arena import Arena, planned
from lissom.exporting.c.kernels import Function, Run, cheapest
from lissom.exporting.c.layers import Gather, Layer, Network, Scale, Value, as_map

WIDTH = 100


@dataclass(frozen=True, eq=False)
class Program:
    """A network as calls of functions in C.

    Attributes:
        network: in floats or integers.
        runs: the calls of each layer.
        names: of each layer in C.
        arena: the plan of the memory.
    """

    network: Network
    runs: tuple[tuple[Run, ...], ...]
    names: tuple[str, ...]
    arena: Arena

    @property
    def copies_input(self) -> bool:
        """Whether the input must be put in order, channels last, before it is read."""
        height, width, channels = self.network.input.shape
        return channels > 1 and height * width > 1

    @property
    def ordered_output(self) -> bool:
        """Whether the last layer writes the outputs in the order of the user's network."""
        return _in_order(self.network)

    @property
    def functions(self) -> list[Function]:
        """All that is called, each after those that it calls."""
        return list(dict.fromkeys(function for run in self.calls for function in run.function.all))

    @property
    def calls(self) -> list[Run]:
        """All calls in their order."""
        return [run for runs in self.runs for run in runs]


def programmed(network: Network) -> Program:
    """The calls that run a network."""
    height, width, channels = network.input.shape
    outside = {network.output} if _in_order(network) else set()
    if network.scale is None and (channels == 1 or height * width == 1):
        outside.add(network.input)
    runs = tuple(tuple(runs) for runs in cheapest(network.layers))
    return Program(network, runs, tuple(_names(network.layers)), planned(network, outside))


def _in_order(network: Network) -> bool:
    return torch.equal(network.order, torch.arange(network.output.entries)) and any(
        layer.output is network.output and not isinstance(layer, Gather) for layer in network.layers
    )


def _names(layers: Iterable[Layer]) -> list[str]:
    """Names of layers as beginnings of identifiers, all of them different."""
    names: list[str] = []
    for layer in layers:
        base = "".join(c if c.isascii() and c.isalnum() else "_" for c in layer.name) or "layer"
        base = f"layer{base}" if base[0].isdigit() else base
        name, number = base, 2
        while name in names:
            name, number = f"{base}_{number}", number + 1
        names.append(name)
    return names


def source(program: Program, name: str) -> str:
    """The text of NAME.c."""
    return "\n".join(
        [
            f'/* Written by lissom; {name}.h says how to call it. */\n#include "{name}.h"\n',
            *(function.text for function in program.functions),
            *_constants(program),
            _run(program),
            *_entries(program, name),
        ]
    )


def header(program: Program, name: str) -> str:
    """The text of NAME.h."""
    network, upper = program.network, name.upper()
    inputs, outputs = math.prod(network.channels_first), len(network.order)
    entry = ""
    if program.network.scale is not None:
        entry = f"""
/* The same for inputs that are integers already: (q - {program.network.scale.zero}) * {program.network.scale.step:.9g} each. */
void {name}_infer_u8(const uint8_t *in, float *out, void *arena);
"""
    return f"""\
/* A network of {len(network.layers)} layers, written by lissom. */
#ifndef {upper}_H
#define {upper}_H

#include <stdint.h>

#define {upper}_INPUTS {inputs}
#define {upper}_OUTPUTS {outputs}
#define {upper}_ARENA_BYTES {max(program.arena.bytes, 1)}

#ifdef __cplusplus
extern "C" {{
#endif

/* Computes {upper}_OUTPUTS numbers from {upper}_INPUTS, an input of shape {list(network.channels_first)}.
   arena is memory of {upper}_ARENA_BYTES, aligned to 4 bytes, which holds nothing between calls. */
void {name}_infer(const float *in, float *out, void *arena);
{entry}
#ifdef __cplusplus
}}
#endif

#endif
"""


def _constants(program: Program) -> list[str]:
    texts = []
    for name, runs in zip(program.names, program.runs, strict=True):
        for run in runs:
            for key, constant in run.constants.items():
                texts.append(_array(constant.type, f"{name}_{key}", constant.entries))
    return texts


def _array(kind: str, name: str, entries: Tensor) -> str:
    literals = [_number(x, kind) for x in entries.flatten().tolist()]
    lines, line = [], "   "
    for literal in literals:
        if len(line) + len(literal) + 2 > WIDTH:
            lines.append(line)
            line = "   "
        line += f" {literal},"
    body = "\n".join([*lines, line])
    return f"static const {kind} {name}[{len(literals)}] = {{\n{body}\n}};\n"


def _number(x: Any, kind: str) -> str:
    if kind != "float":
        return str(int(x))
    if math.isinf(x):
        return "-3.402823466e+38f" if x < 0 else "3.402823466e+38f"
    text = f"{x:.9g}"
    return f"{text}f" if any(c in text for c in ".e") else f"{text}.0f"


def _run(program: Program) -> str:
    """The function of all calls."""
    kind = "float" if program.network.scale is None else "uint8_t"
    lines = []
    for layer, name, runs in zip(program.network.layers, program.names, program.runs, strict=True):
        for run in runs:
            places = {"y": _place(program, layer.output)}
            for number, value in enumerate(layer.inputs):
                places[f"x{number or ''}"] = _place(program, value)
            words = {**places, **{key: f"{name}_{key}" for key in run.constants}}
            arguments = ", ".join(
                _number(x, "float")
                if isinstance(x, float)
                else x.format(**words)
                if isinstance(x, str)
                else str(x)
                for x in run.arguments
            )
            lines.append(f"    {run.function.name}({arguments});")
    output = program.network
    if not program.ordered_output:
        place = _place(program, output.output)
        order = ", ".join(str(int(x)) for x in output.order)
        lines.append(f"    static const uint16_t order[{len(output.order)}] = {{{order}}};")
        lines.append(f"    for (int k = 0; k < {len(output.order)}; k++)")
        lines.append(f"        out[k] = (({place}))[order[k]];")
    body = "\n".join(lines)
    return f"static void run(const {kind} *x, float *out, uint8_t *arena)\n{{\n{body}\n}}\n"


def _place(program: Program, value: Value) -> str:
    """Where a value lies, as an expression in C."""
    if value is program.network.input:
        return "x"
    if value not in program.arena.offsets:
        return "out"
    offset = program.arena.offsets[value]
    place = f"arena + {offset}" if offset else "arena"
    return place if value.type == "uint8_t" else f"(float *)(void *)({place})"


def _quantized(scale: Scale) -> str:
    """The function that makes an integer of a float input.

    Floats that are not negative are in the order of their bits, and whole numbers are quicker to
    compare: on a Cortex-M0 by far.
    """
    nearest, within = "(halves + 1) >> 1", "twice.bits >= 0x43ff0000"  # 510, or negative
    if scale.zero:
        nearest = f"(halves + (halves < 0 ? -1 : 1)) / 2 + {scale.zero}"
        nearest = f"{nearest};\n    halves = halves < 0 ? 0 : halves > 255 ? 255 : halves"
        within = "(twice.bits & 0x7fffffff) >= 0x44000000"  # 512 in size
    return f"""\
/* The integer nearest to in / {scale.step:.9g}, halves away from 0, plus {scale.zero}. */
static uint8_t quantized(float in)
{{
    union {{ float number; uint32_t bits; }} twice;
    int32_t halves;
    twice.number = in * {_number(float(torch.tensor(2 / scale.step)), "float")};
    if ({within})
        return twice.bits <= 0x7f800000 ? 255 : 0;
    halves = (int32_t)twice.number;
    halves = {nearest};
    return (uint8_t)halves;
}}
"""


def _entries(program: Program, name: str) -> list[str]:
    """The functions that are called from outside."""
    network, scale = program.network, program.network.scale
    channels, height, width = as_map(network.channels_first)
    entries = channels * height * width
    begin = program.arena.offsets.get(network.input, 0)
    kind = "float" if scale is None else "uint8_t"
    place = f"({kind} *)((uint8_t *)arena + {begin})" if kind == "uint8_t" else "(float *)arena"
    ordered = (
        f"""\
    {kind} *x = {place};
    for (int c = 0; c < {channels}; c++)
        for (int k = 0; k < {height * width}; k++)
            x[k * {channels} + c] = VALUE;
    run(x, out, arena);
"""
        if program.copies_input
        else "    run(in, out, arena);\n"
    )
    if scale is None:
        body = ordered.replace("VALUE", "*in++")
        return [f"void {name}_infer(const float *in, float *out, void *arena)\n{{\n{body}}}\n"]
    convert = _quantized(scale)
    floats = (
        f"""\
    uint8_t *x = (uint8_t *)arena + {begin};
    for (int c = 0; c < {channels}; c++)
        for (int k = 0; k < {height * width}; k++)
            x[k * {channels} + c] = quantized(*in++);
    run(x, out, arena);
"""
        if program.copies_input
        else f"""\
    uint8_t *x = (uint8_t *)arena + {begin};
    for (int k = 0; k < {entries}; k++)
        x[k] = quantized(in[k]);
    run(x, out, arena);
"""
    )
    return [
        convert,
        f"void {name}_infer(const float *in, float *out, void *arena)\n{{\n{floats}}}\n",
        f"void {name}_infer_u8(const uint8_t *in, float *out, void *arena)\n{{\n"
        f"{ordered.replace('VALUE', '*in++')}}}\n",
    ]
