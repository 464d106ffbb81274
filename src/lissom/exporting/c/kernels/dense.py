"""All weights one after another: dense layers and convolutions, in int8 and float32."""

from collections.abc import Mapping
from types import MappingProxyType

import torch

from lissom.exporting.c.kernels.arithmetic import arithmetic
from lissom.exporting.c.kernels.running import Constant, Function, Kernel, Run, in_few_bytes
from lissom.exporting.c.layers import Layer, Product

DENSE_C = """\
/* Each output is the sum of its row of weights times all inputs. */
static void $name(const $W *w, const $S *bias, $parameters,
    int rows, int columns, const $X *x, $Y *y)
{
    for (int o = 0; o < rows; o++) {
        $S sum = bias[o];
        int k = 0;
#ifdef SIMD
        for (; k + 4 <= columns; k += 4, w += 4)
            sum = four_products(FOUR(w), FOUR(x + k), sum);
#endif
        for (; k < columns; k++)
            sum += *w++ * x[k];
        y[o] = $finish;
    }
}
"""

PICKED_C = """\
/* As a dense layer, of the inputs at these positions only. */
static void $name(const $W *w, const $S *bias, $parameters,
    const $I *position, int rows, int columns, const $X *x, $Y *y)
{
    for (int o = 0; o < rows; o++) {
        $S sum = bias[o];
        for (int k = 0; k < columns; k++)
            sum += *w++ * x[position[k]];
        y[o] = $finish;
    }
}
"""

CONV_C = """\
/* A convolution; a row of its window is `run` entries that lie one after another. */
static void $name(const $W *w, const $S *bias, $parameters,
    int outputs, int rows, int run, int line, int across, int down, int height, int width,
    const $X *x, $Y *y)
{
    for (int i = 0; i < height; i++)
        for (int j = 0; j < width; j++) {
            const $X *window = x + i * down + j * across;
            const $W *weight = w;
            for (int o = 0; o < outputs; o++) {
                $S sum = bias[o];
                for (int r = 0; r < rows; r++) {
                    const $X *entry = window + r * line;
                    int k = 0;
#ifdef SIMD
                    for (; k + 4 <= run; k += 4, weight += 4)
                        sum = four_products(FOUR(weight), FOUR(entry + k), sum);
#endif
                    for (; k < run; k++)
                        sum += *weight++ * entry[k];
                }
                *y++ = $finish;
            }
        }
}
"""

CONV_POOL_C = """\
/* A convolution and 2x2 max pooling: four sums at once, of which the largest is the output. */
INLINED void $name(const $W *w, const $S *bias, $parameters,
    int outputs, int rows, int run, int line, int across, int down, int height, int width,
    const $X *x, $Y *y)
{
    for (int i = 0; i < height; i++)
        for (int j = 0; j < width; j++) {
            const $X *window = x + 2 * (i * down + j * across);
            const $W *weight = w;
            for (int o = 0; o < outputs; o++) {
                $S sum = 0, right = 0, below = 0, both = 0;
                for (int r = 0; r < rows; r++) {
                    const $X *upper = window + r * line, *lower = upper + down;
                    int k = run;
#ifdef SIMD
                    for (; k >= 4; k -= 4, weight += 4, upper += 4, lower += 4) {
                        uint32_t g = FOUR(weight);
                        sum = four_products(g, FOUR(upper), sum);
                        right = four_products(g, FOUR(upper + across), right);
                        below = four_products(g, FOUR(lower), below);
                        both = four_products(g, FOUR(lower + across), both);
                    }
#endif
                    for (; k; k--) {
                        $S g = *weight++;
                        sum += g * upper[0];
                        right += g * upper[across];
                        below += g * lower[0];
                        both += g * lower[across];
                        upper++;
                        lower++;
                    }
                }
                if (right > sum) sum = right;
                if (both > below) below = both;
                if (below > sum) sum = below;
                sum += bias[o];
                *y++ = $finish;
            }
        }
}
"""

GROUPED_C = """\
/* A convolution in groups of channels, or with gaps in its window; depthwise ones are groups of
   one channel. */
static void $name(const $W *w, const $S *bias, $parameters,
    int outputs, int per_group, int rows, int columns, int run, int line, int gap, int across,
    int down, int height, int width, const $X *x, $Y *y)
{
    for (int i = 0; i < height; i++)
        for (int j = 0; j < width; j++) {
            const $X *window = x + i * down + j * across;
            const $W *weight = w;
            for (int o = 0; o < outputs; o++) {
                const $X *group = window + o / per_group * run;
                $S sum = bias[o];
                for (int r = 0; r < rows; r++)
                    for (int c = 0; c < columns; c++) {
                        const $X *entry = group + r * line + c * gap;
                        for (int k = 0; k < run; k++)
                            sum += *weight++ * entry[k];
                    }
                *y++ = $finish;
            }
        }
}
"""

