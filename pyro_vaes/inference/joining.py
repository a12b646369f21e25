"""Before the first step on several ranks: are they told the same, and can their gradients be averaged?"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pyro_vaes.errors import InputError
from pyro_vaes.inference.ranks import Ranks
from pyro_vaes.inference.rows import declared, separable
from pyro_vaes.inference.state import state
from pyro_vaes.inference.tracing import prepared
from pyro_vaes.inference.track import Track

Prepare = Callable[[Tensor], tuple[Tensor, ...]]
ROWS = 4


def joined(
    ranks: Ranks, track: Track, prepare: Prepare, before: tuple[Any, dict[str, Any]] | None, kind: str, reason: str
) -> tuple[str, str]:
    """Let all ranks start from the first one's parameters, and give the engine that they run.

    Args:
        before: the checkpoint that this rank has read, if any. kind, reason: the engine that one process would run.

    Raises:
        InputError: if ranks were told different things, if rows of a batch meet where nothing lets them meet across
            ranks, or if they do and the ranks would have different numbers of them.
    """
    ranks.agree("settings or data", track.identity())
    ranks.agree("checkpoints", {"step": None if before is None else before[1]["step"], "engine": kind})
    ranks.share_out([*state(track.pair).values()])
    if not declared(track.pair):
        _check_apart(track, prepare)
        return kind, reason
    _check_equal(ranks, track)
    return "eager", f"rows of a batch meet in {track.pair.name}, across ranks"


def _check_apart(track: Track, prepare: Prepare) -> None:
    """Refuse a pair whose rows meet without its saying so."""
    half = min(ROWS, len(track.x) // 2)
    device = next(track.pair.parameters()).device
    rows = prepared(prepare, track.x[: 2 * half].to(device))
    if half and not separable(track.pair, *rows):
        raise InputError(
            f"the loss of {track.pair.name} on a batch is not the mean of its losses on the halves: rows meet in it, "
            "and several ranks would train something else. Ask for all rows with everyone() and average(), and say "
            "meets = True in the objective"
        )


def _check_equal(ranks: Ranks, track: Track) -> None:
    batch, rows = track.plan.batch_size, len(track.x)
    for size in (min(batch, rows), rows % batch):
        if size % ranks.count:
            raise InputError(
                f"a batch of {size} ({rows} data, {batch} per step) on {ranks.count} ranks: rows of a batch meet in "
                f"{track.pair.name}, so every rank must have as many; choose batch_size or leave out "
                f"{size % ranks.count} data"
            )
