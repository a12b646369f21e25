"""Which rows a step sees, and how they get to the device in time."""

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vaes.data.rows import Rows, size
from pyro_vaes.errors import InputError
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


#: Refuses rows of a batch: it is given the batch, and what says where row i of it lies.
Check = Callable[[Tensor, Callable[[int], str]], None]


class Order:
    """The order of the data: every datum once per epoch, in an order that follows from seed and epoch alone.

    A resumed run finds its place without replaying anything. The last batch of an epoch may be smaller.

    >>> order = Order(5, batch_size=2, seed=0, device=torch.device("cpu"))
    >>> [len(order(step)) for step in range(4)], sorted(torch.cat([order(i) for i in range(3)]).tolist())
    ([2, 2, 1, 2], [0, 1, 2, 3, 4])
    """

    def __init__(self, rows: int, batch_size: int, seed: int, device: torch.device):
        self.rows, self.batch_size, self.seed, self.device = rows, batch_size, seed, device
        self.batches = math.ceil(rows / batch_size)
        self._epoch, self._rows = -1, torch.empty(0)

    def __call__(self, step: int) -> Tensor:
        """Row numbers of a step."""
        epoch, i = divmod(step, self.batches)
        if self.rows > SCATTERED:
            places = torch.arange(i * self.batch_size, min((i + 1) * self.batch_size, self.rows), device=self.device)
            return scattered(places, self.rows, self.seed, epoch)
        if epoch != self._epoch:
            # On the device itself: a permutation made elsewhere would have to be copied over in every epoch.
            generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + epoch)
            self._rows = torch.randperm(self.rows, generator=generator, device=self.device)
            self._epoch = epoch
        return self._rows[i * self.batch_size : (i + 1) * self.batch_size]


class Lanes(Order):
    """The order of data that are read in units, such as shards; see :class:`~pyro_vaes.data.shards.Shards`.

    It follows from seed, epoch and the units alone, and not from how many processes share the reading. Position p is a
    row of lane p mod K, so where W processes take every W-th row of a batch, and W divides batch size and K, each
    reads K / W lanes, and no other does.

    Args:
        counts: rows of each unit, (U,). lanes: K, how many units are open at a time.

    >>> order = Lanes(torch.tensor([3, 3, 2, 2]), lanes=2, batch_size=4, seed=0)
    >>> sorted(torch.cat([order(i) for i in range(3)]).tolist()) == list(range(10))
    True
    """

    def __init__(self, counts: Tensor, lanes: int, batch_size: int, seed: int):
        super().__init__(int(counts.sum()), batch_size, seed, torch.device("cpu"))
        self.counts, self.lanes = counts, lanes
        self._first = counts.cumsum(0) - counts
        self._inside: OrderedDict[int, Tensor] = OrderedDict()

    def __call__(self, step: int) -> Tensor:
        epoch, i = divmod(step, self.batches)
        if epoch != self._epoch:
            self._units = torch.randperm(len(self.counts), generator=self._generator(epoch, 0))
            self._ends = self.counts[self._units].cumsum(0)
            self._epoch = epoch
            self._inside.clear()
        p = torch.arange(i * self.batch_size, min(self.rows, (i + 1) * self.batch_size))
        lane, length, longer = p % self.lanes, self.rows // self.lanes, self.rows % self.lanes
        # Where the lanes do not come out even, the first ones are longer by one row.
        along = lane * length + lane.clamp(max=longer) + p // self.lanes
        slot = torch.searchsorted(self._ends, along, right=True)
        unit = self._units[slot]
        place = along - (self._ends[slot] - self.counts[unit])
        found = torch.empty_like(p)
        for one in dict.fromkeys(unit.tolist()):
            here = unit == one
            found[here] = self._first[one] + self._shuffled(epoch, one)[place[here]]
        return found

    def _shuffled(self, epoch: int, unit: int) -> Tensor:
        """The rows inside of a unit in this epoch's order; those of open units are kept."""
        if unit not in self._inside:
            while len(self._inside) >= 2 * self.lanes:
                self._inside.popitem(last=False)
            self._inside[unit] = torch.randperm(int(self.counts[unit]), generator=self._generator(epoch, 1 + unit))
        self._inside.move_to_end(unit)
        return self._inside[unit]

    def _generator(self, epoch: int, of: int) -> torch.Generator:
        return torch.Generator().manual_seed(((self.seed * 1_000_003 + epoch) * 1_000_000_007 + of) % 2**63)


