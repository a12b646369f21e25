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
    """Ranks that know what averaging has cost them: CPU seconds, and seconds by the clock, waiting included."""

    spent = (0.0, 0.0)

    def mean(self, gradients, stats):
        began = clocks()
        found = super().mean(gradients, stats)
        self.spent = tuple(a + b - c for a, b, c in zip(self.spent, clocks(), began, strict=True))
        return found


def clocks() -> tuple[float, float]:
    """CPU seconds of this process, and seconds by the clock."""
    return time.process_time(), time.perf_counter()


def measure(make: Callable[[], pv.Pair], batch: int, ranks: Messages, repetitions: int, seconds: float) -> dict:
    """What a step costs two ranks of ``batch`` rows together, and one process of twice as many."""
    x, _ = resident(None, torch.device("cpu"), rows=2 * batch)
    alone, both = Engine("graph", make().train(), SIZE), Engine("graph", make().train(), SIZE, ranks=ranks)
    ranks.begin(2 * batch)
    flat = torch.cat([p.detach().reshape(-1) for p in both.learned])
    cpu: dict[str, list[float]] = {}
    wall: dict[str, list[float]] = {}
    shares: tuple[list[float], list[float]] = ([], [])

    def together() -> None:
        both.step(x[ranks.rank :: 2])

    def one() -> None:
        if ranks.first:
            alone.step(x)

    work: dict[str, Callable[[], Any]] = {
        "two ranks": together, "one process": one, "the message alone": lambda: ranks.sum(flat),
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
            ranks.spent, began = (0.0, 0.0), clocks()
            for _ in range(steps[name]):
                work[name]()
            spent = [b - a for a, b in zip(began, clocks(), strict=True)]
            # Of both ranks: what one of them alone has cost is a matter of who waits.
            both_spent = float(ranks.gather(torch.tensor(spent[0], dtype=torch.float64)).sum())
            total = spent[0] if name == "one process" else both_spent
            cpu.setdefault(name, []).append(1e3 * total / steps[name])
            wall.setdefault(name, []).append(1e3 * spent[1] / steps[name])
            if name == "two ranks":
                for found, mine, all_of_it in zip(shares, ranks.spent, spent, strict=True):
                    found.append(mine / all_of_it)
    result: dict[str, Any] = {"rows per rank": batch, "parameters": len(flat), "bytes per step": 4 * (len(flat) + 4)}
    for word, times in (("CPU ms", cpu), ("ms by the clock", wall)):
        result[word] = {name: spread(each) for name, each in times.items()}
        ratios = [one / other for one, other in zip(times["two ranks"], times["one process"], strict=True)]
        result[f"two ranks / one process, {word}"] = spread(ratios)
    result["share of averaging"] = {"CPU": spread(shares[0]), "by the clock": spread(shares[1])}
    return result


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
