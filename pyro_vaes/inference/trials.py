"""What the trials of a sweep have in common: the rows they train on, and those they are judged by."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyro
import torch
from torch import Tensor

from pyro_vaes.data.augment import augmentation
from pyro_vaes.data.held_out import split_rows
from pyro_vaes.data.rows import Rows
from pyro_vaes.errors import InputError, unknown, whole
from pyro_vaes.inference.guard import as_batch, check_condition
from pyro_vaes.inference.optimiser import suited
from pyro_vaes.inference.posterior import bound, clean
from pyro_vaes.inference.run import build
from pyro_vaes.inference.trackers import read_tracker
from pyro_vaes.pair import Pair

METRICS: dict[str, Literal["maximize", "minimize"]] = {"bound": "maximize", "loss": "minimize", "rmse": "minimize"}


@dataclass
class Task:
    """What all trials of a sweep have in common."""

    target: str | Callable[..., Pair]
    rows: tuple[Tensor, Tensor | None]
    held: tuple[Tensor, Tensor | None]
    truth: Tensor | None
    metric: str
    arguments: dict[str, Any]
    plan: dict[str, Any]
    options: dict[str, Any]

    def pair(self, own: Mapping[str, Any]) -> Pair:
        return build(self.target, self.rows[0].shape[1], {**self.arguments, **own}, self.plan["seed"])

    def plan_of(self, own: Mapping[str, Any], pair: Pair) -> dict[str, Any]:
        """The plan of a trial; betas that suit its objective, unless they are given."""
        plan = {**self.plan, **own}
        return plan | {"betas": plan["betas"] or suited(pair.objective, plan["optimiser"])}

    def value(self, pair: Pair) -> float:
        """The metric on the held-out rows, where the pair is; its mode and the noise stay as they are."""
        training, where = pair.training, next(pair.parameters()).device
        x, y = (None if t is None else t.to(where) for t in self.held)
        assert x is not None
        try:
            if self.metric == "bound":
                return bound(pair, x, y, seed=self.plan["seed"])
            if self.metric == "loss":
                return _loss(pair, x, y, self.plan["seed"])
            assert self.truth is not None
            cleaned = clean(pair, x, y, draws=2, seed=self.plan["seed"]).mean.cpu()
            return float((cleaned - as_batch(self.truth)).square().mean().sqrt())
        finally:
            pair.train(training)


def task_of(
    target: Any, x: Any, y: Any, truth: Any, metric: str, held_out: float, arguments: dict, plan: dict, options: dict
) -> Task:
    """Split the rows, and draw once what is drawn anew at every step of training."""
    if metric not in METRICS:
        raise unknown("metric", str(metric), list(METRICS))
    for what, rows in {"x": x, **({} if truth is None else {"truth": truth})}.items():
        if isinstance(rows, Rows):
            raise InputError(
                f"{what} is {rows!r}, which only one training reads: a sweep takes rows in memory, a tensor"
            )
        if not isinstance(rows, Tensor) or rows.dim() != 2:
            raise InputError(f"{what} must be a tensor of shape (N, d)")
    if metric == "rmse" and (truth is None or truth.shape != x.shape):
        raise InputError("metric rmse needs the clean data, as many as the dirty ones: make them dirty with corrupt")
    if y is not None and (not isinstance(y, Tensor) or len(y) != len(x)):
        raise InputError(f"y must be a tensor of {len(x)} conditions")
    if options["tracker"] is not None:
        read_tracker(options["tracker"])
    first, kept = split_rows(len(x), held_out, whole("seed", plan["seed"], low=0))
    fresh, held = augmentation(options["augment"]), x[kept]
    if fresh is not None:
        with torch.random.fork_rng():
            torch.manual_seed(plan["seed"])
            held = fresh(as_batch(held))
    conditions = (None, None) if y is None else (y[first], y[kept])
    clean_rows = truth[kept] if metric == "rmse" else None
    return Task(target, (x[first], conditions[0]), (held, conditions[1]), clean_rows, metric, arguments, plan, options)


def _loss(pair: Pair, x: Tensor, y: Tensor | None, seed: int) -> float:
    """The mean of what is minimised, as :func:`~pyro_vaes.inference.posterior.bound` takes that of the bound."""
    y = check_condition(pair, x, y)
    pair.eval()
    total = 0.0
    with torch.random.fork_rng(), torch.no_grad(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        for start in range(0, len(x), 512):
            rows = slice(start, start + 512)
            batch = as_batch(x[rows])
            total += pair(batch, None if y is None else y[rows]).total.item() * len(batch)
    return total / len(x)


def checksum(x: Tensor) -> int:
    """A number that other data would not give, read in chunks."""
    found = 0
    for start in range(0, len(x), 8192):
        found = zlib.crc32(x[start : start + 8192].contiguous().detach().cpu().numpy().tobytes(), found)
    return found
