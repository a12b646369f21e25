"""Tar files in the layout of WebDataset: members that share a key are a sample. The reader is webdataset's.

Nothing is unpacked and nothing is unpickled: of a sample only an array or image, and a label, are ever opened.
"""

from __future__ import annotations

import io
import math
import re
import tarfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vaes.data.folders import MODES
from pyro_vaes.errors import InputError, first_line

IMAGES = ("png", "jpg", "jpeg")
REFUSED = {"pkl", "pickle", "pyd", "pth", "pt"}
#: What webdataset's reader leaves out, its notes about the shard.
SKIPPED = re.compile(r"__[^/]*__($|/)")
#: A unit is so many samples, or fewer if they are large.
SAMPLES, BYTES = 1024, 2**25
#: Bytes of a decoded datum, at most.
LARGEST = 2**28


class Tars:
    """Read stretches of tar files. The headers of all members are gone through once; their data are not.

    A sample is the members ``KEY.npy`` or ``KEY.png`` (``.jpg``), and perhaps ``KEY.cls``, a whole number, one after
    the other; other members are left alone.

    Attributes:
        units: (file, first byte, byte after the last, rows, first sample) of every stretch.
        shape: of a datum, channel first. dtype: uint8 or float32. labelled: whether there are labels.
    """

    def __init__(self, paths: Sequence[Path]):
        self.wds = _webdataset()
        self.paths: list[Path] = list(paths)
        self.units: list[tuple[int, int, int, int, int]] = []
        self.shape, self.dtype, self.labelled = self._first()
        length = max(1, min(SAMPLES, BYTES // (math.prod(self.shape) * self.dtype.itemsize)))
        self.units = []
        for i, path in enumerate(self.paths):
            self.units += [(i, *stretch) for stretch in _stretches(path, length, self.wds.base_plus_ext)]

    def _first(self) -> tuple[tuple[int, ...], np.dtype, bool]:
        """Let the first sample say what a datum is."""
        for i, path in enumerate(self.paths):
            for start, end, rows, first in _stretches(path, 1, self.wds.base_plus_ext):
                self.units = [(i, start, end, rows, first)]
                sample = next(self._samples(0))
                array, kind = self._decoded(sample, self.place(0, 0), None)
                self.image = kind in IMAGES
                return array.shape, array.dtype, "cls" in sample
        raise InputError(f"{self.paths[0]}: holds no samples: there must be members KEY.npy, KEY.png or KEY.jpg")

    def read(self, unit: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Decode a stretch: (rows, d) and the labels (rows,)."""
        rows = self.units[unit][3]
        x = np.empty((rows, math.prod(self.shape)), self.dtype)
        y = np.empty(rows, np.int64) if self.labelled else None
        count = 0
        for row, sample in enumerate(self._samples(unit)):
            where = self.place(unit, row)
            array, _ = self._decoded(sample, where, self.image)
            if array.shape != self.shape or array.dtype != self.dtype:
                raise InputError(
                    f"{where}: is {array.dtype} of shape {array.shape}, the first sample {self.dtype} of {self.shape}"
                )
            x[row] = array.reshape(-1)
            if ("cls" in sample) != self.labelled:
                raise InputError(
                    f"{where}: {'has a' if 'cls' in sample else 'lacks the'} label, unlike the first sample"
                )
            if y is not None:
                y[row] = _label(sample["cls"], where)
            count = row + 1
        if count != rows:
            raise InputError(f"{self.place(unit, 0)}: {count} samples instead of {rows}: the file has changed")
        return x, y

    def _samples(self, unit: int) -> Iterator[dict[str, Any]]:
        """Let webdataset's reader go through a stretch of a file, which is a tar file of its own."""
        file, start, end, _, _ = self.units[unit]
        try:
            with self.paths[file].open("rb") as opened:
                opened.seek(start)
                content = opened.read(end - start)
            members = self.wds.tar_file_iterator(io.BytesIO(content + bytes(1024)))
            url = str(self.paths[file])
            yield from self.wds.group_by_keys({**member, "__url__": url} for member in members)
        except InputError:
            raise
        except Exception as error:  # a damaged file surfaces as nearly any error
            raise InputError(f"{self.place(unit)}: cannot be read: {first_line(error)}") from error

    def _decoded(self, sample: dict[str, Any], where: str, image: bool | None) -> tuple[np.ndarray, str]:
        found = [kind for kind in ("npy", *IMAGES) if kind in sample]
        if len(found) != 1 or (image is not None and (found[0] in IMAGES) != image):
            held = ", ".join(kind for kind in sample if not kind.startswith("__")) or "nothing"
            raise InputError(f"{where}: holds {held}: a sample is one .npy, .png or .jpg, of one kind in all shards")
        data = sample[found[0]]
        return (_npy(data, where) if found[0] == "npy" else _image(data, where)), found[0]

    def place(self, unit: int, row: int | None = None) -> str:
        """Say where a row of a unit lies."""
        file, _, _, _, first = self.units[unit]
        return f"{self.paths[file]}, sample {first + (row or 0)}"


def _stretches(path: Path, length: int, split: Any) -> Iterator[tuple[int, int, int, int]]:
    """Go through the headers of a file, and cut it between samples: (first byte, byte after, samples, first sample)."""
    start, rows, first, key, last = 0, 0, 0, None, 0
    for member in _members(path):
        name, suffix = split(member.name)
        if name is None or SKIPPED.match(member.name):
            continue
        if set(suffix.lower().split(".")) & REFUSED:
            raise InputError(f"{path}: {_named(member)} is a pickle, which is never opened: write .npy or .png")
        if name != key:
            if rows == length:
                yield start, member.offset, rows, first
                start, rows, first = member.offset, 0, first + rows
            key, rows = name, rows + 1
        last = member.offset_data + -(-member.size // 512) * 512
    if rows:
        yield start, last, rows, first


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """Give the members of a file, and refuse those that are more than a plain piece of it."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined] # which would grow with the file
                _check_member(path, member)
                if member.isreg():
                    yield member
            # A header that cannot be read looks like the end to tarfile.
            file.seek(tar.offset)
            rest = file.read(512)
            if tar.offset + 512 > size or rest.strip(b"\0"):
                raise InputError(f"{path}: is cut off or damaged at byte {tar.offset:,} of {size:,}")
    except InputError:
        raise
    except tarfile.ReadError as error:
        raise InputError(f"{path}: is no tar file, or is cut off: {first_line(error)}") from error
    except Exception as error:  # a damaged header surfaces as nearly any error
        raise InputError(f"{path}: cannot be read: {first_line(error)}") from error


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    parts = member.name.split("/")
    if member.name.startswith("/") or ".." in parts or "\\" in member.name or "\0" in member.name:
        raise InputError(f"{path}: {_named(member)} is no plain name inside of the shard")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise InputError(f"{path}: {_named(member)} is a link, a device or sparse: members must be plain files")


def _named(member: tarfile.TarInfo) -> str:
    return f"member {member.name[:60]!r}"


def _npy(data: bytes, where: str) -> np.ndarray:
    """Read an array whose header says no more than there is."""
    first = data[6:7] == b"\x01"  # of the format's versions, whose header has a length of two bytes
    end = 10 + int.from_bytes(data[8:10], "little") if first else 12 + int.from_bytes(data[8:12], "little")
    try:
        shape, fortran, dtype = _header(data[:end])
    except Exception as error:  # numpy parses the header as Python, with any error
        raise InputError(f"{where}: .npy cannot be read: {first_line(error)}") from error
    if dtype.kind not in "buif":
        raise InputError(f"{where}: holds {dtype} values: it must hold real numbers, and no objects")
    count = math.prod(shape)
    if count < 1 or any(n < 0 for n in shape) or count * dtype.itemsize != len(data) - end:
        raise InputError(f"{where}: says shape {shape} of {dtype}, which its {len(data)} bytes do not hold")
    array = np.frombuffer(data, dtype, count, end).reshape(shape, order="F" if fortran else "C")
    _check_shape(array.shape, where)
    if array.dtype == np.uint8:
        return array
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


@lru_cache(16)
def _header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """What a header says; those of a shard are mostly the same, and numpy parses each as Python."""
    stream = io.BytesIO(header)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _image(data: bytes, where: str) -> np.ndarray:
    from PIL import Image

    try:
        # The formats that the suffixes name, and none of Pillow's others.
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.mode not in MODES:
                raise InputError(f"{where}: mode {image.mode}: images must be 8-bit grey (1 channel) or RGB (3)")
            if 3 * image.width * image.height > LARGEST:
                raise InputError(f"{where}: {image.width} x {image.height} pixels are too many")
            array = np.asarray(image.convert(MODES[image.mode]))
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything
        raise InputError(f"{where}: image cannot be read: {first_line(error)}") from error
    return array if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _check_shape(shape: tuple[int, ...], where: str) -> None:
    if len(shape) not in (1, 2, 3) or (len(shape) == 3 and shape[0] not in (1, 3)):
        raise InputError(f"{where}: has shape {shape}: a datum is (d,), (H, W) or (C, H, W) with 1 or 3 channels")
    if math.prod(shape) > LARGEST:
        raise InputError(f"{where}: has shape {shape}, more than {LARGEST:,} entries")


def _label(data: bytes, where: str) -> int:
    text = data[:40].decode("ascii", errors="replace").strip()
    try:
        return int(text) if len(data) < 40 else int("no")
    except ValueError:
        raise InputError(f"{where}: label {text[:20]!r} is not a whole number") from None


def _webdataset() -> Any:
    try:
        from webdataset import tariterators
    except ImportError:
        raise InputError('tar shards need webdataset: pip install "pyro-vaes[shards]"') from None
    return tariterators
