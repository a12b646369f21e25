"""The one training loop. It knows no variant."""

import json
import math
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from pyro_vaes.errors import InputError, number, whole
from pyro_vaes.inference import checkpoint
from pyro_vaes.inference.guard import (
    Diverged,
    Interruption,
    as_batch,
    check_data,
    check_gradients,
    check_loss,
    rehearse,
)
from pyro_vaes.inference.state import adam_state, load_state, state
from pyro_vaes.pair import Pair

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Plan:
    """How to train: everything that the result depends on, besides the pair and the data.

    Attributes:
        steps: optimiser steps in all, at least 1.
        batch_size: rows per step; the last batch of an epoch may be smaller.
        lr: Adam's learning rate at the start.
        schedule: ``cosine`` (to zero at the end) or ``constant``.
        seed: of the data order and the noise.

    >>> Plan(steps=100).rate(50)
    0.0005
    """

    steps: int = 3000
    batch_size: int = 128
    lr: float = 1e-3
    schedule: str = "cosine"
    seed: int = 0

    def __post_init__(self) -> None:
        whole("steps", self.steps, high=2**53)
        whole("batch_size", self.batch_size)
        number("lr", self.lr, open_low=True)
        if self.schedule not in ("cosine", "constant"):
            raise InputError(f"schedule is {self.schedule!r}: it must be 'cosine' or 'constant'")
        whole("seed", self.seed, low=0)

    def rate(self, step: int) -> float:
        if self.schedule == "constant":
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass
class History:
    """What a run left behind.

    Attributes:
        rows: one per logged step: step, epoch, loss, bound and terms in nats per datum, lr, seconds.
        step: steps taken in all.
        interrupted: the signal that ended the run early, or None.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    interrupted: int | None = None


def fit(
    pair: Pair,
    x: Tensor,
    *,
    steps: int = 3000,
    batch_size: int = 128,
    lr: float = 1e-3,
    schedule: str = "cosine",
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int = 500,
    log_every: int = 20,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
) -> History:
    """Train a pair on data with Adam.

    Args:
        pair: any pair; its parameters change in place, and live where the data live.
        x: (N, d), in the pair's range, or uint8 pixels; on the device to train on.
        steps, batch_size, lr, schedule, seed: see :class:`Plan`.
        out: folder for ``metrics.jsonl`` (as it happens) and ``checkpoint.safetensors``; None writes nothing.
        resume: go on from the checkpoint in ``out``, if there is one, bit for bit as if never interrupted.
        checkpoint_every, log_every: in steps.
        progress: show a bar.
        on_step: called with the number of steps taken, after each.

    Raises:
        InputError: for bad data, a bad plan, a folder that holds a checkpoint already (without ``resume``), or a
            checkpoint that belongs to another plan, pair or data.
        Diverged: for a loss or gradient that is not finite, before the step is taken; it names the site. The last
            good checkpoint stays.

    Ctrl-C and SIGTERM end the run after the current step, with a checkpoint.

    >>> from pyro_vaes.variants import l2_vae
    >>> _ = torch.manual_seed(0)
    >>> fit(l2_vae(4, 2, (8,)), torch.rand(20, 4), steps=3, progress=False).step
    3
    """
    plan = Plan(steps, batch_size, lr, schedule, seed)
    check_data(pair, x)
    if resume and out is None:
        raise InputError("resume needs the run folder: give out")
    if out is not None and not resume and (Path(out) / CHECKPOINT).exists():
        raise InputError(f"{out} already holds a checkpoint: resume it, or name another folder")
    whole("checkpoint_every", checkpoint_every)
    whole("log_every", log_every)
    rehearse(pair, x)
    # Noise is drawn from the global generator, which the caller gets back as it was.
    with _naming(out), torch.random.fork_rng(), pyro.validation_enabled(False), Interruption() as wish:
        loop = _Loop(pair.to(x.device).train(), x, plan, Path(out) if out is not None else None)
        loop.start(resume)
        began = loop.history.step
        bar = tqdm(total=steps, initial=loop.history.step, desc=pair.name, disable=not progress, leave=False)
        with bar, loop:
            while loop.history.step < steps and wish.signal is None:
                loop.step(log_every)
                bar.update()
                if out is not None and loop.history.step % checkpoint_every == 0:
                    loop.save()
                if on_step is not None:
                    on_step(loop.history.step)
            loop.history.interrupted = wish.signal
            if loop.history.step > began:
                loop.save()
    pair.eval()
    return loop.history


@contextmanager
def _naming(out: str | Path | None) -> Iterator[None]:
    """Say with a divergence which good checkpoint is left."""
    try:
        yield
    except Diverged as error:
        there = out is not None and (Path(out) / CHECKPOINT).exists()
        kept = f"the checkpoint in {out} is from before it" if there else "there is no checkpoint from before it"
        raise Diverged(f"{error}; {kept}") from None


class _Loop:
    """The state of one run: what a checkpoint holds."""

    def __init__(self, pair: Pair, x: Tensor, plan: Plan, out: Path | None):
        self.pair, self.x, self.plan, self.out = pair, x, plan, out
        self.adam = torch.optim.Adam(pair.parameters(), lr=plan.lr, fused=True)
        self.history = History()
        self.batches = math.ceil(len(x) / plan.batch_size)
        self.epoch, self.order = -1, torch.empty(0)
        self.metrics: TextIO | None = None
        self.began = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        if self.metrics is not None:
            self.metrics.close()

    def start(self, resume: bool) -> None:
        torch.manual_seed(self.plan.seed)
        if self.out is None:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        if resume and (self.out / CHECKPOINT).exists():
            self._restore()
        # A row after the checkpoint will be computed again.
        rows = _read_rows(self.out / METRICS) if resume else []
        self.history.rows = [row for row in rows if row["step"] <= self.history.step]
        text = "".join(json.dumps(row) + "\n" for row in self.history.rows)
        checkpoint.write_atomically(self.out / METRICS, text.encode())
        self.metrics = open(self.out / METRICS, "a", buffering=1)  # noqa: SIM115 (closed in __exit__)

    def step(self, log_every: int) -> None:
        taken = self.history.step
        for group in self.adam.param_groups:
            group["lr"] = self.plan.rate(taken)
        self.adam.zero_grad()
        loss = self.pair(self._batch(taken), size=len(self.x))
        check_loss(loss, taken)
        loss.total.backward()
        check_gradients(self.pair, taken)
        self.adam.step()
        self.history.step = taken + 1
        if self.history.step % log_every == 0 or self.history.step == self.plan.steps:
            self._log(loss)

    def save(self) -> None:
        if self.out is None:
            return
        tensors = {f"pair.{name}": tensor for name, tensor in state(self.pair).items()}
        for i, moments in self.adam.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{key}": value for key, value in moments.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.x.is_cuda:
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.x.device)
        checkpoint.save(self.out / CHECKPOINT, tensors, {"step": self.history.step, "identity": self._identity()})

    def _restore(self) -> None:
        assert self.out is not None
        path = self.out / CHECKPOINT
        tensors, values = checkpoint.load(path)
        identity = values.get("identity")
        if not isinstance(identity, dict):
            raise InputError(f"{path} does not say which run it belongs to")
        for key, value in self._identity().items():
            if identity.get(key) != value:
                raise InputError(f"{path} belongs to another run: {key} was {identity.get(key)!r}, is {value!r}")
        step = whole(f"the step in {path}", values.get("step"), low=0, high=self.plan.steps)
        moments = adam_state(self.adam, tensors, path)
        random, now = tensors.get("random.cpu"), torch.get_rng_state()
        if random is None or random.dtype != now.dtype or random.shape != now.shape:
            raise InputError(f"{path} has no usable state of the random generator")
        # Nothing has changed up to here, so that a bad checkpoint leaves everything as it was.
        load_state(self.pair, tensors, path)
        self.adam.load_state_dict({"state": moments, "param_groups": self.adam.state_dict()["param_groups"]})
        torch.set_rng_state(random)
        if self.x.is_cuda and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], self.x.device)
        self.history.step = step

    def _batch(self, step: int) -> Tensor:
        epoch, i = divmod(step, self.batches)
        if epoch != self.epoch:
            # The order of an epoch follows from seed and epoch alone, so a resumed run finds its place.
            generator = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + epoch)
            self.order = torch.randperm(len(self.x), generator=generator).to(self.x.device)
            self.epoch = epoch
        return as_batch(self.x[self.order[i * self.plan.batch_size : (i + 1) * self.plan.batch_size]])

    def _log(self, loss) -> None:
        step = self.history.step
        row = {
            "step": step,
            "epoch": round(step / self.batches, 3),
            "loss": loss.total.item(),
            "bound": loss.bound.item(),
            "terms": {name: term.item() for name, term in loss.terms.items()},
            "lr": self.plan.rate(step - 1),
            "seconds": round(time.monotonic() - self.began, 3),
        }
        self.history.rows.append(row)
        if self.metrics is not None:
            self.metrics.write(json.dumps(row) + "\n")

    def _identity(self) -> dict[str, Any]:
        shapes = {name: list(tensor.shape) for name, tensor in state(self.pair).items()}
        return {
            **asdict(self.plan),
            "objective": repr(self.pair.objective),
            "parameters": zlib.crc32(json.dumps(shapes, sort_keys=True).encode()),
            "data": list(self.x.shape),
            "data checksum": _checksum(self.x),
        }


def _read_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            break  # a line cut short by a crash is the last one
        if not (isinstance(row, dict) and isinstance(row.get("step"), int) and isinstance(row.get("bound"), float)):
            break
        rows.append(row)
    return rows


def _checksum(x: Tensor) -> int:
    """A checksum of all rows, read in chunks so that a memory map is never copied whole."""
    total = 0
    for start in range(0, len(x), 8192):
        total = zlib.crc32(x[start : start + 8192].contiguous().detach().cpu().numpy().tobytes(), total)
    return total
