"""What everyone trains on: 60000 x 784 zeros and ones, resident on the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

import pyro_vaes as pv
from benchmarks.architectures import DATA_DIM
from pyro_vaes.errors import InputError


def resident(root: Path | None, device: torch.device, rows: int = 60_000) -> tuple[Tensor, str]:
    """Give MNIST, its pixels rounded, or noise of the same shape where MNIST is not at hand, and say which."""
    if root is not None:
        try:
            x = pv.load("mnist", root=root).x
            # A table of bytes if it is large; pixels in [0, 1] otherwise.
            binary = x > 127 if x.dtype == torch.uint8 else x > 0.5
            return binary.float().to(device), f"MNIST, pixels rounded to 0 or 1, {len(x)} x {x.shape[1]}"
        except InputError as error:
            raise SystemExit(f"python -m benchmarks: {error}") from None
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(rows, DATA_DIM, generator=generator) < 0.13  # MNIST's share of ink
    return noise.float().to(device), f"random zeros and ones, {rows} x {DATA_DIM}"


@contextmanager
def as_file(x: Tensor) -> Iterator[str]:
    """Lend the data to other processes, as a file that is gone afterwards."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        np.save(path, x.cpu().numpy().astype(np.uint8))
        yield str(path)
