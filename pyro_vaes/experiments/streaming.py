"""Data that are not in memory: rows per second and memory, by reader, side by side.

Protocol: rows of 784 random bytes, which nothing can compress, written once as .npy, Parquet and tar files. Each
reader trains in a process of its own, in turns, several rounds. *Cold*: the kernel was asked to drop the files' pages
(``posix_fadvise``), then one epoch in batches of 128 is read, through the thread that reads ahead, with no training.
*Warm*: the same epoch again. *Training*: an ``l2_vae``, 784-128-16, its engine eager, one thread; its thread that reads
ahead shares the cores with everything else. *Per CPU second*: of the last reading, all threads; the machine may have
had other work, which its load average tells. *Memory*: the most anonymous memory of the process from opening the data
to the end of the training, less what it had before; pages of mapped files, which the kernel may drop at any time, are
not counted.

Then the largest, in batches of 1024: a memory map of zeros in a sparse file, which takes no disk (its pages are read
all the same; some of its rows only), and one epoch of Parquet files of random bytes.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pyro_vaes.errors import InputError, first_line
from pyro_vaes.evaluation.plots import CLASSICAL, ROBUST
from pyro_vaes.experiments.record import markdown_table, record

NAME = "streaming"
WIDTH = 784
KEYS = ("cold, rows/s", "warm, rows/s", "rows per second of CPU", "training, rows/s")
READERS = {"in memory": "x.npy", "memory map": "x.npy", "Parquet": "parquet", "tar, .npy": "tar"}
#: The largest sets are read in larger batches: an epoch of them must end.
LARGEST = {"batch_size": 1024, "steps": 40}
SCALES: dict[str, dict[str, Any]] = {
    "quick": {
        "rows": 20_000, "group": 512, "files": 4, "steps": 100, "rounds": 2, "batch_size": 128, "seeds": [0],
        "largest map": 25_600_000, "largest Parquet": 2_560_000, "largest files": 20, "largest group": 16_384,
        "largest batches": 50,
    },
    "paper": {
        "rows": 2_000_000, "group": 4096, "files": 32, "steps": 3000, "rounds": 5, "batch_size": 128, "seeds": [0],
        "largest map": 256_000_000, "largest Parquet": 50_000_000, "largest files": 400, "largest group": 16_384,
        "largest batches": 10_000,
    },
}  # fmt: skip


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Write the files into a temporary folder, measure, and record numbers and figure."""
    settings, began = SCALES[scale], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="streaming-") as name:
        folder = Path(name)
        _write(folder, settings)
        side: dict[str, list[dict[str, Any]]] = {reader: [] for reader in READERS}
        for _ in range(settings["rounds"]):
            for reader, path in READERS.items():
                side[reader].append(_alone(reader, folder / path, settings))
        large = [_largest_map(folder, settings), _largest_parquet(folder, settings)]
    result = {
        "settings": settings, "seconds": time.monotonic() - began, "width": WIDTH,
        "page cache": "cold: dropped by posix_fadvise before each process; warm: the same epoch again",
        "rounds": side, "largest": large, "packages": _packages(),
    }  # fmt: skip
    return record(out, NAME, scale, result, {"readers": _figure(result)})


def _packages() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("pyarrow", "webdataset")}


