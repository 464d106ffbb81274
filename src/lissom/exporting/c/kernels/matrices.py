"""What all ways to store weights share in which each output has a row of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from lissom.exporting.c.kernels.arithmetic import Arithmetic, arithmetic
from lissom.exporting.c.kernels.running import Constant, Function, Run, in_16_bits
from lissom.exporting.c.layers import Product, Scaled

ROWS_C = """\
/* COMMENT */
static void $name(STORED, const BIAS *bias, int32_t step, $parameters,
    int rows, const uint8_t *x, $Y *y)
{
    for (int o = 0; o < rows; o++) {
        int32_t sum = SUM;
        y[o] = $finish;
        ADVANCE
    }
}
"""

WINDOWS_C = """\
/* The same for each window of a map. */
static void $name(STORED, $parameters,
    int rows, int across, int down, int height, int width, const uint8_t *x, $Y *y)
{
    for (int i = 0; i < height; i++)
        for (int j = 0; j < width; j++, y += rows)
            ROWS(GIVEN, rows, x + i * down + j * across, y);
}
"""


@dataclass(frozen=True)
class Rows:
    """C that adds up one row after another.

    Attributes:
        name: of its function.
        comment: what is stored, and how.
        row: the function that adds up one row: of few arguments, so that they stay in registers.
        sum: its call.
        advance: what goes on to the next row.
        bytes: of the code on a Cortex-M4.
        instructions: for each row that becomes a uint8, beside those of what is stored in it.
    """

    name: str
    comment: str
    row: Function
    sum: str
    advance: str
    bytes: int
    instructions: float

    def run(
        self,
        kernel: str,
        layer: Product,
        stored: Mapping[str, Constant],
        instructions: float,
        sizes: Mapping[str, int] = MappingProxyType({}),
    ) -> Run:
        """A layer with these constants and sizes, which the body names.

        Args:
            kernel: the name of this way to run it.
            layer: without pooling.
            stored: in the order of the parameters.
            instructions: for all that is stored in one window.
            sizes: further parameters.
        """
        ends = arithmetic(layer.finish)
        declared = ", ".join(
            [f"const {c.type} *{key}" for key, c in stored.items()] + [f"int {k}" for k in sizes]
        )
        bias, step = in_16_bits(layer.bias)
        text = ROWS_C.replace("COMMENT", self.comment).replace("STORED", declared)
        text = text.replace("BIAS", bias.type)
        text = text.replace("SUM", self.sum).replace("ADVANCE", self.advance)
        name = self.name + (stored["counts"].wide if "counts" in stored else "")
        name += "_bias_of_32_bits" if bias.type == "int32_t" else ""
        function = calling(ends.function(name, text, self.bytes), self.row)
        rows, (height, width, _) = len(layer.weight), layer.output.shape
        places: tuple[int, ...] = (rows,)
        if not layer.dense:
            function = _windows(
                ends, name, function, f"{declared}, const {bias.type} *bias, int32_t step"
            )
            places = (rows, *steps(layer), height, width)
        constants = {**stored, "bias": bias, **ends.constants}
        given = (
            *(f"{{{key}}}" for key in stored),
            *sizes.values(),
            "{bias}",
            step,
            *ends.arguments,
        )
        per_row = self.instructions - 9 * isinstance(layer.finish, Scaled)
        each = instructions + rows * per_row + 10
        return Run(
            kernel,
            function,
            (*given, *places, "{x}", "{y}"),
            constants,
            each * height * width,
        )


def _windows(ends: Arithmetic, name: str, rows: Function, declared: str) -> Function:
    """The function that calls another one for each window."""
    named = f"{declared}, {ends.parameters}".split(",")
    given = ", ".join(parameter.split()[-1].lstrip("*") for parameter in named)
    text = WINDOWS_C.replace("STORED", declared).replace("ROWS", rows.name)
    return calling(ends.function(f"{name}_windows", text.replace("GIVEN", given), 70), rows)


def calling(function: Function, *others: Function) -> Function:
    """A function that calls others."""
    return replace(function, needs=(*others, *function.needs))


def steps(layer: Product) -> tuple[int, int]:
    """Entries of the input from a window to the next one, across and down."""
    _, width, channels = layer.inputs[0].shape
    return layer.stride[1] * channels, layer.stride[0] * width * channels


def positions(layer: Product) -> Tensor:
    """[out, weights of each]: where in the window the entry stands that a weight meets."""
    outputs, rows, columns, per_group = layer.weight.shape
    if layer.columns is not None:
        return layer.columns.long().expand(outputs, -1)
    _, width, channels = layer.inputs[0].shape
    row, column = torch.arange(rows), torch.arange(columns)
    pixel = row[:, None] * (layer.dilation[0] * width) + column * layer.dilation[1]
    window = (pixel[..., None] * channels + torch.arange(per_group)).flatten()
    group = torch.arange(outputs) // (outputs // layer.groups) * per_group
    return group[:, None] + window
