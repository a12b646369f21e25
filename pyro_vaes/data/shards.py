"""Data in many files, read in an order that suits files."""

from __future__ import annotations

import glob
import json
import math
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vaes.data.files import split_folder
from pyro_vaes.data.parquet import Parquet
from pyro_vaes.data.rows import Rows
from pyro_vaes.data.tars import Tars
from pyro_vaes.errors import InputError, said, whole

READERS: dict[str, Any] = {".parquet": Parquet, ".tar": Tars}
#: Units whose rows identify the data, besides names, sizes and counts.
SAMPLED = 8


class Shards(Rows):
    r"""Data larger than memory, in Parquet or WebDataset tar files, to be given to `fit` like a tensor.

    What is read at once is a *unit*: a row group of a Parquet file, or 1024 samples of a tar file that lie side by
    side. An epoch shuffles all units, shuffles the rows inside of each, puts them into one line of N rows, cuts the
    line into K *lanes* of equal length, and takes one row of each lane in turn: position p is row
    :math:`\lfloor p/K\rfloor` of lane :math:`p \bmod K`. So rows of K units are mixed at any time, no more than K
    units are held, and each unit is read once per epoch, but for the K - 1 at most that a cut divides, which are read
    twice. Every datum is used once per epoch, and where a step begins is arithmetic.

    Nothing is unpickled. A file that is damaged where it was not looked at before the training is named, with the row,
    when it is read.

    Args:
        source: a folder of `.parquet` or of `.tar` files, a pattern such as ``"data/part-*.parquet"``, a file, or a
            list of files; sorted by path, unless they are a list. A Parquet column of fixed-size lists holds the data,
            else every column of numbers is an entry; `label` or `y` holds labels. A sample of a tar file is `KEY.npy`,
            `KEY.png` or `KEY.jpg`, and perhaps `KEY.cls`, a whole number. Bytes stay bytes, and are divided by 255
            when they are used; other numbers become float32.
        window: K, at most; it is part of what identifies a run's data.
        memory: bytes that K decoded units may take; K is lowered until they do.
        limit: take the first rows only, so many.

    Attributes:
        shape: (N, d). datum: the shape of one datum, with product d, channel first. dtype: uint8 or float32.
        labelled: whether every row has a label. lanes: K. counts: rows of each unit, (U,).
        reads: units decoded so far.

    Raises:
        InputError: no such files, files of two kinds or with different columns, a damaged file, a member that is a
            pickle, or a unit that is larger than `memory`.

    Source: ours; shards are of Aizman, Maltby & Breuel (2019), "High performance I/O for large scale deep learning".

    >>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
    >>> x = np.arange(60, dtype=np.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     column = pa.FixedSizeListArray.from_arrays(pa.array(x), 4)
    ...     pq.write_table(pa.table({"x": column}), f"{folder}/a.parquet", row_group_size=5)
    ...     shards = Shards(folder)
    ...     shards, shards.counts.tolist(), shards[:1]
    (Shards(15 x 4, 3 units of 1 file), [5, 5, 5], tensor([[0, 1, 2, 3]], dtype=torch.uint8))
    """

    counts: Tensor

    def __init__(
        self,
        source: str | Path | Sequence[str | Path],
        *,
        window: int = 16,
        memory: int = 2**30,
        limit: int | None = None,
    ):
        whole("window", window)
        whole("memory", memory, high=2**63)
        paths = found(source)
        self.reader: Any = READERS[paths[0].suffix.lower()](paths)
        counts = [unit[_ROWS[type(self.reader)]] for unit in self.reader.units]
        if not counts:
            raise InputError(f"{paths[0]}: holds no rows")
        most = max(counts)  # a unit is decoded whole, even where the limit cuts it
        if limit is not None:
            counts = _first(counts, whole("limit", limit, high=2**63))
        self.counts = torch.tensor(counts)
        self.ends = self.counts.cumsum(0)
        self.datum = tuple(self.reader.shape)
        self.shape = (int(self.ends[-1]), math.prod(self.datum))
        self.dtype = torch.uint8 if self.reader.dtype == np.uint8 else torch.float32
        self.labelled = self.reader.labelled
        largest = most * self.shape[1] * self.element_size()
        if largest > memory:
            raise InputError(
                f"{paths[0]}: a row group of {most:,} rows takes {largest:,} bytes, more than memory "
                f"({memory:,}): write smaller ones (row_group_size), or give more memory"
            )
        self.lanes = max(1, min(window, len(counts), memory // largest))
        self.reads = 0
        self._used = 0
        self._kept: dict[int, tuple[int, Tensor, Tensor | None]] = {}
        self._lock = threading.Lock()
        self._sum: int | None = None

    def __repr__(self) -> str:
        files = len(self.reader.paths)
        what = f"{len(self.counts)} unit{'s' * (len(self.counts) > 1)} of {files} file{'s' * (files > 1)}"
        return f"Shards({self.shape[0]} x {self.shape[1]}, {what}{', labelled' if self.labelled else ''})"

    def read(self, numbers: Tensor) -> tuple[Tensor, Tensor | None]:
        """Give rows by their numbers, and their labels; unit by unit, in the order in which they come."""
        # Every W-th of a batch's numbers is a view of them.
        numbers = numbers.contiguous()
        units = torch.searchsorted(self.ends, numbers, right=True)
        x = torch.empty(len(numbers), self.shape[1], dtype=self.dtype)
        y = torch.empty(len(numbers), dtype=torch.int64) if self.labelled else None
        # The thread that reads ahead and the training may both ask.
        with self._lock:
            for unit in dict.fromkeys(units.tolist()):
                places = (units == unit).nonzero()[:, 0]
                rows, labels = self._unit(unit, self._used + int(places[-1]))
                inside = numbers[places] - (self.ends[unit] - self.counts[unit])
                x[places] = rows[inside]
                if y is not None and labels is not None:
                    y[places] = labels[inside]
            self._used += len(numbers)
        return x, y

    def _unit(self, unit: int, used: int) -> tuple[Tensor, Tensor | None]:
        """Give a unit that is needed up to the row ``used``, counted over all that were ever read.

        Lanes take turns, so that the unit whose last row is the longest ago is the one that its lane has left.
        """
        if unit not in self._kept:
            while len(self._kept) >= self.lanes:
                del self._kept[min(self._kept, key=lambda one: self._kept[one][0])]
            rows, labels = self.reader.read(unit)
            # An array of a file's own memory may not be written to, and torch has no such tensors.
            rows = rows if rows.flags.writeable else rows.copy()
            self._kept[unit] = used, torch.from_numpy(rows), None if labels is None else torch.from_numpy(labels)
            self.reads += 1
        _, x, y = self._kept[unit]
        self._kept[unit] = used, x, y
        return x, y

    def place(self, number: int) -> str:
        """Say in which file and where in it a row lies."""
        unit = int(torch.searchsorted(self.ends, number, right=True))
        return self.reader.place(unit, number - int(self.ends[unit] - self.counts[unit]))

    def checksum(self) -> int:
        """A number of the names, sizes and row counts of all files, of K, and of the rows of eight units."""
        if self._sum is None:
            files = [[path.name, path.stat().st_size] for path in self.reader.paths]
            about = [files, self.counts.tolist(), self.datum, str(self.dtype), self.lanes, self.labelled]
            self._sum = zlib.crc32(json.dumps(about).encode())
            last = len(self.counts) - 1
            for unit in sorted({i * last // (SAMPLED - 1) for i in range(SAMPLED)}):
                start = int(self.ends[unit] - self.counts[unit])
                for part in self.read(torch.arange(start, int(self.ends[unit]))):
                    self._sum = self._sum if part is None else zlib.crc32(part.numpy().tobytes(), self._sum)
        return self._sum


#: Where a unit of each kind says how many rows it has.
_ROWS = {Parquet: 2, Tars: 3}


def _first(counts: list[int], limit: int) -> list[int]:
    kept: list[int] = []
    for count in counts:
        if limit <= 0:
            break
        kept.append(min(count, limit))
        limit -= count
    return kept


def found(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """Name the files of a folder, a pattern, a file or a list.

    >>> found("nowhere/*.parquet")
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: nowhere/*.parquet: no such files
    """
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            paths = [child for child in path.iterdir() if child.suffix.lower() in READERS]
            if not paths:
                raise InputError(f"{path}: holds no {' or '.join(READERS)} files")
        else:
            paths = [path] if path.exists() else [Path(name) for name in glob.glob(str(source), recursive=True)]
        paths = sorted(paths)
    elif isinstance(source, Sequence) and all(isinstance(one, str | Path) for one in source):
        paths = [Path(one) for one in source]
    else:
        raise InputError(f"source is {said(source)}: it must be a folder, a pattern, a file, or a list of files")
    if not paths:
        raise InputError(f"{source if isinstance(source, str | Path) else 'source'}: no such files")
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        if path.suffix.lower() not in READERS:
            raise InputError(f"{path}: shards are {' or '.join(READERS)} files (unpacked, if they were .gz)")
    if len({path.suffix.lower() for path in paths}) > 1:
        raise InputError(f"{paths[0].parent}: has Parquet and tar files: shards are of one kind, name a pattern")
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("a shard is named twice: each must be a file of its own")
    return paths


def holds_shards(source: str | Path) -> bool:
    """Whether a name is one of shards: a pattern, a file or a folder of them.

    >>> holds_shards("many/*.tar"), holds_shards("mnist")
    (True, False)
    """
    path = Path(source)
    try:
        if path.is_dir():
            return any(child.suffix.lower() in READERS for child in path.iterdir())
        path.exists()
    except (OSError, ValueError):
        return False  # a name that no file can have, or a folder that cannot be read: whoever opens it says so
    return path.suffix.lower() in READERS or (glob.has_magic(str(source)) and not path.exists())


def split_of(source: str | Path, split: str) -> Path:
    """Name the folder of a split, or what was named, where there are no splits.

    >>> split_of("nowhere/*.tar", "train")
    PosixPath('nowhere/*.tar')
    """
    path = Path(source)
    try:
        is_file, divided = path.is_file(), (path / "train").is_dir()
    except (OSError, ValueError):
        return path  # a name that no file can have: whoever opens it says so
    if split != "train" and is_file:
        raise InputError(f"{path}: a file has no split {split!r}, only 'train'")
    return split_folder(path, split) if divided else path
