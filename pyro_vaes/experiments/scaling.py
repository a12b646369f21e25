"""What 10^9 images and 64 GPUs would take: arithmetic from what ``bench-ranks`` measured, and from data sheets."""

import json
from pathlib import Path
from typing import Any

from pyro_vaes.experiments.record import markdown_table

IMAGES, RANKS, ROWS = 10**9, 64, 1024
DATA = {"28 x 28, bytes": 28 * 28, "64 x 64 x 3, bytes": 64 * 64 * 3}
# Bytes per second and device, one way, from data sheets: NVLink 4, InfiniBand NDR, Ethernet.
LINKS = {"NVLink, 450 GB/s": 450e9, "InfiniBand, 50 GB/s": 50e9, "100GbE, 12.5 GB/s": 12.5e9}
# Assumed: seconds that a message takes from one device to the next, beyond its bytes; what a small network gets of
# the 67 10^12 operations per second of a GPU's data sheet, at worst and at best; seconds of a step that is nothing but
# starting kernels, at worst and at best.
LATENCY, OPERATIONS, STARTING = 10e-6, (2e12, 20e12), (2e-3, 0.3e-3)


def tables(results: Path) -> dict[str, str]:
    """Marker -> table, of the results in a folder."""
    result = json.loads((results / "bench-ranks.quick.json").read_text())
    return {"scaling-data": data_table(result), "scaling-steps": steps_table(result)}


def seconds_of_step(parameters: int, which: int) -> float:
    r"""A step of a fully connected network: :math:`6 P b / F` and the start of its kernels; 0 at worst, 1 at best.

    >>> round(1e3 * seconds_of_step(10**6, 0), 2), round(1e3 * seconds_of_step(10**6, 1), 2)
    (5.07, 0.61)
    """
    return 6 * parameters * ROWS / OPERATIONS[which] + STARTING[which]


def seconds_of_message(size: int, rate: float) -> float:
    r"""A sum around a ring: :math:`2 \frac{W - 1}{W} \frac{s}{r} + 2 (W - 1) \ell`.

    >>> round(1e3 * seconds_of_message(4 * 10**6, 50e9), 2)
    1.42
    """
    return 2 * (RANKS - 1) / RANKS * size / rate + 2 * (RANKS - 1) * LATENCY


def data_table(result: dict[str, Any]) -> str:
    """What depends on the data alone; times once per datum are those of one core, scaled by bytes."""
    once, measured = result["passes"]["ns per row"], result["passes"]["bytes per row"]
    steps = IMAGES / (RANKS * ROWS)
    middle = list(result["costs"].values())[1]["parameters"]
    rows: list[list[object]] = [
        ["bytes of all data", *(_size(IMAGES * each) for each in DATA.values())],
        ["bytes of one rank's share", *(_size(IMAGES * each / RANKS) for each in DATA.values())],
        [f"steps per epoch, {ROWS} rows per rank", *[f"{steps:,.0f}"] * len(DATA)],
        ["to be read per second by all ranks (assumed steps)", *(
            " to ".join(_size(RANKS * ROWS * each / seconds_of_step(middle, which)) for which in (0, 1))
            for each in DATA.values()
        )],
        ["a permutation of all rows, on every rank", *[_size(8 * IMAGES)] * len(DATA)],
    ]  # fmt: skip
    for name in ("check of the data", "checksum of the data"):
        each = [once[name]["median"] * IMAGES / 1e9 * size / measured for size in DATA.values()]
        rows.append([f"{name}, on every rank, before the first step", *map(_time, each)])
    name = "batches of a memory map, as floats"
    each = [once[name]["median"] / 1e9 * ROWS * size / measured for size in DATA.values()]
    rows.append(["a batch of one rank from a memory map that is in memory", *map(_time, each)])
    return markdown_table([f"{IMAGES:.0e} images, {RANKS} ranks".replace("e+09", "0^9"), *DATA], rows)


def steps_table(result: dict[str, Any]) -> str:
    """What depends on the network."""
    rows: list[list[object]] = []
    for title, cost in result["costs"].items():
        count, size = cost["parameters"], cost["bytes per step"]
        core = cost["CPU ms"]["one process"]["median"] / 1e3 / (2 * cost["rows per rank"]) * IMAGES
        dense = "conv" not in title and "IWAE" not in title
        gpu = " to ".join(_time(seconds_of_step(count, w)) for w in (1, 0)) if dense else "-"
        rows.append([title, f"{count:,}", _time(core), _size(size),
                     *(_time(seconds_of_message(size, rate)) for rate in LINKS.values()), gpu])  # fmt: skip
    header = ["network", "parameters", "an epoch on one core of this CPU", "message per step"]
    return markdown_table([*header, *LINKS, f"step of {ROWS} rows on a GPU, assumed"], rows)


def _size(count: float) -> str:
    """Bytes in words.

    >>> _size(784e9), _size(2_200_000)
    ('784 GB', '2.2 MB')
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{float(f'{count / scale:.3g}'):g} {unit}"
    return f"{count:.0f} B"


def _time(seconds: float) -> str:
    """Seconds in words.

    >>> _time(7300), _time(0.00142)
    ('2 h', '1.4 ms')
    """
    for unit, scale in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{float(f'{seconds / scale:.2g}'):g} {unit}"
    return f"{float(f'{seconds / 1e-6:.2g}'):g} us"
