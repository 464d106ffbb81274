"""Layers without weights, in int8 and float32."""

from string import Template

from lissom.exporting.c.kernels.arithmetic import (
    FLOATS,
    INTEGERS,
    RESCALED,
    Arithmetic,
    arithmetic,
)
from lissom.exporting.c.kernels.running import Constant, Function, Run, in_few_bytes
from lissom.exporting.c.layers import (
    Activation,
    Add,
    Concat,
    Gather,
    Layer,
    MaxPool,
    MeanPool,
    Multiply,
    Pad,
    Rescaled,
    Scaled,
    Value,
)

MEAN_C = """\
/* The sum over each window, scaled. */
static void $name($S bias, $parameters,
    int channels, int rows, int columns, int line, int across, int down, int height, int width,
    const $X *x, $Y *y)
{
    for (int i = 0; i < height; i++)
        for (int j = 0; j < width; j++)
            for (int o = 0; o < channels; o++) {
                const $X *window = x + i * down + j * across + o;
                $S sum = bias;
                for (int r = 0; r < rows; r++)
                    for (int c = 0; c < columns; c++)
                        sum += window[r * line + c * channels];
                *y++ = $finish;
            }
}
"""

MAX_C = """\
/* The largest in each window. */
static void $name(int channels, int rows, int columns, int line, int gap, int across, int down,
    int height, int width, const $X *x, $X *y)
{
    for (int i = 0; i < height; i++)
        for (int j = 0; j < width; j++)
            for (int o = 0; o < channels; o++) {
                const $X *window = x + i * down + j * across + o;
                $X most = *window;
                for (int r = 0; r < rows; r++)
                    for (int c = 0; c < columns; c++)
                        if (window[r * line + c * gap] > most) most = window[r * line + c * gap];
                *y++ = most;
            }
}
"""

PAD_C = """\
/* A border of constants. From the last entry to the first, so that x may lie where y begins. */
static void $name(const $X *border, int channels, int above, int left, int height, int width,
    int outer_height, int outer_width, const $X *x, $X *y)
{
    for (int i = outer_height - 1; i >= 0; i--)
        for (int j = outer_width - 1; j >= 0; j--) {
            int r = i - above, c = j - left;
            int inside = r >= 0 && r < height && c >= 0 && c < width;
            const $X *from = inside ? x + (r * width + c) * channels : border;
            for (int o = channels - 1; o >= 0; o--)
                y[(i * outer_width + j) * channels + o] = from[o];
        }
}
"""

ADD_C = """\
/* Sums of two maps, each in a scale of its own. */
static void $name($S times, $S times1, $S bias, $parameters, int entries,
    const $X *x, const $X *x1, $Y *y)
{
    for (int k = 0; k < entries; k++) {
        $S sum = times * x[k] + times1 * x1[k] + bias;
        y[k] = $finish;
    }
}
"""

MULTIPLY_C = """\
/* A map times another, which begins anew after so many entries. */
static void $name($S zero_x, $S zero_x1, $parameters, int times, int entries,
    const $X *x, const $X *x1, $Y *y)
{
    for (int i = 0; i < times; i++)
        for (int k = 0; k < entries; k++) {
            $S sum = (*x++ - zero_x) * (x1[k] - zero_x1);
            *y++ = $finish;
        }
}
"""

TABLE_C = """\
/* What a table says of each entry. */
static void table(const uint8_t *found, int entries, const uint8_t *x, uint8_t *y)
{
    for (int k = 0; k < entries; k++)
        y[k] = found[x[k]];
}
"""

ACTIVATION_C = Template("""\
/* Of each entry. */
static void $name(${parameters}int entries, const float *in, float *y)
{
    for (int k = 0; k < entries; k++) {
        float x = in[k];
        y[k] = $formula;
    }
}
""")

CONCAT_C = """\
/* Channels of a map in another scale, between those of others. */
static void $name($S times, $S bias, $parameters, int channels, int step, int pixels,
    const $X *x, $Y *y)
{
    for (int k = 0; k < pixels; k++)
        for (int o = 0; o < channels; o++) {
            $S sum = times * *x++ + bias;
            y[k * step + o] = $finish;
        }
}
"""

GATHER_C = """\
/* Entries by their positions. */
static void $name(const $I *position, int entries, const $X *x, $X *y)
{
    for (int k = 0; k < entries; k++)
        y[k] = x[position[k]];
}
"""


