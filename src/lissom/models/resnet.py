"""Residual networks of He et al. for images of 32×32 pixels."""

from collections import OrderedDict
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from lissom.arguments import as_annotated, is_number, shown
from lissom.errors import LissomError
from lissom.models.residual import stages, start_as_he
from lissom.models.sizes import require_whole

STAGES = (16, 32, 64)


class Block(nn.Module):
    """relu(x + norm2(conv2(relu(norm1(conv1(x)))))), each convolution 3×3.

    Where the width and the side change, x is every second pixel of it: with channels of zeros
    before and after its own (option A of the paper), or through a 1×1 convolution and BatchNorm
    (option B).

    Args:
        channels: of the input.
        out_channels: of the output.
        stride: 2 halves the side.
        shortcut: "pad" is option A, "conv" option B.
    """

    def __init__(self, channels: int, out_channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        added = out_channels - channels
        self.added = added // 2, added - added // 2
        self.shortcut: nn.Sequential | None = None
        if stride > 1 and shortcut == "conv":
            convolution = nn.Conv2d(channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(
                OrderedDict[str, nn.Module](conv=convolution, norm=nn.BatchNorm2d(out_channels))
            )

    def forward(self, x: Tensor) -> Tensor:
        """Maps [n, channels, h, w] to [n, out_channels, h/stride, w/stride]."""
        inner = F.relu(self.norm1(self.conv1(x)))
        shortcut = x
        if self.shortcut is not None:
            shortcut = self.shortcut(x)
        elif any(self.added):
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.added))
        return F.relu(shortcut + self.norm2(self.conv2(inner)))


@as_annotated(LissomError, "depth", "classes", "width", "channels")
def resnet(
    depth: int = 20,
    classes: int = 10,
    width: float = 1.0,
    channels: int = 3,
    shortcut: Literal["pad", "conv"] = "pad",
) -> nn.Sequential:
    """ResNet-depth for small photographs: 269,722 parameters for ResNet-20, 853,018 for ResNet-56.

    Maps images [n, channels, h, w] to logits [n, classes], for sides of 4 pixels or more. A 3×3
    convolution, three stages of (depth − 2)/6 blocks with 16, 32 and 64 channels, the last two of
    which start with stride 2, the mean over pixels and a dense layer. Children: `conv`, `norm`,
    `act`, `stage1`, `stage2`, `stage3`, `pool`, `flatten`, `fc`. He's initialisation (fan out) of
    the convolutions.

    Args:
        depth: layers with weights: 6k + 2.
        classes: outputs.
        width: by which all channels are multiplied, rounded, at least 1.
        channels: of the images.
        shortcut: where the width changes, "pad" with channels of zeros, as in the paper, which
            cannot be removed then; or "conv", a 1×1 convolution, 2,752 parameters more.

    Raises:
        LissomError: numbers that cannot be.

    Source: He et al. 2016, section 4.2; options A and B in section 3.3.
    """
    require_whole("resnet", classes=classes, channels=channels)
    if not isinstance(depth, int) or depth < 8 or (depth - 2) % 6:
        raise LissomError(
            f"a residual network of this kind has a depth of 8, 14, 20, 26, …, got {shown(depth)}"
        )
    if not is_number(width) or not 0 < width < float("inf"):
        raise LissomError(f"resnet needs a width > 0, such as 0.5, got {shown(width)}")
    first, *_ = widths = [max(1, round(width * size)) for size in STAGES]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(channels, first, 3, padding=1, bias=False)
    layers["norm"] = nn.BatchNorm2d(first)
    layers["act"] = nn.ReLU()
    layers |= stages(first, widths, (depth - 2) // 6, partial(Block, shortcut=shortcut))
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(widths[-1], classes)
    net = nn.Sequential(layers)
    start_as_he(net)
    return net
