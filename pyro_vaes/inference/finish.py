"""What an objective still has to do once, after the last step: a prior that is fitted to the codes, for instance."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from pyro_vaes.inference.densities import quietly, seed_at
from pyro_vaes.inference.tracing import prepared
from pyro_vaes.inference.track import Track

ROWS = 512


def finish(tracks: Sequence[Track], prepare: Callable[[Tensor], tuple[Tensor, ...]]) -> bool:
    """Let the objective of every run finish it, if it has a method ``finish``.

    It is called with the pair, all data as a step would see them, (x,) or (x, y), some rows at a time, and the run's
    seed. It changes tensors in place, and must be a function of what training has left, data and seed: a run that was
    cut off before or within it does it again when it is resumed, and one that was finished comes to the same.

    Returns:
        Whether there was anything to do.
    """
    found = False
    for track in tracks:
        last = _finish_of(track.pair.objective)
        if last is None:
            continue
        found = True
        with quietly(track.pair):
            seed_at(track.plan.seed)
            last(track.pair, _parts(track, prepare), track.plan.seed)
    return found


def _finish_of(objective: Any) -> Callable[..., None] | None:
    """The method of an objective, or of the one that it recycles or weighs."""
    while not hasattr(objective, "finish") and hasattr(objective, "objective"):
        objective = objective.objective
    return getattr(objective, "finish", None)


def _parts(track: Track, prepare: Callable[[Tensor], tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    device = next(track.pair.parameters()).device
    for start in range(0, len(track.x), ROWS):
        yield prepared(prepare, track.x[start : start + ROWS].to(device))
