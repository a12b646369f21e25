"""Checkpoints: one file of tensors and plain values, written whole or not at all."""

import json
import os
import struct
import tempfile
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from pyro_vaes.errors import InputError, said, short

FORMAT = "pyro-vaes checkpoint 1"


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file so that at any moment either the old one or the new one is there, whole.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(f"{folder}/a.txt", b"whole")
    ...     Path(folder, "a.txt").read_text()
    'whole'
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def save(path: str | Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Write tensors and plain (JSON) values into one safetensors file, atomically.

    >>> import torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/c", {"a": torch.ones(2)}, {"step": 3})
    ...     load(f"{folder}/c")
    ({'a': tensor([1., 1.])}, {'step': 3})
    """
    # safetensors refuses tensors that share memory; a copy of each is small beside a wrong file.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "values": json.dumps(values)}
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def load(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save` wrote. Nothing in the file is ever executed.

    Raises:
        InputError: if the file is missing, truncated, of another kind, or not ours.
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
    return tensors, values


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
