"""NAME.c and NAME.h: a network as C99 that includes nothing but <stdint.h>."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from string import Template

import torch
from torch import Tensor

from lissom.exporting.c.arena import Arena, planned
from lissom.exporting.c.kernels import Constant, Function, Run, cheapest, in_few_bytes
from lissom.exporting.c.layers import Activation, Gather, Layer, Network, Scale, Value, as_map

WIDTH = 100  # characters of a line


@dataclass(frozen=True, eq=False)
class Program:
    """A network as calls of functions in C.

    Attributes:
        network: of floats or of integers.
        runs: the calls of each layer.
        names: of each layer in C.
        arena: the plan of the memory.
        writes_outputs: whether the last layer writes them in the order of the user's network.
    """

    network: Network
    runs: tuple[tuple[Run, ...], ...]
    names: tuple[str, ...]
    arena: Arena
    writes_outputs: bool

    @property
    def order(self) -> Constant | None:
        """Where each output stands in what the last layer writes, if that is another order."""
        return None if self.writes_outputs else in_few_bytes(self.network.order)

    @property
    def bytes(self) -> int:
        """Of all constants."""
        of_layers = sum(run.bytes for runs in self.runs for run in runs)
        return of_layers + (0 if self.order is None else self.order.bytes)

    @property
    def functions(self) -> list[Function]:
        """All that is called, each after those that it calls."""
        calls = [run.function for runs in self.runs for run in runs]
        return list(dict.fromkeys(function for call in calls for function in call.all))


def programmed(network: Network) -> Program:
    """The calls that run a network."""
    runs = tuple(map(tuple, cheapest(network.layers)))
    writes_outputs = _writes_outputs(network)
    outside = {network.output} if writes_outputs else set()
    if network.scale is None and network.as_given:
        outside.add(network.input)
    names = tuple(_names(network.layers))
    return Program(network, runs, names, planned(network, outside), writes_outputs)


def _writes_outputs(network: Network) -> bool:
    last = next((x for x in network.layers if x.output is network.output), None)
    moves_nothing = isinstance(last, Gather) and last.moves_nothing
    in_order = torch.equal(network.order, torch.arange(network.output.entries))
    return in_order and last is not None and not moves_nothing


def _names(layers: Iterable[Layer]) -> list[str]:
    """Names of layers as beginnings of identifiers, all of them different."""
    names: list[str] = []
    for layer in layers:
        base = "".join(c if c.isascii() and c.isalnum() else "_" for c in layer.name)
        base = base if base[:1].isalpha() else f"layer{base}"
        name, number = base, 2
        while name in names:
            name, number = f"{base}_{number}", number + 1
        names.append(name)
    return names


HEADER = Template("""\
/* $name: $what, written by lissom.

$layers

   Flash: $flash bytes of constants, and code. RAM: ${NAME}_ARENA_BYTES, and some of the
   stack.$linked */

#ifndef ${NAME}_H
#define ${NAME}_H

#include <stdint.h>

#define ${NAME}_INPUTS $inputs /* $input_shape */
#define ${NAME}_OUTPUTS $outputs /* $output_shape */
#define ${NAME}_ARENA_BYTES $arena

#ifdef __cplusplus
extern "C" {
#endif

/* Computes ${NAME}_OUTPUTS numbers from ${NAME}_INPUTS, both in the order of the network
   ($input_shape: channels first). `arena` is ${NAME}_ARENA_BYTES of memory, aligned to 4 bytes; it
   holds nothing between two calls, and calls that do not share it may run at one time. */
void ${name}_infer(const float *in, float *out, void *arena);
$integers
#ifdef __cplusplus
}
#endif

