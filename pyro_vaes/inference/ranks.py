"""Many processes as one: each computes on its share of a batch, and what they found is averaged.

Processes, devices and their connections are Lightning Fabric's, on ``torch.distributed``. This file says what a
*step* needs of the other ranks: which rows are whose, and the mean of what each found. A pair and its objective are
the same under any number of ranks.

**W ranks of b rows are one process of W b.** Every rank computes the mean over its rows, with the plate as large as
the whole data set, so that the mean of the ranks' gradients, weighted by their rows, is the gradient of the whole
batch. That holds where the rows of a batch do not meet. Where they do, they meet across ranks: the codes of an MMD,
the moments of a batch norm, the entries of free bits and the accuracy of a discriminator are those of all rows
(:mod:`~pyro_vaes.meeting`); for such a pair the engine is ``eager``. Whether rows meet is found out on two
batches before the first step (:mod:`~pyro_vaes.inference.rows`), for one's own pair too.
"""

import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vaes.errors import InputError, said

if TYPE_CHECKING:
    from pyro_vaes.inference.compile import Engine

# Steps between two questions whether any rank was asked to stop.
ASK = 10
WORDS = 512
# What torch.distributed says then; the rest of its words are of files and lines of its own.
SIGNS = ("closed by peer", "reset by peer", "broken pipe", "timed out", "timeout", "connection refused", "nccl", "gloo")


class RankLost(RuntimeError):
    """Another rank has gone, or does not answer; what was computed since the last checkpoint is lost.

    Source: ours.

    >>> import pyro_vaes as pv
    >>> issubclass(pv.RankLost, RuntimeError)
    True
    """


