"""What residual networks of small photographs have in common."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn


def stages(
    channels: int, widths: Sequence[int], blocks: int, make: Callable[[int, int, int], nn.Module]
) -> OrderedDict[str, nn.Module]:
    """`stage1`, `stage2`, …, each of as many blocks; all but the first begin with stride 2.

    Args:
        channels: of the input.
        widths: channels of each stage.
        blocks: in a stage.
        make: a block from the channels of its input, those of its output, and its stride.
    """
    made: OrderedDict[str, nn.Module] = OrderedDict()
    for stage, width in enumerate(widths, 1):
        inputs = [channels, *[width] * (blocks - 1)]
        strides = [2 if stage > 1 else 1, *[1] * (blocks - 1)]
        made[f"stage{stage}"] = nn.Sequential(
            *(make(before, width, stride) for before, stride in zip(inputs, strides, strict=True))
        )
        channels = width
    return made


def start_as_he(net: nn.Module) -> None:
    """He's initialisation (fan out) of all convolutions."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
