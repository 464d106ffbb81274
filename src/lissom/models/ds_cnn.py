"""A network of depthwise separable convolutions, as keyword spotters on microcontrollers are."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from lissom.arguments import as_annotated, whole
from lissom.errors import LissomError


@as_annotated(LissomError)
def ds_cnn(
    inputs: Sequence[int] = (1, 28, 28), classes: int = 10, width: int = 64, blocks: int = 4
) -> nn.Sequential:
    """DS-CNN: 21,066 parameters and 3.8 million MACs for images of 1×28×28 and ten classes.

    Maps images [n, *inputs] to logits [n, classes]. A 3×3 convolution of stride 2, then `blocks`
    pairs of a 3×3 depthwise and a 1×1 convolution, all of `width` channels, each followed by
    BatchNorm and ReLU; the mean over pixels and a dense layer. Children: `conv`, `norm`, `act`,
    `block1`, … (each with `depthwise`, `norm1`, `act1`, `pointwise`, `norm2`, `act2`), `pool`,
    `flatten`, `fc`.

    Args:
        inputs: channels, height and width of an image, or of a spectrogram.
        classes: outputs.
        width: channels of every layer.
        blocks: how many pairs.

    Raises:
        LissomError: sizes that are no whole numbers ≥ 1.

    Source: Zhang, Suda, Lai & Chandra, *Hello Edge*, 2017: its DS-CNN-S, with square filters.
    """
    sizes = {"classes": classes, "width": width, "blocks": blocks}
    if wrong := {name: size for name, size in sizes.items() if size < 1}:
        raise LissomError(f"ds_cnn needs whole numbers ≥ 1, got {wrong}")
    if len(inputs) != 3 or not all(whole(size, least=1) for size in inputs):
        raise LissomError(
            f"ds_cnn takes images of channels × height × width, such as (1, 28, 28), got {inputs}"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(inputs[0], width, 3, stride=2, padding=1, bias=False),
        norm=nn.BatchNorm2d(width),
        act=nn.ReLU(),
    )
    for number in range(1, blocks + 1):
        layers[f"block{number}"] = nn.Sequential(
            OrderedDict[str, nn.Module](
                depthwise=nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
                norm1=nn.BatchNorm2d(width),
                act1=nn.ReLU(),
                pointwise=nn.Conv2d(width, width, 1, bias=False),
                norm2=nn.BatchNorm2d(width),
                act2=nn.ReLU(),
            )
        )
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(width, classes)
    return nn.Sequential(layers)