#endif
""")

INTEGERS = Template("""
/* The same from integers q, which stand for $meaning. */
void ${name}_infer_u8(const uint8_t *in, float *out, void *arena);
""")


def header(program: Program, name: str) -> str:
    """The text of NAME.h."""
    network, scale = program.network, program.network.scale
    of_floats = [x for x in network.layers if isinstance(x, Activation) and x.table is None]
    called = sorted({name for layer in of_floats for name in layer.curve.calls})
    integers = ""
    if scale is not None:
        meaning = (
            f"(q - {scale.zero}) * {scale.step:.9g}" if scale.zero else f"q * {scale.step:.9g}"
        )
        if scale.step == 1 / 255 and not scale.zero:
            meaning = "q / 255: the bytes of an image"
        integers = INTEGERS.substitute(name=name, meaning=meaning)
    return HEADER.substitute(
        name=name,
        NAME=name.upper(),
        what="a network in float32" if scale is None else "a network in int8",
        layers="\n".join(_described(program)),
        flash=f"{program.bytes:,}",
        inputs=math.prod(network.channels_first),
        outputs=len(network.order),
        input_shape=_by(network.channels_first),
        output_shape=_by(network.shape),
        arena=max(program.arena.bytes, 1),
        integers=integers,
        linked=f" Link with -lm: it calls {', '.join(called)}." if called else "",
    )


def _described(program: Program) -> list[str]:
    """A line for each layer: its name, how it is run, what it writes."""
    layers = zip(program.network.layers, program.runs, strict=True)
    named = [(x.name.replace("*", " "), x, runs) for x, runs in layers if runs]  # ends no comment
    rows = [(name or "-", runs[0].kernel, _by(x.output.shape)) for name, x, runs in named]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
    return [f"   {name:{widths[0]}}  {how:{widths[1]}}  -> {shape}" for name, how, shape in rows]


def _by(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "1"


def source(program: Program, name: str) -> str:
    """The text of NAME.c."""
    parts = [f'/* Written by lissom; {name}.h says what it is. */\n\n#include "{name}.h"\n']
    parts += [function.text for function in program.functions]
    for layer, runs in zip(program.names, program.runs, strict=True):
        for run in runs:
            parts += [
                _array(x.type, f"{layer}_{key}", x.entries) for key, x in run.constants.items()
            ]
    entries = _float_entries if program.network.scale is None else _integer_entries
    return "\n".join([*parts, _run(program), *entries(program, name)])


def _array(kind: str, name: str, entries: Tensor) -> str:
    flat = entries.flatten().tolist()
    lines, line = [], "   "
    for literal in map(_float, flat) if kind == "float" else map(str, flat):
        if len(line) + len(literal) + 2 > WIDTH:
            lines.append(line)
            line = "   "
        line += f" {literal},"
    body = "\n".join([*lines, line])
    return f"static const {kind} {name}[{len(flat)}] = {{\n{body}\n}};\n"


def _float(x: float) -> str:
    """A literal of C that is this float again."""
    if math.isinf(x):
        x = math.copysign(3.4028234663852886e38, x)
    digits = f"{x:.9g}"
    return f"{digits}f" if "." in digits or "e" in digits else f"{digits}.0f"


def _run(program: Program) -> str:
    """The function that calls all layers."""
    kind = "float" if program.network.scale is None else "uint8_t"
    calls = []
    for layer, name, runs in zip(program.network.layers, program.names, program.runs, strict=True):
        places = {f"x{n or ''}": _place(program, value) for n, value in enumerate(layer.inputs)}
        places["y"] = _place(program, layer.output)
        for run in runs:
            words = {**places, **{key: f"{name}_{key}" for key in run.constants}}
            calls.append(
                f"{run.function.name}({', '.join(_argument(x, words) for x in run.arguments)});"
            )
    constants = ""
    if (order := program.order) is not None:
        constants = f"{_array(order.type, 'order', order.entries)}\n"
        place = _place(program, program.network.output)
        calls.append(f"for (int k = 0; k < {len(program.network.order)}; k++)")
        calls.append(f"    out[k] = ({place})[order[k]];")
    if not any("arena" in call for call in calls):
        calls.insert(0, "(void)arena;")
    body = "\n".join(f"    {call}" for call in calls)
    return (
        f"{constants}static void run(const {kind} *x, float *out, uint8_t *arena)\n{{\n{body}\n}}\n"
    )


def _argument(x: str | float, words: dict[str, str]) -> str:
    if isinstance(x, str):
        return x.format(**words)
    return _float(x) if isinstance(x, float) else str(x)


def _place(program: Program, value: Value) -> str:
    """Where a value lies, as an expression in C."""
    home = program.arena.homes.get(value, value)
    if home is program.network.input:
        return "x"
    if home not in program.arena.offsets:
        return "out"
    offset = program.arena.offsets[home]
    place = f"arena + {offset}" if offset else "arena"
    return place if value.type == "uint8_t" else f"(float *)(void *)({place})"


CHANNELS_LAST = Template("""\
    for (int c = 0; c < $channels; c++)
        for (int k = 0; k < $pixels; k++)
            x[k * $channels + c] = $value;
    run(x, out, arena);