class Share(Order):
    """A rank's own rows of every batch; the order itself is the same under any number of ranks."""

    def __init__(self, order: Order, ranks: Ranks):
        super().__init__(order.rows, order.batch_size, order.seed, order.device)
        self.order, self.ranks = order, ranks

    def __call__(self, step: int) -> Tensor:
        return self.ranks.rows(self.order(step))


def order_of(x: Tensor | Rows, batch_size: int, seed: int, ranks: Ranks | None = None) -> Order:
    """The order in which a training goes through its data: of all rows alike, or of units where they are read so."""
    if isinstance(x, Rows) and x.counts is not None:
        order: Order = Lanes(x.counts, x.lanes, batch_size, seed)
    else:
        order = Order(len(x), batch_size, seed, x.device)
    return order if ranks is None else Share(order, ranks)


class Resident:
    """Data that lie where the training is: a batch is one gather, without the host.

    Args:
        x: (N, d), in the dtype of its source; bytes stay bytes.
        orders: one, or one per replica; then a batch is (R, B, d).
    """

    def __init__(self, x: Tensor | Rows | list[Tensor], orders: list[Order], stacked: bool = False):
        self.x, self.orders, self.stacked = x, orders, stacked

    def __call__(self, step: int) -> Tensor:
        if not self.stacked:
            assert isinstance(self.x, Tensor | Rows)
            return self.x[self.orders[0](step)]
        rows = [order(step) for order in self.orders]
        if isinstance(self.x, Tensor):
            return self.x[torch.stack(rows)]
        assert isinstance(self.x, list)
        return torch.stack([x[r] for x, r in zip(self.x, rows, strict=True)])

    def close(self) -> None:
        pass


class Prefetched:
    """Data that lie elsewhere, in a memory map or in shards say: a thread gathers batches ahead of the training.

    Args:
        check: refuses bad rows when they are read, where there were too many to look at before.

    >>> x = torch.arange(10.0).reshape(5, 2)
    >>> there = Prefetched(x, [Order(5, 2, 0, torch.device("cpu"))], torch.device("cpu"))
    >>> [tuple(there(step).shape) for step in range(3)]
    [(2, 2), (2, 2), (1, 2)]
    >>> there.close()
    """

    def __init__(
        self,
        x: Tensor | Rows | list[Tensor],
        orders: list[Order],
        device: torch.device,
        stacked: bool = False,
        check: Check | None = None,
    ):
        self.source, self.device, self.check = Resident(x, orders, stacked), device, check
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self.coming: deque[tuple[int, Future]] = deque()

    def __call__(self, step: int) -> Tensor:
        if self.coming and self.coming[0][0] != step:
            for _, gathered in self.coming:  # a step is repeated
                gathered.cancel()
            self.coming.clear()
        following = self.coming[-1][0] + 1 if self.coming else step
        for ahead in range(following, step + AHEAD):
            self.coming.append((ahead, self.thread.submit(self._gather, ahead)))
        return self.coming.popleft()[1].result()

    def _gather(self, step: int) -> Tensor:
        batch = self.source(step)
        if self.check is not None:
            self._check(self.check, batch, step)
        if self.device.type != "cuda":
            return batch.to(self.device)
        # From pinned memory the copy runs beside the step before it.
        return batch.pin_memory().to(self.device, non_blocking=True)

    def _check(self, check: Check, batch: Tensor, step: int) -> None:
        x, orders = self.source.x, self.source.orders
        for run, rows in enumerate(batch if self.source.stacked else [batch]):
            of = x[run] if isinstance(x, list) else x

            def place(i: int, of: Tensor | Rows = of, order: Order = orders[run]) -> str:
                number = int(order(step)[i])
                return of.place(number) if isinstance(of, Rows) else f"row {number}"

            try:
                check(rows, place)
            except InputError as error:
                raise InputError(f"step {step}: {error}") from None

    def close(self) -> None:
        self.thread.shutdown(cancel_futures=True)


def batches_of(
    x: Tensor | Rows | Sequence[Tensor | Rows],
    orders: list[Order],
    device: torch.device,
    stacked: bool = False,
    check: Check | None = None,
) -> Resident | Prefetched:
    """Choose how batches get to the device: from it, or ahead of time from wherever they lie."""
    data: Any = x if isinstance(x, Tensor | Rows) else list(x)
    first = data[0] if isinstance(data, list) else data
    if isinstance(first, Tensor) and first.device == device and size(first) < LARGE:
        return Resident(data, orders, stacked)
    return Prefetched(data, orders, device, stacked, check)
