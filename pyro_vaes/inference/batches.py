"""Which rows a step sees, and how they get to the device in time."""

import math
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from pyro_vaes.inference.ranks import Ranks

# Data beyond this are read batch by batch, ahead of time, even where they already lie on the right device.
LARGE = 2**30
AHEAD = 4


class Order:
    """The order of the data: every datum once per epoch, in an order that follows from seed and epoch alone.

    A resumed run finds its place without replaying anything. The last batch of an epoch may be smaller.

    Args:
        ranks: of whose rows this process takes its own; the order is the same under any number of them.

    >>> order = Order(5, batch_size=2, seed=0, device=torch.device("cpu"))
    >>> [len(order(step)) for step in range(4)], sorted(torch.cat([order(i) for i in range(3)]).tolist())
    ([2, 2, 1, 2], [0, 1, 2, 3, 4])
    """

    def __init__(self, rows: int, batch_size: int, seed: int, device: torch.device, ranks: Ranks | None = None):
        self.rows, self.batch_size, self.seed, self.device, self.ranks = rows, batch_size, seed, device, ranks
        self.batches = math.ceil(rows / batch_size)
        self._epoch, self._rows = -1, torch.empty(0)

    def __call__(self, step: int) -> Tensor:
        """Row numbers of a step."""
        epoch, i = divmod(step, self.batches)
        if epoch != self._epoch:
            # On the device itself: a permutation made elsewhere would have to be copied over in every epoch.
            generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + epoch)
            self._rows = torch.randperm(self.rows, generator=generator, device=self.device)
            self._epoch = epoch
        found = self._rows[i * self.batch_size : (i + 1) * self.batch_size]
        return found if self.ranks is None else self.ranks.rows(found)


class Resident:
    """Data that lie where the training is: a batch is one gather, without the host.

    Args:
        x: (N, d), in the dtype of its source; bytes stay bytes.
        orders: one, or one per replica; then a batch is (R, B, d).
    """

    def __init__(self, x: Tensor | list[Tensor], orders: list[Order], stacked: bool = False):
        self.x, self.orders, self.stacked = x, orders, stacked

    def __call__(self, step: int) -> Tensor:
        if not self.stacked:
            assert isinstance(self.x, Tensor)
            return self.x[self.orders[0](step)]
        rows = [order(step) for order in self.orders]
        if isinstance(self.x, Tensor):
            return self.x[torch.stack(rows)]
        return torch.stack([x[r] for x, r in zip(self.x, rows, strict=True)])

    def close(self) -> None:
        pass


class Prefetched:
    """Data that lie elsewhere, in a memory map say: a thread gathers batches ahead of the training.

    >>> x = torch.arange(10.0).reshape(5, 2)
    >>> there = Prefetched(x, [Order(5, 2, 0, torch.device("cpu"))], torch.device("cpu"))
    >>> [tuple(there(step).shape) for step in range(3)]
    [(2, 2), (2, 2), (1, 2)]
    >>> there.close()
    """

    def __init__(self, x: Tensor | list[Tensor], orders: list[Order], device: torch.device, stacked: bool = False):
        self.source, self.device = Resident(x, orders, stacked), device
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self.coming: deque[tuple[int, Future]] = deque()

    def __call__(self, step: int) -> Tensor:
        if self.coming and self.coming[0][0] != step:
            self.coming.clear()  # a step is repeated
        following = self.coming[-1][0] + 1 if self.coming else step
        for ahead in range(following, step + AHEAD):
            self.coming.append((ahead, self.thread.submit(self._gather, ahead)))
        return self.coming.popleft()[1].result()

    def _gather(self, step: int) -> Tensor:
        batch = self.source(step)
        if self.device.type != "cuda":
            return batch.to(self.device)
        # From pinned memory the copy runs beside the step before it.
        return batch.pin_memory().to(self.device, non_blocking=True)

    def close(self) -> None:
        self.thread.shutdown(cancel_futures=True)
