"""The files of one run: metrics as they happen, and the last good checkpoint."""

import json
import math
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from pyro_vaes.data.rows import Rows, checksum
from pyro_vaes.errors import InputError, whole
from pyro_vaes.inference import checkpoint, kept
from pyro_vaes.inference.kept import CHECKPOINT as CHECKPOINT
from pyro_vaes.inference.optimiser import BETAS
from pyro_vaes.inference.plan import History, Plan
from pyro_vaes.inference.ranks import Ranks
from pyro_vaes.inference.state import state
from pyro_vaes.inference.tracing import SEEN
from pyro_vaes.inference.trackers import Guarded
from pyro_vaes.pair import Pair

METRICS = "metrics.jsonl"


class Track:
    """What belongs to one run and not to the engine: its plan, its rows, its folder.

    Args:
        pair: the run's pair. x: its data. plan: its plan.
        out: its folder, or None to write nothing.
        extra: whatever else a resumed run must have in common: schedules, augmentation.
        tracker: is handed every row, if there is one.
        ranks: the other ranks of a training; the first one writes, all of them read.
    """

    def __init__(
        self,
        pair: Pair,
        x: Tensor | Rows,
        plan: Plan,
        out: Path | None,
        extra: Mapping[str, str] | None = None,
        tracker: Guarded | None = None,
        ranks: Ranks | None = None,
    ):
        self.tracker, self.ranks = tracker, ranks
        self.writes = out is not None and (ranks is None or ranks.first)
        self.pair, self.plan, self.out, self.extra = pair, plan, out, dict(extra or {})
        self.x, self.history = x, History()
        self.metrics: BinaryIO | None = None
        self.source: str | None = None
        self.began = time.monotonic()
        self.batches = -(-len(x) // plan.batch_size)

    def read(self, name: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Read the checkpoint, if there is one, and refuse one of another run.

        Args:
            name: which; by default the newest, or the one before it where that is damaged.
        """
        if self.out is None or not kept.exists(self.out):
            return None
        if name is None:
            (tensors, values), self.source = kept.load(self.out)
        else:
            (tensors, values), self.source = checkpoint.load(self.out / name), name
        path = self.out / self.source
        identity = values.get("identity")
        if not isinstance(identity, dict):
            raise InputError(f"{path} does not say which run it belongs to")
        # What a run had before these could be chosen.
        identity = {"optimiser": "adam", "betas": list(BETAS)} | identity
        ours = self.identity()
        for key in {**ours, **identity}:
            was, value = identity.get(key), ours.get(key)
            if was != value:
                raise InputError(f"{path} belongs to another run: {key} was {was!r}, is {value!r}")
        whole(f"the step in {path}", values.get("step"), low=0, high=self.plan.steps)
        return tensors, values

    def open(self, step: int) -> None:
        """Begin, or go on after ``step``: a row after the checkpoint will be computed again."""
        self.history.step = step
        if self.out is None:
            self._tell_start(0)
            return
        rows = read_rows(self.out / METRICS)
        self.history.rows = [row for row in rows if row["step"] <= step] if step else []
        if self.ranks is not None:
            self.ranks.wait()  # until all have read
        if not self.writes:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        kept.settle(self.out, self.source if step else None)
        text = "".join(json.dumps(row) + "\n" for row in self.history.rows)
        checkpoint.write_atomically(self.out / METRICS, text.encode())
        # The clock goes on where it stood, whatever the time of day has done in between.
        self.began -= max((row["seconds"] for row in self.history.rows if _is_time(row.get("seconds"))), default=0.0)
        # Without a buffer: what a full disk has refused must not come up again when the file is closed.
        self.metrics = open(self.out / METRICS, "ab", buffering=0)  # noqa: SIM115 (closed in close)
        self._tell_start(rows[-1]["step"] if rows else 0)

    def _tell_start(self, logged: int) -> None:
        if self.tracker is not None:
            plan = {**asdict(self.plan), **self.extra, "objective": repr(self.pair.objective), "rows": len(self.x)}
            self.tracker.start(self.pair.name, plan, self.history.step, logged)

    def close(self) -> None:
        if self.metrics is not None:
            self.metrics.close()
        if self.tracker is not None:
            ends = "interrupted" if self.history.interrupted else "stopped" if self.history.stopped else "failed"
            self.tracker.finish("finished" if self.history.step == self.plan.steps else ends)

    def log(self, step: int, names: tuple[str, ...], values: list[float]) -> None:
        named = dict(zip(names, values, strict=True))
        row = {
            "step": step,
            "epoch": round(step / self.batches, 3),
            "loss": named.pop("loss"),
            "bound": named.pop("bound"),
            "terms": {name: value for name, value in named.items() if not name.startswith(SEEN)},
            "lr": self.plan.rate(step - 1),
            "seconds": round(time.monotonic() - self.began, 3),
        }
        if seen := {name.removeprefix(SEEN): value for name, value in named.items() if name.startswith(SEEN)}:
            row["seen"] = seen
        self.history.rows.append(row)
        if self.metrics is not None:
            self._write((json.dumps(row) + "\n").encode())
        if self.tracker is not None:
            self.tracker.log(row)
            self.history.stopped = self.tracker.stopped

    def _write(self, line: bytes) -> None:
        assert self.metrics is not None and self.out is not None
        try:
            while line:
                line = line[self.metrics.write(line) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.out / METRICS)) from error

    def save(self, tensors: Mapping[str, Tensor], engine: str) -> None:
        """Write the checkpoint: tensors of the optimiser and of the random generators come from the engine."""
        if self.ranks is not None:
            tensors = {**tensors, **self.ranks.states(tensors)}
        if self.out is None or not self.writes:
            return
        everything = {f"pair.{name}": tensor for name, tensor in state(self.pair).items()} | dict(tensors)
        values = {"step": self.history.step, "engine": engine, "identity": self.identity()}
        kept.save(self.out, everything, values)

    def identity(self) -> dict[str, Any]:
        shapes = {name: list(tensor.shape) for name, tensor in state(self.pair).items()}
        return {
            **asdict(self.plan),
            "betas": list(self.plan.betas),
            **self.extra,
            "objective": repr(self.pair.objective),
            "parameters": zlib.crc32(json.dumps(shapes, sort_keys=True).encode()),
            "data": list(self.x.shape),
            "data checksum": self._checksum(),
        }

    def _checksum(self) -> int:
        if not hasattr(self, "_sum"):
            self._sum = checksum(self.x)
        return self._sum


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < float("inf")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The logged steps, up to the first line that is none: one cut short by a crash is the last.

    >>> read_rows(Path("nowhere"))
    []
    """
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not _is_row(row):
            break
        rows.append(row)
    return rows


def _is_row(row: Any) -> bool:
    """Whether a line is one that :meth:`Track.log` writes: curves are drawn of it, and means taken."""
    if not isinstance(row, dict) or type(row.get("step")) is not int or not 0 <= row["step"] <= 2**53:
        return False
    terms, seen = row.get("terms"), row.get("seen", {})
    if not isinstance(terms, dict) or not isinstance(seen, dict):
        return False
    numbers = [row.get("loss"), row.get("bound"), *terms.values(), *seen.values()]
    return all(type(value) in (int, float) and math.isfinite(value) for value in numbers)