DEPTHWISE_C = """\
/* A window of its own for each channel. */
static void $name(const $W *w, const $S *bias, $parameters,
    int channels, int rows, int columns, int line, int gap, int across, int down, int height,
    int width, const $X *x, $Y *y)
{
    for (int i = 0; i < height; i++)
        for (int j = 0; j < width; j++) {
            const $X *window = x + i * down + j * across;
            const $W *weight = w;
            for (int o = 0; o < channels; o++) {
                $S sum = bias[o];
                for (int r = 0; r < rows; r++)
                    for (int c = 0; c < columns; c++)
                        sum += *weight++ * window[r * line + c * gap + o];
                *y++ = $finish;
            }
        }
}
"""


def dense(layer: Layer) -> Run | None:
    """A matrix times all inputs, or those at given positions."""
    if not isinstance(layer, Product) or not layer.dense:
        return None
    rows, columns = len(layer.weight), layer.weight[0].numel()
    ends = arithmetic(layer.finish)
    sizes = (rows, columns, "{x}", "{y}")
    if layer.columns is None:
        function = ends.function("dense", DENSE_C, 60)
        return _run(layer, function, sizes, rows * (_one_sum(layer, columns) + 20))
    position = in_few_bytes(layer.columns)
    template = PICKED_C.replace("$I", position.type)
    function = ends.function(f"dense_of{position.wide}", template, 64)
    cycles = rows * (6.0 * columns + 20)
    return _run(layer, function, ("{position}", *sizes), cycles, {"position": position})


def convolution(layer: Layer) -> Run | None:
    """Windows without gaps over all channels, alone or with pooling."""
    if not isinstance(layer, Product) or layer.dense or layer.groups > 1:
        return None
    if layer.dilation[1] > 1:
        return None
    outputs, rows, columns, channels = layer.weight.shape
    strides = _strides(layer)
    sizes = (
        *(outputs, rows, columns * channels, strides["line"], strides["across"], strides["down"]),
        *(*layer.output.shape[:2], "{x}", "{y}"),
    )
    ends, run = arithmetic(layer.finish), columns * channels
    if layer.pool == (1, 1):
        each = rows * (_one_sum(layer, run) + 4) + 10
        function = ends.function("convolution", CONV_C, 120)
    else:
        each = rows * (_four_sums(layer, run) + 7) + 15
        function = ends.function("convolution_pool", CONV_POOL_C, 300)
    return _run(layer, function, sizes, layer.output.entries * each)


def grouped(layer: Layer) -> Run | None:
    """Windows over some of the channels, or with gaps."""
    if not isinstance(layer, Product) or layer.dense or layer.pool != (1, 1):
        return None
    outputs, rows, columns, channels = layer.weight.shape
    strides = _strides(layer)
    ends = arithmetic(layer.finish)
    steps = (strides["line"], strides["gap"], strides["across"], strides["down"])
    ending = (*steps, *layer.output.shape[:2], "{x}", "{y}")
    if layer.depthwise:
        function = ends.function("depthwise", DEPTHWISE_C, 130)
        return _run(layer, function, (outputs, rows, columns, *ending), 9.0 * layer.macs)
    function = ends.function("grouped", GROUPED_C, 160)
    sizes = (outputs, outputs // layer.groups, rows, columns, channels, *ending)
    return _run(layer, function, sizes, 9.0 * layer.macs)


def _strides(layer: Product) -> dict[str, int]:
    """Entries from one to the next row and column of a window, and window across and down."""
    _, width, channels = layer.inputs[0].shape
    return {
        "line": layer.dilation[0] * width * channels,
        "gap": layer.dilation[1] * channels,
        "across": layer.stride[1] * channels,
        "down": layer.stride[0] * width * channels,
    }


def _one_sum(layer: Product, entries: int) -> float:
    """Instructions for the products of so many entries that lie one after another."""
    if layer.weight.dtype != torch.int8:
        return 5.0 * entries
    return 11.0 * (entries // 4) + 6.0 * (entries % 4)


def _four_sums(layer: Product, entries: int) -> float:
    """The same for four windows at once."""
    if layer.weight.dtype != torch.int8:
        return 13.0 * entries
    return 25.0 * (entries // 4) + 11.0 * (entries % 4)


def _run(
    layer: Product,
    function: Function,
    sizes: tuple[str | int, ...],
    cycles: float,
    more: Mapping[str, Constant] = MappingProxyType({}),
) -> Run:
    """A call with the weights one after another, and what `more` holds."""
    integer = layer.weight.dtype == torch.int8
    ends = arithmetic(layer.finish)
    constants = {
        "weights": Constant("int8_t" if integer else "float", layer.weight),
        "bias": Constant("int32_t" if integer else "float", layer.bias),
        **ends.constants,
        **more,
    }
    name = function.name.removesuffix(ends.suffix)
    name = name.replace("convolution_pool", "convolution and pool").replace("_", " ")
    arguments = ("{weights}", "{bias}", *ends.arguments, *sizes)
    kernel = f"{name} {'int8' if integer else 'float32'}"
    return Run(kernel, function, arguments, constants, cycles)


DENSE: tuple[Kernel, ...] = (dense,)
CONVOLUTIONS: tuple[Kernel, ...] = (convolution, grouped)
