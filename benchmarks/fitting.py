"""`pv.fit` as something that can be timed: what comes after tracing and compiling."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import pyro_vaes as pv
from benchmarks.peers import LR, Absent


class Fit:
    """Train with ``pv.fit``, anew for each slice.

    Args:
        kind: of the engine. make: gives the pair. x: the data, on the device. batch: rows per step. unit: steps that
            count as one, an epoch's. skip: steps at the start that do not count.
    """

    def __init__(
        self,
        kind: str,
        make: Callable[[], pv.Pair],
        x: Tensor,
        batch: int,
        unit: int = 1,
        skip: int = 1,
    ):
        self.kind, self.make, self.x, self.batch, self.unit, self.skip = kind, make, x, batch, unit, skip

    def first(self) -> float:
        began = time.perf_counter()
        self._fit(1, lambda taken: None)
        return time.perf_counter() - began

    def run(self, steps: int) -> float:
        total = self.skip + steps * self.unit
        marks: list[tuple[int, float]] = []

        def mark(taken: int) -> None:
            if taken in (self.skip, total):
                if self.x.is_cuda:
                    torch.cuda.synchronize()
                marks.append((taken, time.perf_counter()))

        self._fit(total, mark)
        (_, began), (_, ended) = marks
        return (ended - began) / steps

    def close(self) -> None:
        del self.x

    def _fit(self, steps: int, mark: Callable[[int], None]) -> None:
        how: dict[str, Any] = {"engine": self.kind, "batch_size": self.batch, "lr": LR}
        history: Any = pv.fit(self.make(), self.x, steps=steps, progress=False, on_step=mark, **how)
        if history.engine.fell:
            raise Absent(f"it fell back to {history.engine.kind}: {history.engine.fell}")
