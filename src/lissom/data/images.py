"""Images in folders by class, and images as arrays of one size."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lissom.data.parts import Columns, Parts
from lissom.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
GREY = ("1", "L")
DEEP = ("I", "F")  # how modes of more than 8 bits begin; Pillow cuts them off at 255
NAMED = {"train": ("train",), "valid": ("valid", "validation", "val"), "test": ("test",)}


def read_images(folder: Path, wanted: Columns) -> Parts:
    """Images in folders by class, `cat/1.png`, or these in folders by part, `train/cat/1.png`.

    Raises:
        DataError: for a folder without them, classes that parts do not share, or images of several
            sizes.
    """
    wanted.refuse(folder, "target", "inputs")
    named = {
        part: folder / name
        for part, names in NAMED.items()
        for name in names
        if (folder / name).is_dir()
    }
    places = named if "train" in named else {"train": folder}
    classes = sorted(f.name for f in _folders(places["train"]) if list(_files(f)))
    if len(classes) < 2:
        raise DataError(
            f"{places['train']} needs a folder of images for each class, such as cat/1.png and "
            f"dog/1.png ({', '.join(SUFFIXES[:4])} …), and has {len(classes)} of them"
        )
    found = {}
    for part, place in places.items():
        labelled = [(file, i) for i, name in enumerate(classes) for file in _files(place / name)]
        if strange := [f.name for f in _folders(place) if f.name not in classes]:
            raise DataError(f"{place / strange[0]} is of no class that is in {places['train']}")
        found[part] = [file for file, _ in labelled], np.array([i for _, i in labelled], np.int64)
    paths = [path for files, _ in found.values() for path in files]
    pixels = as_array([_opened(path) for path in paths], list(map(str, paths)), wanted.size)
    columns, start = {}, 0
    for part, (files, labels) in found.items():
        columns[part] = pixels[start : start + len(files)], labels
        start += len(files)
    return Parts(columns, tuple(classes))


def as_array(
    images: Sequence[Image.Image], names: Sequence[str], size: tuple[int, ...] | None
) -> NDArray[np.uint8]:
    """[n, 1 or 3, h, w] bytes; one channel where all images are grey.

    Args:
        images: of Pillow.
        names: of each, for messages.
        size: (h, w) that they are brought to; None where all have one size.

    Raises:
        DataError: for images of several sizes, or of more than 8 bits.
    """
    for image, name in zip(images, names, strict=True):
        if image.mode.startswith(DEEP):
            raise DataError(
                f"{name} has pixels of more than 8 bits (mode {image.mode!r} of Pillow), and how "
                "much of their range counts is not known here: give them as floats x [n, 1, h, w] "
                "in an .npz file"
            )
    if size is not None:
        if len(size) != 2 or min(size) < 1:
            raise DataError(f"size is [height, width] in pixels, got {list(size)}")
        images = [image.resize((size[1], size[0]), Image.Resampling.BILINEAR) for image in images]
    for image, name in zip(images, names, strict=True):
        if image.size != images[0].size:
            w, h = images[0].size
            raise DataError(
                f"{name} has {image.size[1]}×{image.size[0]} pixels and {names[0]} {h}×{w}: bring "
                f"them to one size, as size = [{h}, {w}]"
            )
    grey = all(image.mode in GREY for image in images)
    pixels = np.stack([np.asarray(image.convert("L" if grey else "RGB")) for image in images])
    return pixels[:, None] if grey else pixels.transpose(0, 3, 1, 2)


def _folders(place: Path) -> Iterable[Path]:
    """All but hidden ones, as notebooks leave them (.ipynb_checkpoints)."""
    return [f for f in place.iterdir() if f.is_dir() and not f.name.startswith(".")]


def _files(folder: Path) -> Iterable[Path]:
    """Images, but for hidden files, as macOS leaves them beside each (._1.png)."""
    if folder.is_dir():
        found = (f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)
        yield from sorted(f for f in found if not f.name.startswith("."))


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error
