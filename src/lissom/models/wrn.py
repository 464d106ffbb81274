"""Wide residual networks, for images of 32×32 pixels."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from lissom.arguments import as_annotated, is_number, shown, whole
from lissom.errors import LissomError
from lissom.models.normalize import Normalize
from lissom.models.residual import stages, start_as_he
from lissom.models.sizes import require_whole


class WideBlock(nn.Module):
    """x + conv2(dropout(relu(norm2(conv1(relu(norm1(x))))))), each convolution 3×3.

    Where the width or the side changes, the first x is a 1×1 convolution of relu(norm1(x)).

    Args:
        channels: of the input.
        out_channels: of the output.
        stride: 2 halves the side.
        dropout: between the convolutions.
    """

    def __init__(self, channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if channels != out_channels or stride != 1:
            self.shortcut = nn.Conv2d(channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [n, channels, h, w] to [n, out_channels, h/stride, w/stride]."""
        active = F.relu(self.norm1(x))
        base: Tensor = x if self.shortcut is None else self.shortcut(active)
        inner: Tensor = self.dropout(F.relu(self.norm2(self.conv1(active))))
        total: Tensor = base + self.conv2(inner)
        return total


@as_annotated(LissomError, "depth", "widen", "classes", "dropout", "channels")
def wide_resnet(
    depth: int = 28,
    widen: int = 10,
    classes: int = 10,
    dropout: float = 0.0,
    channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Sequential:
    """WRN-depth-widen: 36,479,194 parameters for WRN-28-10 and ten classes.

    Maps images [n, channels, h, w] to logits [n, classes], for sides of 4 pixels or more. A 3×3
    convolution of 16 channels, three stages of (depth − 4)/6 blocks with 16, 32 and 64 times
    `widen` channels, the last two of which start with stride 2, then BatchNorm, ReLU, the mean over
    pixels and a dense layer. With `mean` and `std` a layer `normalize` comes before all of them, so
    that the network takes pixels in [0, 1]. Children: `conv`, `stage1`, `stage2`, `stage3`, `norm`,
    `act`, `pool`, `flatten`, `fc`. He's initialisation (fan out) of the convolutions.

    Args:
        depth: layers with weights along the longest way: 6k + 4.
        widen: the factor of the widths.
        classes: outputs.
        dropout: between the two convolutions of each block, 0 ≤ p < 1.
        channels: of the images; None means as many as there are means, or 3.
        mean: of the pixels, for each channel; together with `std`, or not at all.
        std: of the pixels, for each channel.

    Raises:
        LissomError: numbers that cannot be.

    Source: Zagoruyko & Komodakis 2016, table 1, with pre-activation (He et al. 2016).
    """
    if (mean is None) != (std is None):
        given, lacking = ("mean", "std") if std is None else ("std", "mean")
        raise LissomError(f"pixels are normalised by both: give {lacking} as well", field=given)
    if channels is None:
        channels = 3 if mean is None else len(mean)
    require_whole("wide_resnet", widen=widen, classes=classes, channels=channels)
    if not whole(depth, least=10) or (depth - 4) % 6:
        raise LissomError(
            f"a wide residual network has a depth of 10, 16, 22, 28, …, got {shown(depth)}"
        )
    if not is_number(dropout) or not 0 <= dropout < 1:
        raise LissomError(f"dropout is a probability 0 ≤ p < 1, got {shown(dropout)}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if mean is not None and std is not None:
        if len(mean) != channels:
            raise LissomError(
                f"images of {channels} channels are normalised by {channels} means and "
                f"{channels} stds, got mean={shown(mean)} and std={shown(std)}"
            )
        layers["normalize"] = Normalize(mean, std)
    layers["conv"] = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
    widths = 16 * widen, 32 * widen, 64 * widen
    layers |= stages(16, widths, (depth - 4) // 6, partial(WideBlock, dropout=float(dropout)))
    layers["norm"] = nn.BatchNorm2d(widths[-1])
    layers["act"] = nn.ReLU()
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(widths[-1], classes)
    net = nn.Sequential(layers)
    start_as_he(net)
    nn.init.zeros_(layers["fc"].bias)  # type: ignore[arg-type]
    return net
