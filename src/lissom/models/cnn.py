"""A small convolutional network with BatchNorm, for images from 8×8 pixels on."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from lissom.arguments import shown, whole
from lissom.errors import LissomError
from lissom.models.sizes import require_whole


def cnn(
    inputs: Sequence[int] = (1, 28, 28), classes: int = 10, widths: Sequence[int] = (8, 16, 32)
) -> nn.Sequential:
    """Three 3×3 convolutions of 8, 16 and 32 channels: 8,834 parameters for images of 1×28×28.

    Maps images [n, *inputs] to logits [n, classes]. Each convolution (padding 1, without bias) is
    followed by BatchNorm, ReLU and 2×2 max-pooling; the last one by a dense layer, so that 28 →
    14 → 7 → 3 pixels a side. Children: `conv1`, `norm1`, `act1`, `pool1`, …, `flatten`, `fc`.

    Args:
        inputs: channels, height and width of an image; the sides must outlast the pooling.
        classes: outputs.
        widths: channels of each convolution, as many as you like.

    Raises:
        LissomError: sizes that are no whole numbers ≥ 1, or an image that is too small.
    """
    require_whole("cnn", classes=classes)
    for what, sizes in (("inputs", inputs), ("widths", widths)):
        fine = isinstance(sizes, Sequence) and all(whole(n, least=1) for n in sizes)
        if not fine or not sizes:
            raise LissomError(f"cnn needs {what} as whole numbers ≥ 1, got {shown(sizes)}")
    least = 2 ** len(widths)
    if len(inputs) != 3 or min(inputs[1:]) < least:
        raise LissomError(
            f"cnn takes images of channels × height × width, such as (1, 28, 28), with {least} "
            f"pixels a side or more for {len(widths)} poolings; got {tuple(inputs)}"
        )
    channels, height, width = inputs
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, out_channels in enumerate(widths, 1):
        layers[f"conv{number}"] = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        layers[f"norm{number}"] = nn.BatchNorm2d(out_channels)
        layers[f"act{number}"] = nn.ReLU()
        layers[f"pool{number}"] = nn.MaxPool2d(2)
        channels, height, width = out_channels, height // 2, width // 2
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels * height * width, classes)
    return nn.Sequential(layers)