def other(layer: Layer) -> list[Run]:
    """How a layer without weights is run: no call, one, or one for each input."""
    (height, width, channels), entries = layer.output.shape, layer.output.entries
    source = layer.inputs[0]
    _, line, _ = source.shape
    plain = _plain(source)
    if isinstance(layer, MeanPool):
        return [_mean(layer)]
    if isinstance(layer, MaxPool):
        (rows, columns), (down, across) = layer.window, layer.stride
        sizes = (
            *(channels, rows, columns),
            *(layer.dilation[0] * line * channels, layer.dilation[1] * channels),
            *(across * channels, down * line * channels, height, width, "{x}", "{y}"),
        )
        function = plain.function("max_pool", MAX_C, 110)
        return [Run("max pool", function, sizes, cycles=6.0 * entries * rows * columns)]
    if isinstance(layer, Pad):
        above, _, left, _ = layer.border
        inner_height, inner_width, _ = source.shape
        edges = (
            *("{border}", channels, above, left, inner_height, inner_width, height, width),
            *("{x}", "{y}"),
        )
        border = {"border": Constant(plain.types["X"], layer.value)}
        function = plain.function("pad", PAD_C, 100)
        return [Run("pad", function, edges, border, 6.0 * entries)]
    if isinstance(layer, Add):
        ends = arithmetic(layer.finish)
        arguments = (*layer.multipliers, layer.bias, *ends.arguments, entries, "{x}", "{x1}", "{y}")
        return [Run("add", ends.function("add", ADD_C, 60), arguments, cycles=12.0 * entries)]
    if isinstance(layer, Multiply):
        ends, period = arithmetic(layer.finish), layer.inputs[1].entries
        zeros = layer.zeros if source.type == "uint8_t" else map(float, layer.zeros)
        arguments = (
            *(*zeros, *ends.arguments, entries // period, period),
            *("{x}", "{x1}", "{y}"),
        )
        function = ends.function("multiply", MULTIPLY_C, 70)
        return [Run("multiply", function, arguments, cycles=9.0 * entries)]
    if isinstance(layer, Activation):
        return [_activation(layer)]
    if isinstance(layer, Concat):
        ends = arithmetic(layer.finish)
        function, runs, before = ends.function("concat", CONCAT_C, 70), [], 0
        for number, value in enumerate(layer.inputs):
            count = value.shape[2]
            arguments = (
                *(layer.multipliers[number], layer.biases[number], *ends.arguments),
                *(count, channels, height * width),
                *(f"{{x{number or ''}}}", f"{{y}} + {before}"),
            )
            runs.append(Run("concat", function, arguments, cycles=10.0 * value.entries))
            before += count
        return runs
    assert isinstance(layer, Gather)
    if layer.moves_nothing:
        return []
    position = in_few_bytes(layer.positions)
    arguments = ("{position}", entries, "{x}", "{y}")
    name, template = f"gather{position.wide}", GATHER_C.replace("$I", position.type)
    function = plain.function(name, template, 30)
    return [Run("gather", function, arguments, {"position": position}, 6.0 * entries)]


def _activation(layer: Activation) -> Run:
    name, numbers, entries = layer.curve.name, layer.curve.numbers, layer.output.entries
    if layer.table is not None:
        found = {"table": Constant("uint8_t", layer.table)}
        arguments = ("{table}", entries, "{x}", "{y}")
        return Run(
            f"{name} by table", Function("table", TABLE_C, 20), arguments, found, 5.0 * entries
        )
    text = ACTIVATION_C.substitute(
        name=f"apply_{name}",
        parameters="".join(f"float {number}, " for number in numbers),
        formula=layer.curve.formula,
    )
    needs = tuple(
        Function(f, f"float {f}(float x); /* of math.h */\n", 0) for f in layer.curve.calls
    )
    function = Function(f"apply_{name}", text, 40, needs)
    cycles = 100.0 if needs else 15.0
    return Run(name, function, (*numbers.values(), entries, "{x}", "{y}"), cycles=cycles * entries)


def _plain(value: Value) -> Arithmetic:
    """The arithmetic of what only copies entries or compares them."""
    types = FLOATS if value.type == "float" else INTEGERS
    return Arithmetic({**types, "Y": types["X"]}, "", "", "", ())


def _mean(layer: MeanPool) -> Run:
    height, width, channels = layer.output.shape
    _, line, _ = layer.inputs[0].shape
    (rows, columns), (down, across) = layer.window, layer.stride
    finish = layer.finish
    if isinstance(finish, Rescaled):
        ends = Arithmetic(
            {**INTEGERS, "Y": "uint8_t"},
            "",
            "int32_t multiplier, int32_t zero, int32_t low, int32_t high",
            "rescaled(sum, multiplier, zero, low, high)",
            (int(finish.multiplier), finish.zero, finish.low, finish.high),
            needs=(RESCALED,),
        )
    else:
        assert isinstance(finish, Scaled)
        floats = layer.inputs[0].type == "float"
        types = FLOATS if floats else INTEGERS
        suffix = "" if floats else "_to_float"
        ends = Arithmetic(
            {**types, "Y": "float"},
            suffix,
            "float scale",
            "(float)sum * scale",
            (float(finish.scale),),
        )
    sizes = (
        *(channels, rows, columns, line * channels, across * channels),
        *(down * line * channels, height, width, "{x}", "{y}"),
    )
    cycles = 6.0 * layer.output.entries * rows * columns
    function = ends.function("mean_pool", MEAN_C, 120)
    bias = float(layer.bias) if layer.inputs[0].type == "float" else layer.bias
    return Run("mean pool", function, (bias, *ends.arguments, *sizes), cycles=cycles)
