"""What differs between functions in int8 and in float32: types, and what becomes of a sum."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Template

from lissom.exporting.c.kernels.running import Constant, Function, in_units
from lissom.exporting.c.kernels.simd import INLINED, SIMD
from lissom.exporting.c.layers import Bounds, Finish, Rescaled, Scaled, Shifted

RESCALED = Function(
    "rescaled",
    """\
/* A sum in steps of the output, rounded to the nearest, halves up; zero is the output that stands
   for 0. */
static uint8_t rescaled(int32_t sum, int32_t multiplier, int32_t zero, int32_t low, int32_t high)
{
    int64_t scaled = (int64_t)sum * multiplier + ((int64_t)zero << 32) + ((int64_t)1 << 31);
    int32_t y = (int32_t)(scaled >> 32);
    if (y < low) y = low;
    if (y > high) y = high;
    return (uint8_t)y;
}
""",
    bytes=48,
)

SHIFTED = Function(
    "shifted",
    """\
/* A sum in steps of 2^-20 of the output; one half is in it. */
static uint8_t shifted(int32_t sum, int32_t low, int32_t high)
{
    int32_t y = sum < 0 ? 0 : sum >> 20;
    return (uint8_t)(y < low ? low : y > high ? high : y);
}
""",
    bytes=20,
)

BOUNDED = Function(
    "bounded",
    """\
static float bounded(float sum, float low, float high)
{
    return sum < low ? low : sum > high ? high : sum;
}
""",
    bytes=24,
)


@dataclass(frozen=True, eq=False)
class Arithmetic:
    """Types of C and the end of a sum.

    Attributes:
        types: $W of weights, $X of what is read, $S of sums, $Y of what is written.
        suffix: of functions' names, where one file has several for one purpose.
        parameters: of a function, for its end.
        finish: the output that is made of `sum` in channel `o`.
        arguments: for the parameters.
        constants: that the arguments name.
        needs: the functions that finish calls.
    """

    types: Mapping[str, str]
    suffix: str
    parameters: str
    finish: str
    arguments: tuple[str | int | float, ...]
    constants: Mapping[str, Constant] = field(default_factory=dict)
    needs: tuple[Function, ...] = ()

    def function(self, name: str, template: str, size: int) -> Function:
        """A function of this arithmetic from a template, of floats without its parts for SIMD."""
        name += self.suffix
        if self.types["W"] == "float":
            template = re.sub(r"#ifdef SIMD\n.*?#endif\n", "", template, flags=re.DOTALL)
        words = {"name": name, "parameters": self.parameters, "finish": self.finish, **self.types}
        text = Template(template).substitute(words)
        preludes = tuple(f for f in (SIMD, INLINED) if f.name in text)
        return Function(name, text, size, (*preludes, *self.needs), INLINED in preludes)


INTEGERS = {"W": "int8_t", "X": "uint8_t", "S": "int32_t"}
FLOATS = {"W": "float", "X": "float", "S": "float"}


def arithmetic(finish: Finish) -> Arithmetic:
    """The arithmetic of a layer by what becomes of its sums."""
    if isinstance(finish, Bounds):
        return Arithmetic(
            {**FLOATS, "Y": "float"},
            "",
            "float low, float high",
            "bounded(sum, low, high)",
            (finish.low, finish.high),
            needs=(BOUNDED,),
        )
    if isinstance(finish, Shifted):
        return Arithmetic(
            {**INTEGERS, "Y": "uint8_t"},
            "",
            "int32_t low, int32_t high",
            "shifted(sum, low, high)",
            (finish.low, finish.high),
            needs=(SHIFTED,),
        )
    if isinstance(finish, Scaled) and len(finish.scale) == 1:
        return Arithmetic(
            {**INTEGERS, "Y": "float"},
            "_by_one_to_float",
            "float scale",
            "(float)sum * scale",
            (float(finish.scale),),
        )
    if isinstance(finish, Scaled):
        return Arithmetic(
            {**INTEGERS, "Y": "float"},
            "_to_float",
            "const float *scale",
            "(float)sum * scale[o]",
            ("{scale}",),
            {"scale": Constant("float", finish.scale)},
        )
    assert isinstance(finish, Rescaled)
    if len(finish.multiplier) == 1:
        return Arithmetic(
            {**INTEGERS, "Y": "uint8_t"},
            "_by_one",
            "int32_t multiplier, int32_t zero, int32_t low, int32_t high",
            "rescaled(sum, multiplier, zero, low, high)",
            (int(finish.multiplier), finish.zero, finish.low, finish.high),
            needs=(RESCALED,),
        )
    multiplier, unit = in_units(finish.multiplier, "uint16_t")
    return Arithmetic(
        {**INTEGERS, "Y": "uint8_t"},
        "_of_32_bits" if multiplier.type == "int32_t" else "",
        f"const {multiplier.type} *multiplier, int32_t unit, int32_t zero, int32_t low, "
        "int32_t high",
        "rescaled(sum, multiplier[o] * unit, zero, low, high)",
        ("{multiplier}", unit, finish.zero, finish.low, finish.high),
        {"multiplier": multiplier},
        (RESCALED,),
    )
