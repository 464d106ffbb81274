"""Residual networks of He et al. for images of 32×32 pixels."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from lissom.arguments import as_annotated, shown
from lissom.errors import LissomError

STAGES = (16, 32, 64)


class Block(nn.Module):
    """relu(x + norm2(conv2(relu(norm1(conv1(x)))))), each convolution 3×3.

    Where the width and the side change, x is every second pixel, with channels of zeros before and
    after its own (option A of the paper), so that the shortcut has no weights.

    Args:
        channels: of the input.
        out_channels: of the output.
        stride: 2 halves the side.
    """

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        added = out_channels - channels
        self.added = added // 2, added - added // 2

    def forward(self, x: Tensor) -> Tensor:
        """Maps [n, channels, h, w] to [n, out_channels, h/stride, w/stride]."""
        inner = F.relu(self.norm1(self.conv1(x)))
        shortcut = x
        if any(self.added):
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.added))
        return F.relu(shortcut + self.norm2(self.conv2(inner)))


@as_annotated(LissomError, "depth", "classes", "width", "channels")
def resnet(
    depth: int = 20, classes: int = 10, width: float = 1.0, channels: int = 3
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

    Raises:
        LissomError: numbers that cannot be.

    Source: He et al. 2016, section 4.2, option A.
    """
    for name, number in (("classes", classes), ("channels", channels)):
        if not isinstance(number, int) or number < 1:
            raise LissomError(f"resnet needs {name} as a whole number ≥ 1, got {shown(number)}")
    if not isinstance(depth, int) or depth < 8 or (depth - 2) % 6:
        raise LissomError(
            f"a residual network of this kind has a depth of 8, 14, 20, 26, …, got {shown(depth)}"
        )
    if not isinstance(width, int | float) or not 0 < width < float("inf"):
        raise LissomError(f"resnet needs a width > 0, such as 0.5, got {shown(width)}")
    first, *_ = widths = [max(1, round(width * size)) for size in STAGES]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(channels, first, 3, padding=1, bias=False)
    layers["norm"] = nn.BatchNorm2d(first)
    layers["act"] = nn.ReLU()
    before = first
    for stage, size in enumerate(widths, 1):
        blocks = []
        for number in range((depth - 2) // 6):
            blocks.append(Block(before, size, 2 if stage > 1 and number == 0 else 1))
            before = size
        layers[f"stage{stage}"] = nn.Sequential(*blocks)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(before, classes)
    net = nn.Sequential(layers)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net
