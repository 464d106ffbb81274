"""JPEG CIFAR-10: 50,000 + 10,000 images of 32×32 pixels in 10 classes, as lossy JPEGs.

The images are those of CIFAR-10 (Krizhevsky 2009) after JPEG compression (quality about 75, 4:2:0),
so an error on them is no error on CIFAR-10: nothing here is called CIFAR-10 without the word JPEG.
"""

import hashlib
import tarfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from lissom.arguments import as_annotated
from lissom.data.dataset import Dataset
from lissom.data.files import (
    ENVIRONMENT_VARIABLE,
    as_images,
    as_labels,
    check_folder,
    named_folder,
    read,
)
from lissom.errors import DataError

ARCHIVE = "cifar10-jpeg.tar.xz"
SHA256 = "82f5de8985047595a74eac1e02240cf6c73739b678741c82a418b1bd91343afd"
SIDE = 32

WHERE_TO_PUT = (
    f"Put {ARCHIVE} (18,455,524 bytes) into <data_dir>/cifar10 or <data_dir>, and name <data_dir> "
    f"by the argument data_dir or the environment variable {ENVIRONMENT_VARIABLE}."
)


@as_annotated(DataError)
def load_jpeg_cifar10(data_dir: Path | str | None = None) -> Dataset:
    """JPEG CIFAR-10 from its archive `cifar10-jpeg.tar.xz`.

    Classes are numbered in alphabetical order, 0 is airplane and 9 is truck, as in CIFAR-10.
    Examples come in the order of their names, class by class. Pixels are Pillow's; other decoders
    of JPEG may differ in the last bit.

    Args:
        data_dir: the folder that holds `cifar10/` or the archive itself; None means the environment
            variable LISSOM_DATA_DIR.

    Returns:
        Images [50000, 3, 32, 32] and [10000, 3, 32, 32] with pixels in {0, 1/255, …, 1}.

    Raises:
        DataError: no folder is named, or the archive is missing, damaged or another one.
    """
    folder = named_folder(data_dir)
    if folder is None:
        raise DataError(
            f"JPEG CIFAR-10: no data_dir was given and {ENVIRONMENT_VARIABLE} is unset. "
            f"{WHERE_TO_PUT}"
        )
    files = _unpacked(_find(folder))
    classes = sorted({name.split("/")[1] for name in files})
    return Dataset(
        "jpeg-cifar10",
        *_part(files, "train", classes),
        *_part(files, "test", classes),
        classes=len(classes),
    )


def _find(data_dir: Path) -> Path:
    check_folder(data_dir, "JPEG CIFAR-10", WHERE_TO_PUT)
    places = [data_dir / "cifar10" / ARCHIVE, data_dir / ARCHIVE]
    for path in places:
        if path.is_file():
            return path
    looked = " or ".join(str(path) for path in places)
    raise DataError(f"JPEG CIFAR-10: there is no {looked}. {WHERE_TO_PUT}")


def _unpacked(path: Path) -> dict[str, bytes]:
    """The files of the archive by name, in memory: no name in it becomes a path on disk."""
    content = read(path)
    # The sum comes first, so that nothing unknown is unpacked or decoded.
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise DataError(
            f"{path} is not the archive of JPEG CIFAR-10, or is truncated or damaged: it must have "
            f"the sha256 {SHA256}, found {found} of {len(content):,} bytes; copy it again. "
            f"{WHERE_TO_PUT}"
        )
    files = {}
    try:
        with tarfile.open(fileobj=BytesIO(content), mode="r:xz") as archive:
            for member in archive:
                packed = archive.extractfile(member)
                if packed is not None:  # a folder has no content
                    files[member.name] = packed.read()
    except tarfile.TarError as error:  # such as a Python that was built without lzma
        raise DataError(f"{path} cannot be unpacked: {error}") from error
    return files


def _part(files: Mapping[str, bytes], part: str, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The images and labels under part/<class>/NNNN.jpg."""
    names = sorted(name for name in files if name.startswith(f"{part}/"))
    pixels = np.empty((len(names), SIDE, SIDE, 3), dtype=np.uint8)
    for image, name in zip(pixels, names, strict=True):
        with Image.open(BytesIO(files[name]), formats=["JPEG"]) as decoded:
            image[:] = np.asarray(decoded.convert("RGB"))
    return as_images(pixels), as_labels([classes.index(name.split("/")[1]) for name in names])
