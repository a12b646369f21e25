"""Which rows a step sees, and how they get to the device in time."""

import math
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from pyro_vaes.inference.ranks import Ranks

# Data beyond this are read batch by batch, ahead of time, even where they already lie on the right device.
LARGE = 2**30
AHEAD = 4
# Rows beyond which the order of an epoch is computed place by place: a permutation of so many takes 2 GiB, per process.
SCATTERED = 2**28


def scattered(places: Tensor, rows: int, seed: int, epoch: int) -> Tensor:
    """What stands at some places of a permutation of 0 ... rows - 1, without the rest of it.

    A Feistel network permutes a power of four of at least ``rows`` numbers; one that it takes out of range is sent
    through again until it is back, which permutes those in range.

    Args:
        places: whole numbers in [0, rows).

    Source: Luby & Rackoff (1988); Black & Rogaway (2002), 3.3, for the range.

    >>> sorted(scattered(torch.arange(11), 11, seed=0, epoch=0).tolist()) == list(range(11))
    True
    """
    half = max(1, ((rows - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    keys = np.random.SeedSequence((seed, epoch)).generate_state(6).tolist()

    def through(number: Tensor) -> Tensor:
        left, right = number >> half, number & low
        for key in keys:
            mixed = (right ^ key) & 0x7FFFFFFF
            for _ in range(2):  # below 2^58: nothing overflows
                mixed = (mixed * 0x45D9F3B) & 0xFFFFFFFF
                mixed = mixed ^ (mixed >> 16)
            left, right = right, left ^ (mixed & low)
        return (left << half) | right

    found = through(places)
    while bool((outside := found >= rows).any()):
        found = torch.where(outside, through(found), found)
    return found


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
        if self.rows > SCATTERED:
            places = torch.arange(i * self.batch_size, min((i + 1) * self.batch_size, self.rows), device=self.device)
            own = places if self.ranks is None else self.ranks.rows(places)
            return scattered(own, self.rows, self.seed, epoch)
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
