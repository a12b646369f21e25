"""Data that are not a tensor in memory: rows by number, read when they are asked for."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyro_vaes.errors import InputError

#: Bytes. Up to here all rows are looked at before a training starts; of more, `LOOKS` parts are, and every batch is
#: when it is read.
WHOLE = 2**32
LOOKS = 16
CHUNK = 8192


class Rows(ABC):
    """What a training needs of its data: their shape and dtype, and rows by number.

    Attributes:
        shape: (N, d). dtype: of the rows as they are given.
        counts: rows of each unit, which is what is read at once; (U,), their sum is N. None if any row costs the same.
        lanes: how many units are open at a time.
    """

    device = torch.device("cpu")
    shape: tuple[int, int]
    dtype: torch.dtype
    counts: Tensor | None = None
    lanes: int = 1
    #: Whether every row has a label of its own.
    labelled: bool = False

    @abstractmethod
    def read(self, numbers: Tensor) -> tuple[Tensor, Tensor | None]:
        """Give rows by their numbers, (B,) int64 -> (B, d), in that order, and their own labels (B,), if any."""

    @abstractmethod
    def checksum(self) -> int:
        """A number that other data do not have."""

    def place(self, number: int) -> str:
        """Say where a row lies."""
        return f"row {number}"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        return self.read(numbers_of(index, len(self)))[0]

    def dim(self) -> int:
        return 2

    def numel(self) -> int:
        return self.shape[0] * self.shape[1]

    def element_size(self) -> int:
        return torch.empty(0, dtype=self.dtype).element_size()

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point


def numbers_of(index: Any, rows: int) -> Tensor:
    """Give the numbers of rows that a slice or a tensor of whole numbers names.

    >>> numbers_of(slice(-2, None), 5)
    tensor([3, 4])
    """
    if isinstance(index, slice):
        return torch.arange(*index.indices(rows)) if index.step is None else torch.tensor(range(rows)[index])
    if not isinstance(index, Tensor) or index.dim() != 1 or index.is_floating_point() or index.dtype == torch.bool:
        raise InputError("rows are named by a slice, or by a tensor (B,) of whole numbers")
    numbers = index.long().cpu()
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < rows:
        raise InputError(f"rows {int(numbers.min())} to {int(numbers.max())} of {rows}: they are numbered from 0")
    return numbers


class Beside(Rows):
    """Data and their conditions, joined row by row when they are read.

    Args:
        x: (N, d), a tensor or `Rows`. y: (N, c), or None, where each row's own label becomes one-hot of c classes.
        none: whether -1 is no label, which becomes a row of zeros.
        as_batch: how rows become floats.

    >>> there = Beside(torch.zeros(3, 2), torch.ones(3, 1), 1, torch.float32, lambda x: x)
    >>> there.shape, there[:2].tolist()
    ((3, 3), [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    """

    def __init__(
        self,
        x: Tensor | Rows,
        y: Tensor | None,
        c: int,
        dtype: torch.dtype,
        as_batch: Callable[[Tensor], Tensor],
        none: bool = False,
    ):
        self.x, self.y, self.c, self.none, self.dtype, self.as_batch = x, y, c, none, dtype, as_batch
        self.shape = (len(x), x.shape[1] + c)
        if isinstance(x, Rows):
            self.counts, self.lanes = x.counts, x.lanes

    def read(self, numbers: Tensor) -> tuple[Tensor, Tensor | None]:
        x, y = self.x.read(numbers) if isinstance(self.x, Rows) else (self.x[numbers], None)
        y = self.y[numbers] if self.y is not None else self._one_hot(y, numbers)
        return torch.cat([self.as_batch(x).to(self.dtype), y.to(self.dtype)], 1), None

    def _one_hot(self, y: Tensor | None, numbers: Tensor) -> Tensor:
        assert y is not None
        bad = (y < (-1 if self.none else 0)) | (y >= self.c)
        if bad.any():
            i = int(bad.nonzero()[0])
            allowed = f"0 to {self.c - 1}{', or -1 for none' if self.none else ''}"
            raise InputError(f"{self.place(int(numbers[i]))} has the label {int(y[i])}: it must be {allowed}")
        # A class more, which is none, and then left out again.
        return one_hot(y % (self.c + 1), self.c + 1)[:, : self.c]

    def place(self, number: int) -> str:
        return self.x.place(number) if isinstance(self.x, Rows) else f"row {number}"

    def checksum(self) -> int:
        return zlib.crc32(checksum(self.y).to_bytes(4, "big") if self.y is not None else b"own", checksum(self.x))


def size(x: Tensor | Rows) -> int:
    """Bytes of all rows."""
    return x.numel() * x.element_size()


def sampled(x: Tensor | Rows) -> bool:
    """Whether data are too large to look at all of them before a training starts."""
    return isinstance(x, Rows) or size(x) > WHOLE


def chunks(x: Tensor | Rows, few: bool, rows: int = CHUNK) -> Iterator[tuple[int, Tensor]]:
    """Go through all rows, or through the first, the last and some in between; with the number of each part's first.

    >>> [start for start, _ in chunks(torch.zeros(100, 1), few=True, rows=2)][:4]
    [0, 6, 13, 19]
    """
    last = max(0, len(x) - rows)
    every = list(range(0, len(x), rows))
    for start in [i * last // (LOOKS - 1) for i in range(LOOKS)] if few and len(every) > LOOKS else every:
        yield start, x[start : start + rows]


def checksum(x: Tensor | Rows) -> int:
    """A checksum of all rows, read in chunks so that a memory map is never copied whole.

    Of more than `WHOLE` bytes it is that of their number and of 1024 places, 64 rows each, evenly spread.

    >>> checksum(torch.zeros(2, 2, dtype=torch.uint8))
    558161692
    """
    if isinstance(x, Rows):
        return x.checksum()
    found, few = 0, sampled(x)
    if few:
        found = zlib.crc32(repr(tuple(x.shape)).encode())
    places = [i * (len(x) - 64) // 1023 for i in range(1024)] if few and len(x) > 65536 else range(0, len(x), CHUNK)
    length = CHUNK if isinstance(places, range) else 64
    for start in places:
        rows = x[start : start + length].contiguous().detach().cpu()
        found = zlib.crc32(rows.numpy().tobytes(), found)
    return found
