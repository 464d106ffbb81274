"""Multi-layer perceptrons, among them the two that the sparsity papers measure themselves by."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

from lissom.arguments import is_number, shown, whole
from lissom.errors import LissomError, nearest

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def mlp(
    widths: Sequence[int],
    *,
    input_dropout: float = 0.0,
    activation: Callable[[], nn.Module] | str = "relu",
) -> nn.Sequential:
    """Dense layers fc1, fc2, … with an activation between any two, and none after the last.

    Children: `flatten`, `input_dropout` (only if > 0), `fc1`, `act1`, `fc2`, …; torch's own
    initialisation. Maps [n, …] with widths[0] numbers per example to logits [n, widths[-1]].

    Args:
        widths: inputs, hidden widths and outputs, at least the first and the last.
        input_dropout: probability that an input is zeroed in training, 0 ≤ p < 1.
        activation: "relu", "tanh", or what makes a new module when called, such as `nn.GELU`.

    Raises:
        LissomError: fewer than two widths, a width that is not a whole number ≥ 1, a probability
            out of range, or an activation that is neither a known name nor can be called.
    """
    if (
        not isinstance(widths, Sequence)
        or len(widths) < 2
        or not all(whole(width, least=1) for width in widths)
    ):
        raise LissomError(
            f"mlp needs at least two widths, each a whole number ≥ 1, from inputs to outputs, "
            f"such as [784, 300, 100, 10]; got {shown(widths)}"
        )
    if not is_number(input_dropout) or not 0 <= input_dropout < 1:
        raise LissomError(f"input_dropout is a probability 0 ≤ p < 1, got {shown(input_dropout)}")
    if isinstance(activation, str) and activation not in ACTIVATIONS:
        what = f"activation is one of {', '.join(ACTIVATIONS)}, got {activation!r}."
        raise LissomError(what + nearest(activation, ACTIVATIONS), field="activation")
    make = ACTIVATIONS[activation] if isinstance(activation, str) else activation
    if not callable(make):
        raise LissomError(
            f"activation must make a module when called, such as nn.ReLU, got {shown(activation)}",
            field="activation",
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    if input_dropout > 0:
        layers["input_dropout"] = nn.Dropout(input_dropout)
    last = len(widths) - 1
    for number in range(1, last + 1):
        layers[f"fc{number}"] = nn.Linear(widths[number - 1], widths[number])
        if number < last:
            layers[f"act{number}"] = make()
    return nn.Sequential(layers)


def henrikson(inputs: int = 784, classes: int = 10, input_dropout: float = 0.0) -> nn.Sequential:
    """784-64-64-10 with ReLU: 55,050 parameters, initialised as Keras' Dense layers are.

    Weights are uniform in ±√(6/(fan in + fan out)) (Glorot & Bengio 2010, eq. 16), biases zero.

    Source: J. Henrikson, *Building Sparse Models for Deep Learning Using L1 Regularization*, 2021.
    """
    net = mlp([inputs, 64, 64, classes], input_dropout=input_dropout)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return net


def lenet300(
    inputs: int = 784,
    classes: int = 10,
    input_dropout: float = 0.0,
    activation: Callable[[], nn.Module] | str = "relu",
) -> nn.Sequential:
    """LeNet-300-100: 784-300-100-10, 266,200 weights, 266,610 with biases.

    ReLU and torch's initialisation unless told otherwise; learning–compression uses `nn.Tanh`
    (Idelbayev & Carreira-Perpiñán).

    Source: LeCun, Bottou, Bengio & Haffner 1998, section III-C (network "28×28-300-100-10").
    """
    return mlp([inputs, 300, 100, classes], input_dropout=input_dropout, activation=activation)
