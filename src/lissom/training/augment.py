"""Augmentation: each epoch sees every image somewhat shifted, and half of them mirrored."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lissom.errors import RunError


@dataclass(frozen=True)
class Augment:
    """Random crops and flips, the standard augmentation of small photographs.

    An image gets `pad` black pixels on each side, and a window of its old size is cut out at a
    random place; with `flip` it is mirrored left to right with probability ½. A whole batch is done
    at once, where it lies. What happens to which image is drawn apart from doing it, on the CPU for
    a whole epoch, so that it depends on the generator's seed and not on the device or on batches.

    Attributes:
        pad: pixels on each side, 0 for no crops.
        flip: whether images are mirrored.

    Raises:
        RunError: for a `pad` that cannot be, or if neither is asked for.

    Source: He et al. 2016, section 4.2.
    """

    pad: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.pad, int) or self.pad < 0:
            what = f"pad is a whole number of pixels ≥ 0, got {self.pad!r}"
            raise RunError(what, field="pad")
        if not self.pad and not self.flip:
            raise RunError("augmentation without crops and flips does nothing: pad=4, flip=True")

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Rows and columns skipped in the padded image, and whether it is mirrored: int64 [n, 3].

        Args:
            n: images.
            generator: on the CPU.
        """
        offsets = torch.randint(2 * self.pad + 1, (n, 2), generator=generator)
        mirrored = torch.randint(1 + self.flip, (n, 1), generator=generator)
        return torch.cat([offsets, mirrored], 1)

    @property
    def ways(self) -> int:
        """In how many ways an image can be moved."""
        return (2 * self.pad + 1) ** 2 * (1 + self.flip)

    def all_moves(self) -> Tensor:
        """Each of the ways once, in the order of `way`: int64 [ways, 3]."""
        offsets = torch.arange(2 * self.pad + 1)
        return torch.cartesian_prod(offsets, offsets, torch.arange(1 + self.flip))

    def way(self, moves: Tensor) -> Tensor:
        """Which of the ways each is, int64 [n]."""
        down, right, mirrored = moves.T
        number: Tensor = ((2 * self.pad + 1) * down + right) * (1 + self.flip) + mirrored
        return number

    def __call__(self, images: Tensor, moves: Tensor) -> Tensor:
        """Move images as drawn.

        Args:
            images: [n, c, h, w].
            moves: int64 [n, 3], of `draw`, on the same device.

        Returns:
            [n, c, h, w]; the given images stay as they are.
        """
        n, _, height, width = images.shape
        number = torch.arange(n, device=images.device)[:, None, None]
        down, right, mirrored = moves.T.unsqueeze(2)  # [n, 1] each
        rows = down + torch.arange(height, device=images.device)  # [n, h]
        columns = torch.arange(width, device=images.device)
        columns = right + torch.where(mirrored == 1, columns.flip(0), columns)  # [n, w]
        padded = F.pad(images, [self.pad] * 4)
        moved = padded[number, :, rows[:, :, None], columns[:, None, :]]  # [n, h, w, c]
        return moved.permute(0, 3, 1, 2).contiguous()