class Ranks:
    """The other ranks of a training, as one of them sees them.

    Args:
        fabric: a launched Fabric, of the strategy ``ddp`` or one of its kind.

    Attributes:
        rank, count: which of how many. device: where this one trains.
    """

    def __init__(self, fabric: Any):
        self.fabric, self.rank, self.count = fabric, fabric.global_rank, fabric.world_size
        self.device = fabric.device
        self.weight = 1.0
        self._seen: set[tuple[bool, ...]] = set()

    @classmethod
    def of(cls, fabric: Any) -> "Ranks | None":
        """Read what a fit was given; None for one process.

        Raises:
            InputError: for something else than a launched Fabric, or a strategy that shares out the parameters.
        """
        if fabric is None:
            return None
        if not all(hasattr(fabric, name) for name in ("all_reduce", "global_rank", "world_size", "strategy")):
            raise InputError(f"fabric is {said(fabric)}: it must be a lightning_fabric.Fabric")
        if fabric.world_size == 1:
            return None
        kind = type(fabric.strategy).__name__
        if kind != "DDPStrategy":
            raise InputError(f"fabric has the strategy {kind}: it must be ddp, in which every rank has all parameters")
        if not torch.distributed.is_initialized():
            raise InputError(f"fabric has {fabric.world_size} ranks that are not launched: call fabric.launch()")
        return cls(fabric)

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def rows(self, rows: Tensor) -> Tensor:
        """This rank's rows of a batch: every W-th; a batch of fewer rows than ranks leaves some without, who compute
        on a row that does not count."""
        mine = rows[self.rank :: self.count]
        return mine if len(mine) else rows[:1]

    def begin(self, rows: int) -> None:
        """Say how many rows the batch of the next step has in all."""
        self.weight = len(range(self.rank, rows, self.count)) / rows

    def stand_in(self, x: Any, rows: int) -> Tensor:
        """As many rows as this rank has of a batch that it could not read, of zeros; no rank's mean is finite then."""
        self.weight = math.nan
        return torch.zeros(
            max(1, len(range(self.rank, rows, self.count))), x.shape[1], dtype=x.dtype, device=self.device
        )

    def mean(self, gradients: Sequence[Tensor | None], stats: Tensor) -> tuple[list[Tensor | None], Tensor]:
        """Average gradients and statistics over the ranks, each weighted by its rows, in one message per dtype."""
        self._same(tuple(g is not None for g in gradients))
        found = [*(None if g is None else g.to_dense() if g.is_sparse else g for g in gradients), stats]
        for dtype in {g.dtype for g in found if g is not None}:
            which = [i for i, g in enumerate(found) if g is not None and g.dtype == dtype]
            one = torch.cat([found[i].reshape(-1) for i in which]) * self.weight  # type: ignore[union-attr]
            one = self.sum(one)
            parts = one.split([found[i].numel() for i in which])  # type: ignore[union-attr]
            for i, part in zip(which, parts, strict=True):
                found[i] = part.reshape(found[i].shape)  # type: ignore[union-attr]
        return found[:-1], found[-1]  # type: ignore[return-value]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, on each of them."""
        # A copy: the message comes back in the memory that it was sent from.
        return self.fabric.all_reduce(tensor.detach().clone(), reduce_op="sum")

    def gather(self, tensor: Tensor) -> Tensor:
        """Tensors of one shape from every rank, (W, ...), in the order of the ranks."""
        own = tensor.to(self.device)
        every = own.new_zeros(self.count, *own.shape)
        every[self.rank] = own
        return self.sum(every)

    def wait(self) -> None:
        """Until all ranks are here."""
        self.gather(torch.zeros(1))

    def largest(self, value: int) -> int:
        return int(self.gather(torch.tensor([value])).max())

    def share_out(self, tensors: Sequence[Tensor]) -> None:
        """Give every rank the first one's values."""
        with torch.no_grad():
            for tensor in tensors:
                torch.distributed.broadcast(tensor.detach(), 0)

    def agree(self, what: str, values: dict[str, Any]) -> None:
        """Refuse to go on where ranks were told different things.

        Raises:
            InputError: naming the first thing in which a rank differs from the first.
        """
        sums = torch.tensor([zlib.crc32(json.dumps(value, sort_keys=True).encode()) for value in values.values()])
        every = self.gather(sums).cpu()
        for name, column in zip(values, every.T, strict=True):
            other = (column != column[0]).nonzero().flatten().tolist()
            if other:
                raise InputError(f"ranks 0 and {other[0]} have different {what}: {name}")

    def words(self, text: str) -> list[str]:
        """What each rank has to say, in one line each."""
        own = torch.zeros(WORDS, dtype=torch.uint8)
        code = text.encode()[:WORDS]
        own[: len(code)] = torch.tensor(list(code), dtype=torch.uint8)
        return [bytes(row[row > 0].tolist()).decode(errors="ignore") for row in self.gather(own).cpu()]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let all ranks raise what one of them found: it names the site, and is told everywhere."""
        found: ArithmeticError | InputError | None = None
        try:
            yield
        except (ArithmeticError, InputError) as error:
            found = error
        refused = isinstance(found, InputError)
        told = self.words("" if found is None else f"{'refused' if refused else 'found'} {found}")
        which = next((r for r, text in enumerate(told) if text), None)
        if which is not None:
            from pyro_vaes.inference.guard import Diverged

            kind, _, text = told[which].partition(" ")
            raise (InputError if kind == "refused" else Diverged)(f"rank {which}: {text}") from None

    def states(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The states of the other ranks' random generators, by the name of this one's and their rank."""
        found: dict[str, Tensor] = {}
        for name in [name for name in tensors if name.startswith("random.")]:
            every = self.gather(tensors[name]).cpu()
            found |= {f"{name}@{rank}": every[rank] for rank in range(1, self.count)}
        return found

    def noise(self, step: int, seed: int, tensors: Mapping[str, Tensor], engine: "Engine") -> None:
        """Give this rank noise of its own: what it had at a checkpoint, or for a rank that was not there a new one."""
        if not self.rank:
            return
        names = [f"{name}@{self.rank}" for name in engine.saved() if name.startswith("random.")]
        if all(name in tensors for name in names):
            engine.set_random([tensors[name] for name in names])
        else:
            # Of the step too: a rank that comes later must not repeat what another has drawn from the same seed.
            torch.manual_seed(seed + self.rank + 1_000_003 * step)

    def _same(self, there: tuple[bool, ...]) -> None:
        """A parameter that has a gradient on some ranks only would shift all that come after it in a message."""
        if there in self._seen:
            return
        every = self.gather(torch.tensor([*there], dtype=torch.uint8)).cpu()
        if bool((every != every[0]).any()):
            raise InputError("a parameter has a gradient on some ranks only: let the loss depend on it in every batch")
        self._seen.add(there)


@contextmanager
def answered(ranks: Ranks | None) -> Iterator[None]:
    """Say in words that another rank has gone.

    Raises:
        RankLost: for what ``torch.distributed`` raises then.
    """
    try:
        yield
    except RuntimeError as error:
        found = next((sign for sign in SIGNS if sign in str(error).lower()), None)
        if ranks is None or found is None:
            raise
        raise RankLost(f"rank {ranks.rank} stops: another rank has gone, or does not answer ({found})") from error
