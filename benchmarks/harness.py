"""Measuring side by side: slices of steps, interleaved, so that what else the machine does hits everyone alike."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from tqdm import tqdm

from benchmarks.peers import Absent, Peer


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    Attributes:
        repetitions: of the round through all rows. seconds: that a slice of one row should take. warm: steps before
            the length of a slice is chosen, and again to choose it.
    """

    repetitions: int
    seconds: float
    warm: int = 3


class Runner(Protocol):
    """Anything that trains and can be timed."""

    def first(self) -> float:
        """Set everything up, take the first step, and give the seconds of both."""

    def run(self, steps: int) -> float:
        """Take steps and give the seconds that one took."""

    def close(self) -> None:
        """Let go of what was held."""


class Local:
    """A peer of this process."""

    peer: Peer

    def __init__(self, make: Callable[[], Peer], device: torch.device):
        self.make, self.cuda = make, device.type == "cuda"

    def first(self) -> float:
        began = time.perf_counter()
        self.peer = self.make()
        self.run(1)
        return time.perf_counter() - began

    def run(self, steps: int) -> float:
        with self.peer.around():
            self._wait()
            began = time.perf_counter()
            for _ in range(steps):
                self.peer.step()
            self._wait()
            return (time.perf_counter() - began) / steps

    def close(self) -> None:
        self.__dict__.pop("peer", None)

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


@dataclass
class Row:
    """What is known of one implementation.

    Attributes:
        runner: takes its steps. first: seconds of the first step, tracing and compilation included. steps: per slice.
        times: seconds per step, one per repetition.
    """

    runner: Runner
    first: float = 0.0
    steps: int = 1
    times: list[float] = field(default_factory=list)


def measure(
    makers: dict[str, Callable[[], Runner]],
    effort: Effort,
    bar: tqdm,
) -> tuple[dict[str, Row], dict[str, str]]:
    """Make every implementation, then time a slice of each in turn, again and again, each round in another order.

    Args:
        makers: label -> makes the implementation; raises :class:`~benchmarks.peers.Absent` if it cannot.
        bar: moved by one for each label and for each slice (see :func:`ticks`).

    Returns:
        the rows measured, and why the others were not.
    """
    rows: dict[str, Row] = {}
    absent: dict[str, str] = {}
    for name, make in makers.items():
        bar.set_postfix_str(f"making {name}")
        try:
            rows[name] = _ready(make, effort)
        except Exception as error:  # a peer that breaks must not take the others with it
            absent[name] = _reason(error)
        bar.update(1 if name in rows else 1 + effort.repetitions)
    try:
        for repetition in range(effort.repetitions):
            for name in turn(list(rows), repetition):
                bar.set_postfix_str(name)
                try:
                    rows[name].times.append(rows[name].runner.run(rows[name].steps))
                except Absent as error:
                    absent[name] = _reason(error)
                    rows.pop(name).runner.close()
                bar.update()
    finally:
        for row in rows.values():
            row.runner.close()
    return rows, absent


def ticks(labels: int, effort: Effort) -> int:
    """How far :func:`measure` moves the bar."""
    return labels * (1 + effort.repetitions)


def turn(names: Sequence[str], repetition: int) -> list[str]:
    """Rotate, and go backwards every other time: nobody is always first, or always after the same neighbour.

    >>> turn("abc", 0), turn("abc", 1)
    (['a', 'b', 'c'], ['a', 'c', 'b'])
    """
    start = repetition % max(1, len(names))
    order = [*names[start:], *names[:start]]
    return order if repetition % 2 == 0 else order[::-1]


def _ready(make: Callable[[], Runner], effort: Effort) -> Row:
    """Make a row, take its first step, warm it up and choose the length of its slices."""
    runner = make()
    try:
        row = Row(runner, first=runner.first())
        runner.run(effort.warm)
        row.steps = max(1, round(effort.seconds / runner.run(effort.warm)))
        runner.run(row.steps)  # a scan is compiled for its length
    except BaseException:
        runner.close()
        raise
    return row


def _reason(error: Exception) -> str:
    """The error in one line, without the folders of this machine."""
    text = " ".join(str(error).split())
    for folder in (f"{Path.cwd()}/", f"{sys.prefix}/"):
        text = text.replace(folder, "")
    return text[:200] if isinstance(error, Absent) else f"{type(error).__name__}: {text[:200]}"
