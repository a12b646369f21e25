"""One measurement of the experiment streaming, in a process of its own: ``python -m ...streaming_reader '{...}'``."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vaes.data.shards import Shards, found
from pyro_vaes.errors import InputError
from pyro_vaes.inference.batches import batches_of, order_of
from pyro_vaes.inference.fit import fit
from pyro_vaes.variants import l2_vae


class Peak:
    """The most anonymous memory of this process, in bytes, sampled: pages of mapped files are not counted.

    They are the kernel's to drop, so that what a process cannot do without is what is anonymous.
    """

    def __init__(self) -> None:
        self.start = self.most = anonymous()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.most = max(self.most, anonymous())

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def anonymous() -> int:
    """Anonymous resident memory of this process, in bytes.

    >>> anonymous() > 2**20
    True
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        raise InputError("memory is measured through /proc/self/status, which is Linux's") from None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def forget(paths: list[Path]) -> None:
    """Ask the kernel to drop the pages of files, so that they are read from the disk again."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(
    reader: str, path: str, batch_size: int, batches: int, steps: int, cold: bool, warm: bool
) -> dict[str, Any]:
    """Read batches, cold and again, and train; give rows per second and the anonymous memory.

    Args:
        batches: how many are read; 0 is an epoch. cold, warm: whether the kernel forgets the files first, and whether
            the batches are read (again) after that.
    """
    files = [Path(path)] if path.endswith(".npy") else found(path)
    if cold:
        forget(files)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pair = l2_vae(784, 16, (128,))
    fit(pair, torch.rand(batch_size, 784), steps=2, engine="eager", progress=False)  # what is loaded only once
    with Peak() as peak:
        began = time.perf_counter()
        x: Any = _open(reader, path)
        opened = time.perf_counter() - began
        order = order_of(x, batch_size, 0)
        batches = min(batches, order.batches) if batches else order.batches
        there = batches_of(x, [order], torch.device("cpu"))
        try:
            rates = [_rate(there, batches, batch_size) for _ in range(cold + warm)]
        finally:
            there.close()
        reads = getattr(x, "reads", 0) / len(rates)
        began, first = time.perf_counter(), []

        def step(taken: int, clock: Callable[[], float] = time.perf_counter) -> None:
            if taken in (1, steps):
                first.append(clock() - began)

        fit(pair, x, steps=steps, batch_size=batch_size, engine="eager", progress=False, on_step=step)
    return {
        "reader": reader, "rows": len(x), "bytes": x.numel() * x.element_size(), "files": len(files),
        "open, seconds": opened,
        "cold, rows/s": rates[0][0] if cold else None, "warm, rows/s": rates[-1][0] if warm else None,
        "training, rows/s": (steps - 1) * batch_size / (first[1] - first[0]), "first step, seconds": first[0],
        "rows per second of CPU": rates[-1][1], "load average": os.getloadavg()[0],
        "anonymous before": peak.start, "anonymous at most": peak.most, "threads": 1, "batch_size": batch_size,
        "batches": batches,
        "units": len(x.counts) if isinstance(x, Shards) else None, "units read": reads,
        "lanes": None if not isinstance(x, Shards) else x.lanes,
    }  # fmt: skip


def _open(reader: str, path: str) -> Any:
    if reader == "in memory":
        return torch.from_numpy(np.load(path, allow_pickle=False))
    if reader == "memory map":
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    return Shards(path)


def _rate(there: Any, batches: int, batch_size: int) -> tuple[float, float]:
    """Rows per second, and per second of CPU, of all threads."""
    clock, cpu = time.perf_counter(), time.process_time()
    for step in range(batches):
        there(step)
    rows = batches * batch_size
    return rows / (time.perf_counter() - clock), rows / (time.process_time() - cpu)


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