def _alone(reader: str, path: Path, settings: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Measure in a process of its own, whose memory is its own."""
    asked = {
        "reader": reader, "path": str(path), "batch_size": settings["batch_size"], "steps": settings["steps"],
        "batches": 0, "cold": True, "warm": True, **options,
    }  # fmt: skip
    command = [sys.executable, "-m", "pyro_vaes.experiments.streaming_reader", json.dumps(asked)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        raise InputError(f"{reader} could not be measured: {(error.stderr.strip().splitlines() or [''])[-1]}") from None
    return json.loads(done.stdout)


def _write(folder: Path, settings: dict[str, Any]) -> None:
    try:
        from webdataset import TarWriter
    except ImportError as error:
        raise InputError(f'streaming needs pip install "pyro-vaes[shards]": {first_line(error)}') from None
    generator, files = np.random.default_rng(0), settings["files"]
    x = generator.integers(0, 256, (settings["rows"], WIDTH), dtype=np.uint8)
    np.save(folder / "x.npy", x)
    (folder / "parquet").mkdir()
    (folder / "tar").mkdir()
    for i, part in enumerate(np.array_split(x, files)):
        _write_parquet(folder / "parquet" / f"{i:04d}.parquet", part, settings["group"])
        with TarWriter(str(folder / "tar" / f"{i:04d}.tar")) as tar:
            for j, row in enumerate(part):
                tar.write({"__key__": f"{i:04d}-{j:08d}", "npy": row})


def _write_parquet(path: Path, x: np.ndarray, group: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), WIDTH)
    # Random bytes are not compressible, and a dictionary of all 256 of them is of no use.
    pq.write_table(pa.table({"x": column}), path, row_group_size=group, compression="none", use_dictionary=False)


def _largest_map(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    path = folder / "large.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(settings["largest map"], WIDTH)).flush()
    found = _alone("memory map", path, settings | LARGEST, batches=settings["largest batches"], cold=False)
    path.unlink()
    return found | {"what": "memory map of a sparse file"}


def _largest_parquet(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    place, generator = folder / "large", np.random.default_rng(1)
    place.mkdir()
    rows = settings["largest Parquet"] // settings["largest files"]
    for i in range(settings["largest files"]):
        x = generator.integers(0, 256, (rows, WIDTH), dtype=np.uint8)
        _write_parquet(place / f"{i:04d}.parquet", x, settings["largest group"])
    return _alone("Parquet", place, settings | LARGEST, warm=False) | {"what": "Parquet"}


def extra(row: dict[str, Any]) -> float:
    """Megabytes of anonymous memory that reading and training took.

    >>> extra({"anonymous at most": 3_000_000, "anonymous before": 1_000_000})
    2.0
    """
    return (row["anonymous at most"] - row["anonymous before"]) / 1e6


def table(result: dict[str, Any]) -> str:
    """Rows per second and memory by reader, medians of the rounds; then the largest sets."""
    rows = []
    for reader, rounds in result["rounds"].items():
        cells = [np.median([one[key] for one in rounds]) for key in KEYS]
        rows.append(_row(reader, rounds[0], cells, max(map(extra, rounds))))
    for one in result["largest"]:
        cells = [one[key] for key in KEYS]
        rows.append(_row(f"**{one['what']}**", one, cells, extra(one)))
    header = [
        "reader",
        "GB",
        "rows",
        "rows read",
        "read cold, rows/s",
        "read warm, rows/s",
        "read, rows per CPU s",
        "in training, rows/s",
        "memory, MB",
    ]
    return markdown_table([*header, "units read per epoch / units"], rows)


def _read(one: dict[str, Any]) -> int:
    """Rows that one pass of reading alone took."""
    return min(one["rows"], one["batches"] * one["batch_size"])


def _row(name: str, one: dict[str, Any], rates: list[Any], memory: float) -> list[object]:
    units = "-" if one["units"] is None else f"{one['units read']:.0f} / {one['units']}"
    cells = ["-" if rate is None else f"{rate:,.0f}" for rate in rates]
    return [name, f"{one['bytes'] / 1e9:.2f}", f"{one['rows']:,}", f"{_read(one):,}", *cells, f"{memory:.0f}", units]


def _figure(result: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(10, 3.4), dpi=160, layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(result["rounds"])
    for offset, key, color, label in (
        (-0.2, "rows per second of CPU", CLASSICAL, "reading, per CPU second"),
        (0.2, "training, rows/s", ROBUST, "training, per second"),
    ):
        rates = [[one[key] for one in result["rounds"][name]] for name in names]
        middle = np.median(rates, 1)
        spread = np.abs(np.array([np.min(rates, 1), np.max(rates, 1)]) - middle)
        where = np.arange(len(names)) + offset
        left.barh(where, middle, 0.38, xerr=spread, color=color, label=label, error_kw={"lw": 0.8})
    left.set_yticks(range(len(names)), names)
    left.set_xscale("log")
    left.set_xlabel("rows of 784 bytes per second (median, range of rounds)", fontsize=8)
    left.legend(fontsize=8, frameon=False)
    every = [(name, max(rounds, key=extra)) for name, rounds in result["rounds"].items()]
    every += [(f"{one['what']}, {one['bytes'] / 1e9:.0f} GB", one) for one in result["largest"]]
    right.barh([name for name, _ in every], [extra(one) for _, one in every], color=CLASSICAL)
    right.set_xlabel("most anonymous memory, less that before (MB)", fontsize=8)
    for ax in (left, right):
        ax.invert_yaxis()
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    return figure
