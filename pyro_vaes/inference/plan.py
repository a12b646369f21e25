"""What a training is told, and what it leaves behind."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyro_vaes.errors import InputError, number, whole
from pyro_vaes.inference.optimiser import BETAS, read_betas, rule

if TYPE_CHECKING:
    from pyro_vaes.inference.compile import Engine
    from pyro_vaes.inference.replicas import Replicas
    from pyro_vaes.pair import Pair


@dataclass(frozen=True)
class Plan:
    """How to train: everything that the result depends on, besides the pair and the data.

    Attributes:
        steps: optimiser steps in all, at least 1.
        batch_size: rows per step; the last batch of an epoch may be smaller.
        lr: the learning rate at the start.
        schedule: ``cosine`` (to zero at the end) or ``constant``.
        seed: of the data order and the noise.
        optimiser: ``adam`` or ``adagrad``.
        betas: Adam's two weights, in [0, 1).

    Source: ours; Kingma & Ba (2015) for Adam, Loshchilov & Hutter (2017) for the cosine.

    >>> Plan(steps=100).rate(50)
    0.0005
    """

    steps: int = 3000
    batch_size: int = 128
    lr: float = 1e-3
    schedule: str = "cosine"
    seed: int = 0
    optimiser: str = "adam"
    betas: tuple[float, float] = BETAS

    def __post_init__(self) -> None:
        whole("steps", self.steps, high=2**53)
        whole("batch_size", self.batch_size)
        if isinstance(self.lr, list | tuple) or isinstance(self.seed, list | tuple):
            raise InputError("a list of lr or seed is for replicas: give a list of pairs, or replicas")
        number("lr", self.lr, open_low=True)
        if self.schedule not in ("cosine", "constant"):
            raise InputError(f"schedule is {self.schedule!r}: it must be 'cosine' or 'constant'")
        whole("seed", self.seed, low=0)
        rule(self.optimiser, self.betas)
        # A list, as a file gives it, is the same plan.
        object.__setattr__(self, "betas", read_betas(self.betas))

    def rows(self, step: int, size: int) -> int:
        """How many of N data the batch of a step holds."""
        batch = step % math.ceil(size / self.batch_size)
        return min(self.batch_size, size - batch * self.batch_size)

    def rate(self, step: int) -> float:
        if self.schedule == "constant":
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass
class History:
    """What a run left behind.

    Attributes:
        rows: one per logged step: step, epoch, loss, bound and terms in nats per datum, lr, seconds (when the block of
            steps was looked at).
        step: steps taken in all.
        interrupted: the signal that ended the run early, or None.
        pair: what was trained.
        engine: what ran the steps; see :func:`~pyro_vaes.inference.compile.describe`.
        stopped: why its tracker ended the run early, or None; see :class:`~pyro_vaes.inference.trackers.Stopped`.

    Source: ours.

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> history = pv.fit(pair, x, steps=4, log_every=2, progress=False)
    >>> [row["step"] for row in history.rows], history.interrupted
    ([2, 4], None)
    """

    rows: list[dict[str, Any]] = field(default_factory=list, repr=False)
    step: int = 0
    interrupted: int | None = None
    pair: "Pair | None" = field(default=None, repr=False)
    engine: "Engine | Replicas | None" = field(default=None, repr=False)
    stopped: str | None = None
