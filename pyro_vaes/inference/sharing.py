"""An evaluation shared out over ranks: whole batches, each computed by one of them as one process would.

A batch that draws has a random stream of its own, named by its first row, so that it does not matter whose it is.
Results are put together byte by byte: what the ranks find is what one process finds, bit for bit.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_vaes.inference.memory import Chunk
from pyro_vaes.inference.ranks import Ranks, answered
from pyro_vaes.inference.state import state
from pyro_vaes.pair import Pair

ROWS = 8192


def agree(ranks: Ranks | None, pair: Pair, x: Tensor, y: Tensor | None, **arguments: Any) -> None:
    """Refuse to share out where ranks were given different pairs, data or arguments.

    Raises:
        InputError: naming the first thing that differs.
    """
    if ranks is None:
        return
    sums: dict[str, Any] = {"parameters": checksum(state(pair).values()), "x": checksum([x])}
    sums |= {"y": None if y is None else checksum([y])}
    with answered(ranks):
        ranks.agree("arguments or data", {**sums, **arguments})


def columns(
    ranks: Ranks | None,
    x: Tensor,
    rows: Chunk,
    work: Callable[[int, int], Sequence[Tensor]],
    progress: bool = False,
) -> list[Tensor]:
    """Give what ``work`` finds of every batch, put together, on every rank.

    Args:
        x: (N, ...), whose rows are shared out. rows: how many are a batch; fewer where memory runs out.
        work: first row of a batch and its rows -> tensors (B, ...), as many and of one dtype each for all batches.

    Returns:
        Tensors (N, ...), where x lies.

    >>> columns(None, torch.arange(5), Chunk("rows", 2), lambda start, count: [torch.arange(5)[start : start + count]])
    [tensor([0, 1, 2, 3, 4])]
    """
    from tqdm import tqdm

    starts, size = range(0, len(x), rows.size), rows.size
    parts: dict[int, Sequence[Tensor]] = {}
    with tqdm(total=len(x), unit="datum", disable=not progress or not (ranks is None or ranks.first)) as bar:

        def one(start: int, count: int) -> None:
            parts[start] = work(start, count)
            bar.update(count * (1 if ranks is None else ranks.count))

        def after(first: int, start: int, count: int) -> None:
            one(first + start, count)

        if ranks is None:
            rows.over(len(x), one)
            return [torch.cat(column) for column in zip(*parts.values(), strict=True)]
        with answered(ranks), ranks.together():
            for first in starts[ranks.rank :: ranks.count]:
                rows.over(min(size, len(x) - first), partial(after, first))
    with answered(ranks):
        # There is always a first batch, and it is the first rank's.
        like = [[str(c.dtype).removeprefix("torch."), c.shape[1:]] for c in parts[0]] if ranks.first else ""
        kinds = json.loads(ranks.words(json.dumps(like))[0])
        return [_whole(ranks, x, i, kind, parts) for i, kind in enumerate(kinds)]


def _whole(ranks: Ranks, x: Tensor, i: int, kind: list[Any], parts: dict[int, Sequence[Tensor]]) -> Tensor:
    """One column on all ranks: each puts its rows between zeros, and the sum of their bytes is all rows."""
    found = torch.zeros(len(x), *kind[1], dtype=getattr(torch, kind[0]), device=ranks.device)
    for start, tensors in parts.items():
        found[start : start + len(tensors[i])] = tensors[i]
    return ranks.sum(found.reshape(-1).view(torch.uint8)).view(found.dtype).reshape(found.shape).to(x.device)


def in_order(
    ranks: Ranks, count: int, work: Callable[[int], Tensor], size: Callable[[int], int]
) -> Iterator[tuple[int, Tensor]]:
    """Let ranks work on pieces in turn, and give every piece to the first, in order; to the others nothing.

    Only as many pieces as there are ranks exist at a time.

    Args:
        work: piece -> its bytes, (n,) uint8. size: piece -> n.
    """
    for begin in range(0, count, ranks.count):
        mine = begin + ranks.rank
        with answered(ranks), ranks.together():
            found = work(mine) if mine < count else torch.empty(0)
        if ranks.first:
            yield begin, found
            for piece in range(begin + 1, min(begin + ranks.count, count)):
                with answered(ranks):
                    found = torch.empty(size(piece), dtype=torch.uint8, device=ranks.device)
                    torch.distributed.recv(found, piece - begin)
                yield piece, found.cpu()
        elif mine < count:
            with answered(ranks):
                torch.distributed.send(found.to(ranks.device), 0)


def checksum(tensors: Iterable[Tensor]) -> int:
    """Of all bytes, read in chunks so that a memory map is never copied whole."""
    found = 0
    for tensor in tensors:
        for rows in tensor.detach().reshape(len(tensor) if tensor.dim() else 1, -1).split(ROWS):
            found = zlib.crc32(rows.contiguous().cpu().reshape(-1).view(torch.uint8).numpy(), found)
    return found