""")

IN_ORDER = Template("""\
    for (int k = 0; k < $entries; k++)
        x[k] = $value;
    run(x, out, arena);
""")

ENTRY = Template("""\
void $name(const $kind *in, float *out, void *arena)
{
$body}
""")

QUANTIZED = Template("""\
/* The integer that stands for a float: in / step, halves rounded away from 0, plus zero. Floats
   that are not negative are in the order of their bits, which are quicker to compare. */
static uint8_t quantized(float in)
{
    union { float number; uint32_t bits; } twice;
    int32_t halves;
    twice.number = in * $halves;
    if ($inside) {
        halves = (int32_t)twice.number;
        $returned
    }
    return twice.bits <= 0x7f800000 ? 255 : 0;
}
""")


def _quantized(scale: Scale) -> str:
    """The function that makes an integer of a float input."""
    inside, returned = "twice.bits < 0x43ff0000", "return (uint8_t)((halves + 1) >> 1);"  # 510
    if scale.zero:
        inside = "(twice.bits & 0x7fffffff) < 0x44000000"  # 512 in size
        returned = f"""\
halves = (halves + (halves < 0 ? -1 : 1)) / 2 + {scale.zero};
    return (uint8_t)(halves < 0 ? 0 : halves > 255 ? 255 : halves);"""
    halves = _float(float(torch.tensor(2 / scale.step)))
    return QUANTIZED.substitute(halves=halves, inside=inside, returned=returned)


def _float_entries(program: Program, name: str) -> list[str]:
    return [ENTRY.substitute(name=f"{name}_infer", kind="float", body=_entry(program, "float"))]


def _integer_entries(program: Program, name: str) -> list[str]:
    scale = program.network.scale
    assert scale is not None
    floats = _copied(program, "uint8_t", "quantized(*in++)")
    integers = _entry(program, "uint8_t")
    return [
        _quantized(scale),
        ENTRY.substitute(name=f"{name}_infer", kind="float", body=floats),
        ENTRY.substitute(name=f"{name}_infer_u8", kind="uint8_t", body=integers),
    ]


def _entry(program: Program, kind: str) -> str:
    """The body of a function whose input needs no other numbers."""
    if program.network.as_given:
        first = f" + {program.network.first}" if program.network.first else ""
        return f"    run(in{first}, out, arena);\n"
    return _copied(program, kind, "*in++")


def _copied(program: Program, kind: str, value: str) -> str:
    """The body of a function that puts its input into the arena, channels last."""
    network = program.network
    channels, height, width = as_map(network.channels_first)
    template = IN_ORDER if network.as_given else CHANNELS_LAST
    offset = program.arena.offsets[network.input]
    begin = f"({kind} *)arena" + (f" + {offset // Value((1, 1, 1), kind).bytes}" if offset else "")
    skipped = f"    in += {network.first};\n" if network.first else ""
    return f"    {kind} *x = {begin};\n{skipped}" + template.substitute(
        channels=channels, pixels=height * width, entries=network.input.entries, value=value
    )
