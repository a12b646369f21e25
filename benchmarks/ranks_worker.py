"""Both of the two ranks of ``benchmarks.ranks``: they step together, and the first alone while the other waits.

python -m benchmarks.ranks_worker FOUND.json REPETITIONS SECONDS
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from lightning_fabric import Fabric
from tqdm import tqdm

import pyro_vaes as pv
from benchmarks.architectures import ARCHITECTURES, DATA_DIM
from benchmarks.data import resident
from benchmarks.harness import turn
from benchmarks.summary import spread
from pyro_vaes.inference.compile import Engine
from pyro_vaes.inference.ranks import Ranks

SIZE = 60_000
SMALL = "784-50-5"


class Messages(Ranks):
    """Ranks that know how long they have spent on averaging, waiting for the other included."""

    spent = 0.0

    def mean(self, gradients, stats):
        began = time.perf_counter()
        found = super().mean(gradients, stats)
        self.spent += time.perf_counter() - began
        return found


def measure(make: Callable[[], pv.Pair], batch: int, ranks: Messages, repetitions: int, seconds: float) -> dict:
    """Milliseconds per step of two ranks of ``batch`` rows and of one process of twice as many."""
    x, _ = resident(None, torch.device("cpu"), rows=2 * batch)
    alone, both = Engine("graph", make().train(), SIZE), Engine("graph", make().train(), SIZE, ranks=ranks)
    ranks.begin(2 * batch)
    flat = torch.cat([p.detach().reshape(-1) for p in both.learned])
    times: dict[str, list[float]] = {}
    shares: list[float] = []

    def together() -> None:
        both.step(x[ranks.rank :: 2])

    def one(threads: int) -> Callable[[], None]:
        def step() -> None:
            if ranks.first:
                torch.set_num_threads(threads)
                alone.step(x)
                torch.set_num_threads(1)

        return step

    work = {
        "two ranks": together, "one process, 1 thread": one(1), "one process, 2 threads": one(2),
        "the message alone": lambda: ranks.sum(flat),
    }  # fmt: skip
    steps = {}
    for name, step in work.items():
        for _ in range(3):
            step()
        began = time.perf_counter()
        step()
        steps[name] = ranks.largest(max(2, round(seconds / (time.perf_counter() - began))) if ranks.first else 0)
    for repetition in range(repetitions):
        for name in turn([*work], repetition):
            ranks.wait()
            ranks.spent, began = 0.0, time.perf_counter()
            for _ in range(steps[name]):
                work[name]()
            spent = time.perf_counter() - began
            times.setdefault(name, []).append(1e3 * spent / steps[name])
            if name == "two ranks":
                shares.append(ranks.spent / spent)
    found: dict[str, Any] = {"rows per rank": batch, "parameters": len(flat), "bytes per step": 4 * (len(flat) + 4)}
    found["ms"] = {name: spread(each) for name, each in times.items()}
    found["share of averaging"] = spread(shares)
    for name in ("one process, 1 thread", "one process, 2 threads"):
        pairs = zip(times["two ranks"], times[name], strict=True)
        found[f"two ranks / {name}"] = spread([one / other for one, other in pairs])
    return found


def main() -> None:
    """Measure every size, and let the first rank write what it found."""
    path, repetitions, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    ranks = Messages(fabric)
    sizes = {SMALL: (lambda: pv.vae(DATA_DIM, 5, (50,)), 128)}
    sizes |= {a.title: (a.pair, a.batch) for a in ARCHITECTURES.values()}
    found = {}
    with pyro.validation_enabled(False):
        for title, (make, batch) in tqdm(sizes.items(), desc="bench-ranks (steps)", disable=not ranks.first):
            torch.manual_seed(0)
            found[title] = measure(make, batch, ranks, repetitions, seconds)
    if ranks.first:
        path.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
