"""Checkpoints: one file of tensors and plain values, written whole or not at all."""

import json
import os
import struct
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pyro_vaes.errors import InputError, said, short

FORMAT = "pyro-vaes checkpoint 1"


def write_atomically(path: str | Path, content: bytes, previous: Path | None = None) -> None:
    """Write a file so that at any moment either the old one or the new one is there, whole.

    Args:
        previous: what the old one is called from now on; without it the old one goes.

    Raises:
        OSError: with the name of the file that could not be written, such as on a full disk; the old one is left.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(f"{folder}/a.txt", b"whole")
    ...     Path(folder, "a.txt").read_text()
    'whole'
    """
    path, temporary = Path(path), None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read.
        os.chmod(temporary, 0o666 & ~_umask())
        if previous is not None and path.exists():
            _keep(path, previous)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _keep(path: Path, previous: Path) -> None:
    """Give a file a second name, so that there is no moment without the first."""
    name = path.with_name(f".{previous.name}.{os.urandom(4).hex()}")
    try:
        os.link(path, name)
    except OSError:
        # No hard links on this file system: for a moment there is the previous one alone, which a reader falls back to.
        os.replace(path, previous)
    else:
        os.replace(name, previous)
        # Where both names were one file already, that has done nothing.
        name.unlink(missing_ok=True)


def save(path: str | Path, tensors: dict[str, Tensor], values: dict[str, Any], previous: Path | None = None) -> None:
    """Write tensors and plain (JSON) values into one safetensors file, atomically, with a checksum of both.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/c", {"a": torch.ones(2)}, {"step": 3})
    ...     load(f"{folder}/c")
    ({'a': tensor([1., 1.])}, {'step': 3})
    """
    # safetensors refuses tensors that share memory; a copy of each is small beside a wrong file.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "values": json.dumps(values)}
    metadata["checksum"] = _checksum(tensors, metadata["values"])
    write_atomically(path, safetensors.torch.save(tensors, metadata), previous)


def _checksum(tensors: Mapping[str, Tensor], values: str) -> str:
    found = zlib.crc32(values.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def load(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save` wrote. Nothing in the file is ever executed.

    Raises:
        InputError: if the file is missing, truncated, changed since it was written, of another kind, or not ours.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}")
    try:
        content = path.read_bytes()
        tensors = safetensors.torch.load(content)
        length = struct.unpack("<Q", content[:8])[0]
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError, OSError, KeyError, RecursionError, struct.error) as error:
        message = f"{path} is not a readable checkpoint (truncated or another kind of file): {short(error)}"
        raise InputError(message) from None
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path} is a safetensors file, but not a checkpoint of this library")
    try:
        values = json.loads(metadata["values"])
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path} has unreadable values: {short(error)}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} has unreadable values: {said(values)} instead of named ones")
    # Files of earlier versions have no checksum; one whose name is damaged is no reason to believe the rest.
    known = metadata.keys() <= {"format", "values", "checksum"}
    if not known or metadata.get("checksum", None) not in (None, _checksum(tensors, metadata["values"])):
        raise InputError(f"{path} is damaged: its content is not what was written (checksum)")
    return tensors, values


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
