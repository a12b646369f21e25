"""What a file says it holds, before anything of it is read: a small one may unpack to more than any memory."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from pyro_vaes.errors import InputError, first_line

#: Bytes that one array of a compressed file (.npz, .mat) may unpack to. What is larger belongs into a .npy file, which
#: is read through a memory map.
UNPACKED = 2**32

OBJECTS = "it holds Python objects, which are never unpickled: save a plain numeric array"


def check_npy(file: IO[bytes], size: int, where: str) -> None:
    """Refuse an array in numpy's format that holds objects, or more than the ``size`` bytes from its start on.

    The file is left where it was.

    Raises:
        InputError: naming what is wrong. ValueError: for what is no such file.

    >>> import io
    >>> file = io.BytesIO()
    >>> np.save(file, np.zeros(3))
    >>> _ = file.seek(0)
    >>> check_npy(file, 128, "x.npy")
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: x.npy: cannot be read: it claims 24 bytes of float64 of shape (3,) and holds none
    """
    start = file.tell()
    version = np.lib.format.read_magic(file)
    readers: dict[Any, Any] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        # The third version is for the names of fields in Unicode.
        raise InputError(f"{where}: cannot be read: format {version}: save one plain array of numbers")
    shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise InputError(f"{where}: cannot be read: {OBJECTS}")
    if any(n < 0 for n in shape):
        raise InputError(f"{where}: cannot be read: it claims shape {shape}")
    # In Python's numbers, which do not overflow.
    claimed, there = math.prod(shape) * dtype.itemsize, size - (file.tell() - start)
    if claimed > there:
        held = f"only {there:,}" if there > 0 else "none"
        raise InputError(
            f"{where}: cannot be read: it claims {claimed:,} bytes of {dtype} of shape {shape} and holds {held}"
        )
    file.seek(start)


def read_npy(path: str | Path, where: str) -> np.ndarray:
    """Read the one array of numbers that a .npy file holds, of no more bytes than the file.

    Raises:
        InputError: for a file that is missing, no ordinary one, or holds anything else.

    >>> read_npy("nothing.npy", "mask nothing.npy")
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: mask nothing.npy: there is no such file: give a .npy file
    """
    try:
        ordinary = Path(path).is_file()
    except (OSError, ValueError):
        ordinary = False
    if not ordinary:
        raise InputError(f"{where}: there is no such file: give a .npy file")
    try:
        with Path(path).open("rb") as file:
            check_npy(file, Path(path).stat().st_size, where)
            return np.lib.format.read_array(file, allow_pickle=False)
    except InputError:
        raise
    except Exception as error:  # what a damaged file raises depends on where the damage is
        raise InputError(f"{where}: cannot be read as a .npy array: {first_line(error)}") from error


def check_unpacked(size: int, where: str) -> None:
    """Refuse an array of a compressed file that would not fit.

    >>> check_unpacked(10**10, "x.npz[x]")
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: x.npz[x]: unpacks to 10,000,000,000 bytes, and at most 4,294,967,296 are read from ...
    """
    if size > UNPACKED:
        raise InputError(
            f"{where}: unpacks to {size:,} bytes, and at most {UNPACKED:,} are read from a compressed file: save it as "
            ".npy, which is read through a memory map"
        )


def check_npz(path: Path, names: list[str]) -> None:
    """Refuse an archive whose arrays of these names claim too much, or more than is there.

    Raises:
        InputError: naming array and file. ValueError, zipfile.BadZipFile: for what is no such file.
    """
    with zipfile.ZipFile(path) as archive:
        for name in names:
            where = f"{path}[{name}]"
            member = archive.getinfo(f"{name}.npy" if f"{name}.npy" in archive.namelist() else name)
            check_unpacked(member.file_size, where)
            with archive.open(member) as file:
                check_npy(file, member.file_size, where)


#: Bytes of one entry, by MATLAB's name of a kind of numbers.
ENTRY = {"double": 8, "single": 4, "logical": 1} | {
    f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)
}


def mat_arrays(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Give name, shape and kind of what a .mat file claims to hold; nothing of it is unpacked.

    Raises:
        InputError: for an array that claims too much.
    """
    from scipy.io import whosmat

    found = {name: (tuple(shape), kind) for name, shape, kind in whosmat(path) if not name.startswith("__")}
    for name, (shape, kind) in found.items():
        check_unpacked(math.prod(shape) * ENTRY.get(kind, 8), f"{path}[{name}]")
    return found


def check_memory(size: int, where: str) -> None:
    """Refuse to make an array that this machine has no memory for.

    >>> check_memory(2**60, "faces")
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: faces: takes 1,152,921,504,606,846,976 bytes, more than the memory of this machine: ...
    """
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not told on every system
        return
    if size > memory:
        raise InputError(
            f"{where}: takes {size:,} bytes, more than the memory of this machine: give a limit, or a .npy file, which "
            "is read through a memory map"
        )
