"""Networks for radio modulation: vectors of 128 complex samples, I and Q in two rows."""

from collections import OrderedDict

from torch import nn

from lissom.arguments import is_number, shown, whole
from lissom.errors import LissomError


def vt_cnn2(classes: int = 11, dropout: float = 0.5) -> nn.Sequential:
    """VT-CNN2, 256-80-256: 2,830,427 parameters for eleven classes.

    Maps vectors [n, 1, 2, 128] to logits [n, classes]; another size does not fit `fc1`. Two
    convolutions, of 256 kernels 1×3 and 80 kernels 2×3, each after two columns of zeros on both
    sides, so 128 → 130 → 132 columns and 2 → 2 → 1 rows; then two dense layers of 256 neurons and
    `classes`. Dropout follows every layer with weights but the last. The softmax is the loss's.

    Children: `conv1`, `act1`, `conv2`, `act2`, `flatten`, `fc1`, `act3`, `fc2`; with dropout also
    `drop1`, `drop2` and `drop3`, each behind its activation. Weights start as published: uniform
    in ±√(6/(fan in + fan out)) in the convolutions (Glorot & Bengio 2010), normal with variance
    2/fan in in the dense layers (He et al. 2015), and biases zero.

    Args:
        classes: outputs.
        dropout: the probability that an activation is zeroed in training, 0 ≤ p < 1; at 0 there
            are no such layers.

    Raises:
        LissomError: `classes` is not a whole number ≥ 1, or a probability out of range.

    Source: O'Shea, Corgan & Clancy, *Convolutional Radio Modulation Recognition Networks*, 2016,
    with the layer sizes of its published example for RML2016.10a.
    """
    return _radio("vt_cnn2", classes, dropout)


def ahmed_modrec(
    classes: int = 11, kernels: tuple[int, int] = (256, 80), hidden: int = 256
) -> nn.Sequential:
    """Ahmed's network for modulation: input, conv, conv, dense (with L0 gates), dense, no dropout.

    The gates are on the single weights of `fc1`, and are put on by `lissom.gate`. Their paper
    tunes the sizes of the layers on validation data and does not state them; these are VT-CNN2's,
    and `kernels=(64, 16), hidden=128` are those of the smaller network in the same source. Children
    and start are those of `vt_cnn2`.

    Args:
        classes: outputs.
        kernels: of `conv1` and `conv2`.
        hidden: neurons of `fc1`.

    Raises:
        LissomError: a size is not a whole number ≥ 1, or there are not two numbers of kernels.
    """
    return _radio("ahmed_modrec", classes, 0, kernels, hidden)


def _radio(
    name: str,
    classes: int,
    dropout: float,
    kernels: tuple[int, int] = (256, 80),
    hidden: int = 256,
) -> nn.Sequential:
    if not isinstance(kernels, list | tuple) or len(kernels) != 2:
        raise LissomError(f"{name} needs kernels as two whole numbers ≥ 1, got {shown(kernels)}")
    sizes = [("classes", classes), ("hidden", hidden), *(("kernels", n) for n in kernels)]
    for key, size in sizes:
        if not whole(size, least=1):
            raise LissomError(f"{name} needs {key} as whole numbers ≥ 1, got {shown(size)}")
    if not is_number(dropout) or not 0 <= dropout < 1:
        raise LissomError(f"dropout is a probability 0 ≤ p < 1, got {shown(dropout)}")
    first, second = kernels
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(1, first, (1, 3), padding=(0, 2)),  # [n, first, 2, 130]
        act1=nn.ReLU(),
        drop1=nn.Dropout(dropout),
        conv2=nn.Conv2d(first, second, (2, 3), padding=(0, 2)),  # [n, second, 1, 132]
        act2=nn.ReLU(),
        drop2=nn.Dropout(dropout),
        flatten=nn.Flatten(),  # [n, second · 132]
        fc1=nn.Linear(second * 132, hidden),
        act3=nn.ReLU(),
        drop3=nn.Dropout(dropout),
        fc2=nn.Linear(hidden, classes),
    )
    net = nn.Sequential(
        OrderedDict((key, layer) for key, layer in layers.items() if dropout or "drop" not in key)
    )
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
        elif isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return net
