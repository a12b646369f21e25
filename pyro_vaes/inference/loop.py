"""The loop over steps: in blocks, so that the device is asked once per block how it goes."""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_vaes.errors import InputError, number
from pyro_vaes.inference.guard import Diverged
from pyro_vaes.inference.interruption import Interruption
from pyro_vaes.inference.ranks import Ranks
from pyro_vaes.inference.schedules import Schedule, lowest
from pyro_vaes.inference.track import Track

# Steps between two looks at the device. Each look costs a synchronisation and a pass over the parameters.
BLOCK = 100


class Stepper(Protocol):
    """What the loop needs of an engine, be it one run or many replicas."""

    kind: str
    names: tuple[str, ...]
    shapes: list[Any]

    def step(self, x: Tensor) -> Tensor: ...
    def settle(self) -> None: ...
    def rates(self, rates: list[float]) -> None: ...
    def changing(self) -> list[Tensor]: ...
    def watched(self) -> list[Tensor]: ...
    def random(self) -> list[Tensor]: ...
    def set_random(self, states: list[Tensor]) -> None: ...
    def saved(self, run: int) -> dict[str, Tensor]: ...
    def diagnose(self, x: Tensor, run: int, step: int) -> None: ...


class Loop:
    """Train the runs of an engine together.

    A block is a number of steps without a look at the device. If it went wrong, everything is put back to where the
    block began and the block is repeated step by step, which costs nothing as long as nothing goes wrong, and finds
    the first bad step before it is taken.

    Args:
        engine: takes steps.
        tracks: the runs, one or as many as there are replicas.
        batches: step -> the rows of that step.
        schedules: by setting, with the tensors that it changes.
        ranks: the other ranks, each of which runs this loop on its own rows.
    """

    def __init__(
        self,
        engine: Stepper,
        tracks: list[Track],
        batches: Callable[[int], Tensor],
        schedules: Mapping[str, tuple[Schedule, list[Tensor]]],
        ranks: Ranks | None = None,
    ):
        self.ranks = ranks
        self.engine, self.tracks, self.batches, self.schedules = engine, tracks, batches, schedules
        self.plan = tracks[0].plan
        self._lowest = {name: lowest(tracks[0].pair, name) for name in schedules}

    @property
    def taken(self) -> int:
        return self.tracks[0].history.step

    @property
    def stopped(self) -> bool:
        return any(track.history.stopped for track in self.tracks)

    def block(self, end: int, wish: Interruption, log_every: int, after: Callable[[int], Any]) -> None:
        """Go on to step ``end``, or to a wish to stop."""
        first, begin = self.taken, self._snapshot()
        pending = []
        while self.taken < end and not wish.granted(self.taken):
            pending.append(self._step(self.taken))
            self._count(self.taken + 1)
            after(self.taken)
        if not pending:
            return  # the wish came while the snapshot was taken
        values = self._read(pending)
        if not self._good(values):
            last = self.taken
            self._restore(begin)
            self._count(first)
            raise self._repeat(first, last, begin, log_every)
        self.engine.settle()
        self._log(first, values, log_every)
        # The first rank alone has a tracker, which may have asked for an end.
        if self.ranks is not None and self.ranks.largest(int(self.stopped)) and not self.stopped:
            self.tracks[0].history.stopped = "by the tracker of the first rank"

    def save(self) -> None:
        for run, track in enumerate(self.tracks):
            track.save(self.engine.saved(run), self.engine.kind)

    def finish(self, last: Callable[[], bool], wish: Interruption) -> bool:
        """Do what comes once after the last step, and say whether there was anything; a wish to stop takes it back.

        It may take long, and was saved before: a scheduler that will soon kill must not wait for it.
        """
        begin = self._snapshot()
        try:
            with wish.at_once():
                return last()
        except KeyboardInterrupt:
            if wish.signal is None:
                raise
            self._restore(begin)
            return False

    def _step(self, step: int) -> Tensor:
        self.engine.rates([track.plan.rate(step) for track in self.tracks])
        self._set(step)
        if self.ranks is not None:
            self.ranks.begin(self.plan.rows(step, len(self.tracks[0].x)))
        return self.engine.step(self._rows(step))

    def _rows(self, step: int) -> Tensor:
        """The rows of a step. Ranks ask each other how it went after a block only: one whose rows cannot be read goes
        on to there with others, whose weight makes the step not finite for all."""
        try:
            return self.batches(step)
        except InputError:
            if self.ranks is None:
                raise
            return self.ranks.stand_in(self.tracks[0].x, self.plan.rows(step, len(self.tracks[0].x)))

    def _set(self, step: int) -> None:
        for name, (schedule, targets) in self.schedules.items():
            # Not a number is left to the loss, which names its site.
            value = schedule(step)
            if value < self._lowest[name]:
                number(f"the schedule of {name} at step {step}", value, self._lowest[name])
            for target in targets:
                target.fill_(value)

    def _count(self, step: int) -> None:
        for track in self.tracks:
            track.history.step = step

    def _read(self, pending: list[Tensor]) -> Tensor:
        """Statistics of a block, (steps, runs, names), on the host: the one synchronisation."""
        return torch.stack(pending).cpu().reshape(len(pending), len(self.tracks), -1)

    def _good(self, values: Tensor) -> bool:
        largest = torch._foreach_norm([t for t in self.engine.watched() if t.numel()], ord=math.inf)
        finite = bool(torch.isfinite(torch.stack([norm.double() for norm in largest])).all())
        return finite and bool(torch.isfinite(values[..., 0]).all())

    def _log(self, first: int, values: Tensor, log_every: int) -> None:
        for i, row in enumerate(values.tolist()):
            step = first + i + 1
            if step % log_every == 0 or step == self.plan.steps:
                for track, entries in zip(self.tracks, row, strict=True):
                    track.log(step, self.engine.names, entries)

    def _snapshot(self) -> tuple[list[Tensor], list[Tensor]]:
        return [t.detach().clone() for t in self.engine.changing()], self.engine.random()

    @torch.no_grad()
    def _restore(self, snapshot: tuple[list[Tensor], list[Tensor]]) -> None:
        for tensor, value in zip(self.engine.changing(), snapshot[0], strict=True):
            tensor.copy_(value)
        self.engine.set_random(snapshot[1])

    def _repeat(self, first: int, last: int, begin: tuple[list[Tensor], list[Tensor]], log_every: int) -> Diverged:
        """Repeat a bad block step by step, stop before the bad step, and say what went wrong."""
        for step in range(first, last):
            before = self._snapshot()
            values = self._read([self._step(step)])
            if self._good(values):
                self._log(step, values, log_every)
                self._count(step + 1)
                continue
            self._restore(before)
            bad = next((r for r, v in enumerate(values[0, :, 0].tolist()) if not math.isfinite(v)), 0)
            with nullcontext() if self.ranks is None else self.ranks.together():
                rows = self.batches(step)
            for run in [bad, *range(len(self.tracks))]:
                self._set(step)
                try:
                    self.engine.diagnose(rows, run, step)
                except Diverged as error:
                    return error if len(self.tracks) == 1 else Diverged(f"replica {run}: {error}")
                finally:
                    self._restore(before)
            if self.engine.kind == "eager":
                return Diverged(f"step {step}: loss and gradients are finite, but too large: the step is not")
            return Diverged(f"step {step}: not finite under the engine {self.engine.kind!r}; try engine='eager'")
        return Diverged(
            f"steps {first} to {last} were not finite, but are when repeated: the program is not reproducible"
        )
