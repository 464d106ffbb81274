"""The VGG variant of Formanek & Hadházi, at any width."""

from collections import OrderedDict
from typing import Literal

from torch import nn

from lissom.arguments import as_annotated, is_number, shown
from lissom.errors import LissomError
from lissom.models.sizes import require_whole

# Output channels of each convolution; "M" halves the image.
LAYERS = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
HIDDEN = 32


@as_annotated(LissomError, "classes", "width", "channels")
def vgg(
    classes: int = 10,
    width: float = 1.0,
    channels: int = 3,
    init: Literal["torch", "xavier"] = "torch",
) -> nn.Sequential:
    """C64,M,C128,M,C256,C256,M,C512,C512,M,C512,C512,M,FC32,FC10: 9,242,730 trainable weights.

    Maps images [n, channels, 32, 32] to logits [n, classes]; images of another size do not fit
    `fc1`. C is a 3×3 convolution with bias and padding 1, then BatchNorm and ReLU; M is 2×2
    max-pooling, so 32 → 16 → 8 → 4 → 2 → 1 pixels a side. Children: `conv1`, `norm1`, `act1`,
    `pool1`, …, `conv8`, `norm8`, `act8`, `pool5`, `flatten`, `fc1`, `act9`, `fc2`.

    Args:
        classes: outputs.
        width: by which the channels of every convolution are multiplied, rounded, at least 1.
            `fc1` has 32 neurons at any width.
        channels: of the images.
        init: "torch" leaves weights as its layers have them; "xavier", the paper's, draws them
            uniformly from ±√(6/(fan in + fan out)) (Glorot & Bengio 2010, eq. 16), and biases are
            zero.

    Raises:
        LissomError: classes or channels that are no whole number ≥ 1, or a width that is not
            positive.

    Source: A. Formanek & D. Hadházi, section 4.
    """
    require_whole("vgg", classes=classes, channels=channels)
    if not is_number(width) or not 0 < width < float("inf"):
        raise LissomError(f"vgg needs a width > 0, such as 0.5 for half of it, got {shown(width)}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    convolutions = pools = 0
    for size in LAYERS:
        if isinstance(size, str):
            pools += 1
            layers[f"pool{pools}"] = nn.MaxPool2d(2)
            continue
        convolutions += 1
        out_channels = max(1, round(width * size))
        layers[f"conv{convolutions}"] = nn.Conv2d(channels, out_channels, 3, padding=1)
        layers[f"norm{convolutions}"] = nn.BatchNorm2d(out_channels)
        layers[f"act{convolutions}"] = nn.ReLU()
        channels = out_channels
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(channels, HIDDEN)
    layers[f"act{convolutions + 1}"] = nn.ReLU()
    layers["fc2"] = nn.Linear(HIDDEN, classes)
    if init == "xavier":
        for layer in layers.values():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
    return nn.Sequential(layers)
