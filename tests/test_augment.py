"""Augmentation: what is done to an image, what is drawn, and that runs repeat and go on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_cases import (
    BATCH,
    CLASSES,
    EXAMPLES,
    Killed,
    blobs,
    conv,
    events_in,
    kill,
    same,
    state,
    timeless,
    trainer,
)

from lissom.errors import RunError
from lissom.training import Augment, Teacher, loss_and_error


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("height", "width"), [(6, 6), (4, 7), (5, 1)])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("pad", [0, 1, 4])
def test_pixel_by_pixel(pad: int, flip: bool, height: int, width: int) -> None:
    if not pad and not flip:
        return
    augment = Augment(pad, flip)
    images = torch.rand(30, 3, height, width, generator=seeded())
    before = images.clone()
    moves = augment.draw(30, seeded(1))
    moved = augment(images, moves)
    assert moved.shape == images.shape and torch.equal(images, before)
    for image, found, (down, right, mirrored) in zip(images, moved, moves.tolist(), strict=True):
        expected = torch.zeros_like(image)
        for row in range(height):
            for column in range(width):
                i = row + down - pad
                j = (width - 1 - column if mirrored else column) + right - pad
                if 0 <= i < height and 0 <= j < width:
                    expected[:, row, column] = image[:, i, j]
        assert torch.equal(found, expected)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("pad", [0, 1, 3])
def test_each_way_to_move_an_image_has_a_number(pad: int, flip: bool) -> None:
    if not pad and not flip:
        return
    augment = Augment(pad, flip)
    every = augment.all_moves()
    assert len(every) == augment.ways == len({tuple(moves) for moves in every.tolist()})
    assert augment.way(every).tolist() == list(range(augment.ways))
    moves = augment.draw(200, seeded())
    assert torch.equal(every[augment.way(moves)], moves)
    assert len(augment.way(augment.draw(5000, seeded())).unique()) == augment.ways


def test_every_move_is_as_likely_as_any_other() -> None:
    moves = Augment(4, True).draw(40_000, seeded())
    for offsets in moves.T[:2]:
        counts = offsets.bincount()
        assert len(counts) == 9 and counts.min() > 0.9 * 40_000 / 9
    assert abs(moves[:, 2].float().mean() - 0.5) < 0.02
    correlation = torch.corrcoef(moves.T.float()) - torch.eye(3)
    assert correlation.abs().max() < 0.03
    assert not Augment(4).draw(100, seeded())[:, 2].any()
    assert not Augment(0, True).draw(100, seeded())[:, :2].any()


@pytest.mark.gpu
def test_a_gpu_sees_the_same_images() -> None:
    augment, images = Augment(4, True), torch.rand(50, 3, 32, 32)
    moves = augment.draw(50, seeded())
    assert torch.equal(augment(images, moves), augment(images.cuda(), moves.cuda()).cpu())


class Watched(nn.Module):
    """Keeps what it is shown in training."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, CLASSES)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(x.detach().clone())
        return self.fc(x.flatten(1))


def shown(augment: Augment | None, **options: Any) -> list[Tensor]:
    """All images of each epoch, in the order of the examples."""
    data, net = blobs(image=8), Watched()
    options = {"epochs": 2, "seed": 3, "batch_size": BATCH, **options}
    trainer(net, data, augment=augment, **options).fit()
    steps = -(-EXAMPLES // options["batch_size"])
    epochs = []
    for epoch in range(options["epochs"]):
        order = torch.randperm(EXAMPLES, generator=seeded(3 * 1_000_003 + epoch))
        images = torch.cat(net.seen[epoch * steps : (epoch + 1) * steps])
        epochs.append(images[order.argsort()])
    return epochs


def test_each_epoch_shows_each_example_moved_anew() -> None:
    x = blobs(image=8).train_x
    assert all(torch.equal(images, x) for images in shown(None)), "and in the same order without"
    first, second = shown(Augment(1, True))
    assert not torch.equal(first, second)
    for images in (first, second):
        padded = nn.functional.pad(x, [1] * 4)
        windows = [padded[:, :, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
        windows += [window.flip(3) for window in windows]
        found = torch.stack([(images == window).flatten(1).all(1) for window in windows])
        assert found.any(0).all(), "every image is one of the 18 of its own example"
        assert len(found.any(1).nonzero()) > 9


def test_moves_are_of_the_seed_the_epoch_and_the_example_alone() -> None:
    augment = Augment(2, True)
    usual = shown(augment)
    torch.manual_seed(99)
    for other in (shown(augment), shown(augment, batch_size=24), shown(augment, epochs=3)[:2]):
        assert same(usual, other)


def test_what_is_evaluated_is_not_augmented() -> None:
    data, net = blobs(image=8), conv()
    event = trainer(net, data, augment=Augment(3, True)).fit()
    found = loss_and_error(net, data.train_x, data.train_y)
    assert found == (event.train.loss, event.train.error)


@pytest.mark.parametrize("moment", ["progress", "evaluation"])
def test_an_augmented_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, moment: str) -> None:
    def run(out: Path, report: Any = None) -> Any:
        options = {"augment": Augment(2, True), "epochs": 4, "channels_last": True}
        return trainer(conv(), blobs(image=8), out=out, report=report, **options)

    whole = run(tmp_path / "whole")
    expected = whole.fit()
    plain = trainer(conv(), blobs(image=8), epochs=4, channels_last=True)
    plain.fit()
    assert not same(state(plain.model), state(whole.model))
    for epoch in (1, 2, 3):
        out = tmp_path / str(epoch)
        with pytest.raises(Killed):
            run(out, kill(moment, epoch)).fit()
        resumed = run(out)
        resumed.resume()
        assert timeless([resumed.fit()]) == timeless([expected])
        assert same(state(resumed.model), state(whole.model))
        assert timeless(events_in(out)) == timeless(events_in(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Augment(), r"does nothing: pad=4, flip=True"),
        (lambda: Augment(-1), r"whole number of pixels ≥ 0, got -1"),
        (lambda: Augment(2.5, True), r"whole number of pixels ≥ 0, got 2\.5"),
        (lambda: trainer(augment={"pad": 4}), r"Augment\(pad=4, flip=True\), got \{'pad': 4\}"),
        (lambda: trainer(augment=Augment(4)),
         r"augment is for images \[channels, height, width\], but examples here are \[4\]"),
        (lambda: trainer(conv(), blobs(image=8), augment=Augment(4),
                         teacher=Teacher(torch.zeros(EXAMPLES, CLASSES))),
         r"a teacher's logits are of the training examples as they are, and augment shows others"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(RunError, match=message):
        make()
