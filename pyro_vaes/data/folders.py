"""Folders of images: which files, and what they hold as bytes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vaes.data.declared import check_memory
from pyro_vaes.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")

#: Pillow's modes that are read, and as what.
MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}


def listed(path: Path) -> tuple[list[Path], list[int] | None]:
    """Give the image files of a folder in sorted order; with class subfolders, their classes by sorted name too.

    A link to a folder that was read before, as in a circle of links, leads to nothing new.

    Raises:
        InputError: no images, an empty class, or a folder that cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat", "dog"):
    ...         (Path(folder) / name).mkdir()
    ...         (Path(folder) / name / "1.png").touch()
    ...     found, classes = listed(Path(folder))
    >>> [file.name for file in found], classes
    (['1.png', '1.png'], [0, 1])
    """
    try:
        names = sorted(child.name for child in path.iterdir() if child.is_dir())
        by_class = [sorted(_images_below(path / name)) for name in names]
        found = sorted(_chosen(path, os.listdir(path))) if not names else [file for files in by_class for file in files]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    empty = [name for name, files in zip(names, by_class, strict=True) if not files]
    if empty:
        raise InputError(f"{path}: cannot be read: there is no image in {', '.join(map(repr, empty))}: {_suffixes()}")
    if not found:
        raise InputError(f"{path}: holds no images ({_suffixes()})")
    return found, [i for i, files in enumerate(by_class) for _ in files] if names else None


def _suffixes() -> str:
    return ", ".join(IMAGE_SUFFIXES)


def _chosen(folder: str | Path, names: Sequence[str]) -> Iterator[Path]:
    return (Path(folder) / name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES)


def _images_below(path: Path) -> Iterator[Path]:
    """The image files of a folder and of those in it, each folder once: links can make circles, and trees of them."""
    seen = set()
    for folder, below, names in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below.sort()
        yield from _chosen(folder, names)


def spread(n: int, limit: int | None) -> list[int]:
    """Choose min(n, limit) indices spread evenly over 0 .. n - 1: index i is floor(i n / limit).

    >>> spread(10, 4), spread(3, None)
    ([0, 2, 5, 7], [0, 1, 2])
    """
    size = min(n, limit or n)
    return [i * n // size for i in range(size)]


def images(files: Sequence[Path], prepare: Callable[[Any], Any] | None = None) -> np.ndarray:
    """Decode image files of one size into bytes of shape (N, H, W), or (N, H, W, 3) for colour.

    Arguments:
        files: at least one file that Pillow reads.
        prepare: applied to every Pillow image, such as a crop.

    Raises:
        InputError: a file is damaged, no ordinary file, or of more pixels than Pillow takes for an attack; its size
            or number of channels differs from the first one's; it has other than 1 or 3 channels (an alpha channel,
            say); or all of them together are more than the memory.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "face.png"
    ...     Image.new("L", (20, 28)).save(path)
    ...     images([path]).shape
    (1, 28, 20)
    """
    first = _image(files[0], prepare)
    check_memory(len(files) * first.nbytes, f"{len(files)} images like {files[0]}")
    array = np.empty((len(files), *first.shape), dtype=np.uint8)
    for slot, file in zip(array, files, strict=True):
        image = _image(file, prepare)
        if image.shape != first.shape:
            raise InputError(
                f"{file}: is {_size(image)}, but {files[0]} is {_size(first)}: all images must have one size"
            )
        slot[:] = image
    return array


def _image(file: Path, prepare: Callable[[Any], Any] | None) -> np.ndarray:
    from PIL import Image

    # To open a pipe is to wait for whoever writes into it.
    if not file.is_file():
        raise InputError(f"{file}: is not an ordinary file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                if image.mode not in MODES:
                    raise InputError(
                        f"{file}: has {len(image.getbands())} channel(s) of mode {image.mode}: "
                        "images must be 8-bit grey (1 channel) or RGB (3)"
                    )
                image.load()
                plain = image.convert(MODES[image.mode])
                return np.asarray(prepare(plain) if prepare else plain)
    except InputError:
        raise
    except Exception as error:  # Pillow's readers do not define what a damaged file raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{file}: cannot be read: {reason}") from error


def _size(image: np.ndarray) -> str:
    return f"{image.shape[0]} x {image.shape[1]} with {1 if image.ndim == 2 else image.shape[2]} channel(s)"
